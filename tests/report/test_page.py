import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmp.commands.report import main
from cmp.report import page as page_module
from cmp.report import text
from cmp.report.example_cards import examples, marked_differences
from cmp.report.page import write_page
from cmp.results.examples import Continuations, load_examples, pick, save_examples
from cmp.results.written import ANSWERS, AnswerScores, Written, WrittenRow, save_written
from tests.benchmarks import scale
from tests.report.synthetic import KINDS, write_folder

ROOT = Path(__file__).parents[2]
PLOTLY_SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
"""Of the file in the npm package plotly.js-basic-dist-min 4.1.1."""


def own_part(page: Path) -> str:
    """The page without plotly.js, which is a script of its own."""
    html = page.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>.*?</script>", html, flags=re.DOTALL)
    return html.replace(max(scripts, key=len), "")


def facts(page: Path) -> dict:  # type: ignore[type-arg]
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', own_part(page), flags=re.DOTALL)
    assert found
    return json.loads(found.group(1))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "No trial yet."),
        ("suggested", "No result yet."),
        ("one", "in one session"),
        ("failed", "No trial succeeded."),
        ("typical", "what a memory is worth in plain text is not known: no report has a text curve"),
        ("running", "So far: "),
        ("interrupted", "When interrupted: "),
        ("harmful", "no compressor helps."),
        ("many", "500</b><span>trials"),
        ("tested", "On 41 test documents that decided nothing, with 95 % intervals: worth "),
        ("untested", "On the validation documents that it was selected on, which flatters it: gain "),
        ("untested", "There are no scores on the test split."),
        ("control-running", "So far: "),
        ("control-running", "what a memory is worth in plain text is not known before the text control is done"),
        ("control-running", "The test split is scored at the end."),
        ("no-control", "there is no text control (search.control: false), so worth is by the untrained model"),
        ("useless-text", "The context itself does not help here."),
        (
            "worthless",
            "the work of <b>0.0 tokens of text</b> (gain 0.0). Without any context the adapted model does",
        ),
    ],
)
def test_every_state_of_a_search_has_its_words(pages: Callable[[str], Path], kind: str, says: str) -> None:
    assert says in own_part(pages(kind) / "report.html")


