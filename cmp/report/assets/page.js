"use strict";
// Draws the figures, sorts the table, and keeps the reader's place when the page reads itself again.
(function () {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const memory = recall();
  const shown = {}; // plot id -> name of the variant that is drawn
  const boxes = {}; // plot id -> what was dragged over its axes

  // -- the reader's place ------------------------------------------------------------------------------------------
  function key() { return "cmp-report:" + location.pathname; }
  function recall() {
    try { return JSON.parse(sessionStorage.getItem(key())) || {}; } catch { return {}; }
  }
  function remember(change) {
    Object.assign(memory, change);
    try { sessionStorage.setItem(key(), JSON.stringify(memory)); } catch { /* private window: the place is lost */ }
  }

  // -- figures -----------------------------------------------------------------------------------------------------
  function coloured(value) { // "@accent" -> the colour that the style sheet gives it now
    if (typeof value === "string") {
      return value[0] === "@" ? getComputedStyle(document.documentElement).getPropertyValue("--" + value.slice(1)).trim() : value;
    }
    if (Array.isArray(value)) return value.length > 3 && typeof value[0] === "number" ? value : value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item)]));
    }
    return value;
  }
  function commonLayout(node) {
    const narrow = node.clientWidth < 480, small = node.clientHeight < 260;
    const axis = { gridcolor: "@grid", linecolor: "@line", zeroline: false, tickfont: { size: 11 }, automargin: true,
                   title: { font: { size: 12 }, standoff: 8 } };
    return coloured({
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "@muted" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "closest",
      margin: small ? { l: 44, r: 8, t: 8, b: 32 } : { l: 56, r: 12, t: 44, b: 44 },
      xaxis: axis, yaxis: axis,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "top", yref: "container", font: { size: narrow ? 11 : 12 },
                itemsizing: "constant" },
      hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@ink", size: 12 }, align: "left" },
    });
  }
  function merged(base, extra) {
    const result = { ...base };
    for (const [name, item] of Object.entries(extra)) {
      const both = item && typeof item === "object" && !Array.isArray(item) && result[name];
      result[name] = both ? merged(result[name], item) : item;
    }
    return result;
  }
  function brushed(figure, boxes) { // the figure with all lines faint that miss a box, where the box covers an axis
    const between = (value, a, b) => value >= Math.min(a, b) && value <= Math.max(a, b);
    const missed = new Set();
    for (const trace of figure.data) {
      trace.x.forEach((x, i) => {
        const misses = (box) => between(x, box.x0, box.x1) && !between(trace.y[i], box.y0, box.y1);
        if (x !== null && boxes.some(misses)) missed.add(trace.customdata[i]);
      });
    }
    const only = (trace, wanted) => trace.y.map((y, i) => (missed.has(trace.customdata[i]) === wanted ? y : null));
    const faint = { line: { color: "@line", width: 1 }, opacity: 0.5, hoverinfo: "skip", hovertemplate: null };
    const behind = figure.data.map((trace) => ({ ...trace, ...faint, y: only(trace, true) }));
    const kept = figure.data.map((trace) => ({ ...trace, y: only(trace, false) }));
    return { data: [...behind, ...kept], layout: { ...figure.layout, selections: boxes } };
  }
  function draw(id) {
    const node = document.getElementById(id), variants = facts.plots[id];
    if (!node) return Promise.resolve();
    const name = shown[id] in variants ? shown[id] : Object.keys(variants)[0];
    const brushes = variants[name].layout.dragmode === "select";
    const figure = brushes ? brushed(variants[name], boxes[id] || []) : variants[name];
    const layout = merged(commonLayout(node), coloured(figure.layout));
    const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset+autosize" };
    const data = coloured(figure.data);
    for (const trace of data) if (trace.hovertext === "trial") trace.hovertext = trace.customdata.map((n) => facts.trials[n]);
    return Plotly.react(node, data, layout, config).then(() => {
      if (node.dataset.clicks) return;
      node.dataset.clicks = "yes";
      node.on("plotly_click", (event) => showTrial(event.points[0].customdata));
      if (!brushes) return;
      const brush = (dragged) => { boxes[id] = dragged; draw(id); };
      node.on("plotly_selected", () => brush(node.layout.selections || []));
      node.on("plotly_deselect", () => brush([]));
    });
  }
  async function drawAll() { // one after the other with pauses, so that the page can be scrolled meanwhile
    for (const id of Object.keys(facts.plots)) {
      await draw(id);
      await new Promise((resume) => setTimeout(resume, 0));
    }
    document.documentElement.dataset.drawn = "yes";
  }
  function showTrial(number) {
    const row = document.getElementById("trial-" + number);
    if (!row) return;
    document.querySelectorAll("#trials tr.found").forEach((other) => other.classList.remove("found"));
    row.hidden = false;
    row.classList.add("found");
    row.scrollIntoView({ block: "center", behavior: "smooth" });
  }
  function choose(group, variant) {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset.variant === variant));
    for (const id of group.dataset.plots.split(" ")) shown[id] = variant;
    remember({ variant });
  }
  document.querySelectorAll(".switch").forEach((group) => {
    if (memory.variant) choose(group, memory.variant);
    group.addEventListener("click", (event) => {
      const variant = event.target.dataset.variant;
      if (!variant) return;
      choose(group, variant);
      group.dataset.plots.split(" ").forEach(draw);
    });
  });

  // -- the table ---------------------------------------------------------------------------------------------------
  const table = document.getElementById("trials");
  function sortBy(column, direction) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const numeric = heads[column].classList.contains("n"), sign = direction === "descending" ? -1 : 1;
    const value = (row) => row.cells[column].dataset.v;
    const compare = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // unknown ones last
      return sign * (numeric ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, { numeric: true }));
    };
    heads.forEach((head, i) => head.hasAttribute("aria-sort") && head.setAttribute("aria-sort", i === column ? direction : "none"));
    body.append(...[...body.rows].sort(compare));
    remember({ sort: [column, direction] });
  }
  function filterBy(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => content.includes(word));
    }
    remember({ filter: words });
  }
  if (table) {
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th[aria-sort]");
      if (head) sortBy(head.cellIndex, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    });
    const filter = document.getElementById("filter");
    filter.addEventListener("input", () => filterBy(filter.value));
    if (memory.sort && memory.sort[0] < table.tHead.rows[0].cells.length) sortBy(...memory.sort);
    if (memory.filter) filterBy((filter.value = memory.filter));
  }

  // -- time and reloading ------------------------------------------------------------------------------------------
  const updated = document.getElementById("updated"), reload = document.getElementById("reload");
  let touched = 0;
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
    addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }
  function ago(seconds) {
    if (seconds < 90) return Math.max(0, Math.round(seconds)) + " s ago";
    if (seconds < 5400) return Math.round(seconds / 60) + " min ago";
    return seconds < 129600 ? Math.round(seconds / 3600) + " h ago" : null;
  }
  function tellTime() {
    const past = ago(Date.now() / 1000 - Number(updated.dataset.seconds));
    updated.textContent = past || new Date(updated.dataset.seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
  function readAgain() { // not while hidden, being used, or holding a selection
    const busy = document.hidden || Date.now() - touched < 5000 || String(getSelection());
    if (!reload.checked || busy) { setTimeout(readAgain, 2000); return; }
    remember({ scroll: scrollY, inner: innerScrolls(), open: openDetails() });
    location.reload();
  }
  function innerScrolls() { return [...document.querySelectorAll(".scroll")].map((node) => [node.scrollLeft, node.scrollTop]); }
  function openDetails() { return [...document.querySelectorAll("details")].map((node) => node.open); }
  function restore() {
    (memory.open || []).forEach((open, i) => { const node = document.querySelectorAll("details")[i]; if (node) node.open = open; });
    (memory.inner || []).forEach(([left, top], i) => { const node = document.querySelectorAll(".scroll")[i]; if (node) node.scrollTo(left, top); });
    if (memory.scroll !== undefined) scrollTo({ top: memory.scroll, behavior: "instant" });
    remember({ scroll: undefined, inner: undefined, open: undefined });
  }
  if (updated) { tellTime(); setInterval(tellTime, 5000); }
  if (facts.reload) {
    reload.checked = memory.reload !== false;
    reload.addEventListener("change", () => remember({ reload: reload.checked }));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  restore();
  drawAll().then(() => { if (facts.reload) setTimeout(readAgain, facts.reload * 1000); });
})();