def test_a_context_that_does_not_help_leaves_recovered_undefined_and_the_page_whole(
    results: Callable[[str], Path],
) -> None:
    folder = results("typical")
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "reported":
            event["metrics"] |= {"recovered": None, "full_context_loss": event["metrics"]["no_context_loss"] + 0.1}
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    html = own_part(write_page(folder))

    assert "The context itself does not help here." in html
    assert facts(folder / "report.html")["plots"]["tradeoff-ratio"]["recovered"]["data"][0]["x"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_users_never_become_markup(pages: Callable[[str], Path], kind: str) -> None:
    html = own_part(pages(kind) / "report.html")

    assert "<script>alert" not in html
    assert "stories <b>" not in html
    assert "stories &lt;b&gt;&amp;" in html


def test_nothing_is_loaded_from_anywhere(pages: Callable[[str], Path]) -> None:
    html = own_part(pages("typical") / "report.html")

    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert "default-src 'none'" in html


def test_the_page_is_small_enough_to_send_and_its_plotly_is_the_published_one(pages: Callable[[str], Path]) -> None:
    script = page_module._asset(page_module.PLOTLY)

    assert (pages("typical") / "report.html").stat().st_size < 1.4e6
    assert "plotly.js (basic - minified) v4.1.1" in script[:200] and "MIT license" in script[:200]
    assert hashlib.sha256(script.encode()).hexdigest() == PLOTLY_SHA256


def test_plotly_draws_every_kind_of_trace_that_the_page_has(pages: Callable[[str], Path]) -> None:
    can = set(re.findall(r'moduleType:"trace",name:"(\w+)"', page_module._asset(page_module.PLOTLY)))

    figures = [figure for plot in facts(pages("many") / "report.html")["plots"].values() for figure in plot.values()]

    drawn = {trace["type"] for figure in figures for trace in figure["data"]}
    assert {"scatter", "bar"} <= drawn <= can


def test_a_page_that_is_final_does_not_reload_and_a_running_one_does(pages: Callable[[str], Path]) -> None:
    assert facts(pages("running") / "report.html")["reload"] == 15
    assert 'http-equiv="refresh"' in own_part(pages("running") / "report.html")
    assert facts(pages("typical") / "report.html")["reload"] is None
    assert 'http-equiv="refresh"' not in own_part(pages("typical") / "report.html")


def test_links_lead_to_files_that_exist(pages: Callable[[str], Path]) -> None:
    folder = pages("typical")

    method = own_part(folder / "report.html").split('id="method"')[1]
    linked = re.findall(r'href="([^"#]+)"', method)

    assert "journal.jsonl" in linked
    assert all((folder / path).exists() for path in linked)


def test_a_page_is_replaced_in_one_step_and_leaves_nothing_behind(results: Callable[[str], Path]) -> None:
    folder = results("running")
    first = write_page(folder)
    with first.open(encoding="utf-8") as reader:
        write_folder(folder, "typical")
        write_page(folder)
        old = reader.read()

    assert old.endswith("</html>\n") and "So far: " in old
    assert "So far: " not in first.read_text(encoding="utf-8")
    assert not list(folder.glob(".report*"))


def test_a_torn_last_line_of_the_journal_does_not_matter(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write('{"time": 1, "event": "repor')

    assert "reaches a val_loss of" in own_part(write_page(folder))


def test_damaged_examples_only_cost_the_examples(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    (folder / "best" / "examples.json").write_text('{"trial": 0, "examp')

    html = own_part(write_page(folder))

    assert 'id="examples"' not in html
    assert 'id="trials"' in html


def test_the_command_rebuilds_the_page_from_the_journal_alone(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    (folder / "best" / "examples.json").unlink()

    command = [sys.executable, "-m", "cmp", "report", str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    assert printed.stdout.strip() == str(folder / "report.html")
    assert "reaches a val_loss of" in own_part(folder / "report.html")


def test_the_command_says_what_is_wrong_with_a_folder(
    tmp_path: Path, results: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no journal.jsonl and space.yaml here" in capsys.readouterr().err

    folder = results("typical")
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join([lines[0], "garbage\n", *lines[1:]]))
    assert main([str(folder)]) == 2
    assert "journal.jsonl:2" in capsys.readouterr().err


def test_the_page_needs_neither_torch_nor_ray(results: Callable[[str], Path]) -> None:
    folder = results("one")
    program = (
        "import sys; from pathlib import Path; from cmp.report.page import write_page; "
        f"write_page(Path({str(folder)!r})); print(sorted({{'torch', 'ray', 'optuna'}} & set(sys.modules)))"
    )

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert printed.stdout.strip() == "[]"


def test_examples_survive_being_written_and_read(results: Callable[[str], Path], tmp_path: Path) -> None:
    found = load_examples(results("typical") / "best" / "examples.json")
    assert found is not None

    save_examples(tmp_path / "again" / "examples.json", found)

    assert load_examples(tmp_path / "again" / "examples.json") == found


def test_a_question_is_shown_with_four_answers_and_all_right_ones(
    results: Callable[[str], Path], tmp_path: Path
) -> None:
    found = load_examples(results("typical") / "best" / "examples.json")
    assert found is not None
    answers = Continuations("nobody", "Denver", "the Denver <Broncos>", text="some team")
    asked = replace(found.examples[0], continuations=answers, prompt="\nWho won?\n", golds=("Denver Broncos", "D&B"))

    save_examples(tmp_path / "examples.json", replace(found, examples=(asked,)))
    again = load_examples(tmp_path / "examples.json")

    assert again is not None and again.examples == (asked,)
    html = examples(again)
    for words in ("<h4>asked</h4><p>Who won?</p>", "<p>Denver Broncos<br>D&amp;B</p>", "the Denver &lt;Broncos&gt;"):
        assert words in html
    assert "<h4>text at equal positions</h4><p>some team</p>" in html and "what really follows" not in html


def test_scores_of_answers_have_a_section_of_their_own(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    assert 'id="answers"' not in write_page(folder).read_text()
    values = {"no_context": 0.1, "memory": 0.3, "text": 0.2, "full_context": 0.4}
    scores = {way: AnswerScores(0.0, value, value, None) for way, value in values.items()}
    row = WrittenRow(0, 0, "Who?", ("x",), dict.fromkeys(values, "y"), scores)

    save_written(folder / "best" / ANSWERS, Written(12, "control", (row,)))
    html = write_page(folder).read_text()

    section = html[html.index('<section id="answers">') : html.index('<section id="examples">')]
    assert "<td>the memory</td><td>0.000</td><td>0.300</td><td>0.300</td>" in section
    assert "<td>kept of the full context&#x27;s</td><td></td><td>75 %</td><td>75 %</td>" in section.replace(
        "'", "&#x27;"
    )
    assert "12 positions" in section and "the text control" in section and "accuracy" not in section


def test_the_worst_two_are_always_among_the_examples_picked() -> None:
    lost = [0.1 * ((7 * i) % 50) for i in range(50)]
    ranked = sorted(range(50), key=lambda i: lost[i])

    picked = pick(lost, 6)

    assert [ranked.index(i) for i in picked] == [0, 12, 24, 36, 48, 49]
    assert pick([0.3, 0.1], 6) == [1, 0]


def test_a_reconstruction_shows_where_it_differs() -> None:
    marked = marked_differences("the red <ball> fell", "the blue <ball> fell")

    assert marked == "the <mark>blue</mark> &lt;ball&gt; fell"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.duration(0.2), "0 s"),
        (text.duration(61), "1 min 1 s"),
        (text.duration(3600), "1 h"),
        (text.duration(90061), "1 d 1 h"),
        (text.percent(-0.123), "−12 %"),
        (text.percent(0.0123), "1.2 %"),
        (text.setting(0.000123456), "0.000123"),
        (text.setting(True), "yes"),
        (text.count(1234567), "1 234 567"),
    ],
)
def test_numbers_are_printed_for_people(shown: str, expected: str) -> None:
    assert re.sub(r"\s", " ", shown) == expected


def test_a_page_of_thousands_of_trials_shows_some_says_so_and_stays_small(tmp_path: Path) -> None:
    folder = scale.Folder(tmp_path / "results", 2_300)
    folder.write()

    page = write_page(folder.results.path)

    html, found = own_part(page), facts(page)
    drawn = {
        number
        for trace in found["plots"]["tradeoff-positions"]["val_loss"]["data"]
        for number in trace.get("customdata", [])
    }
    rows = set(map(int, re.findall(r'<tr id="trial-(\d+)"', html)))
    assert page.stat().st_size < 6e6
    assert len(drawn) == 2_000 and drawn <= {int(number) for number in found["trials"]}
    assert re.search(r"drawn are the best 1.000 of 2.300 and some others", html)
    assert re.search(r"The best 1.\d\d\d of 2.300 trials; trials.csv has all", html) and 1_000 <= len(rows) < 1_020
    assert {int(number) for number in re.findall(r'href="#trial-(\d+)"', html)} <= rows
    assert re.search(r"One bar per trial and attempt, of the last 2.000", html)
