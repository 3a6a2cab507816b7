"""The page's answer, what is lost, and the table of trials: the honest numbers as a reader finds them."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from cmp.report.lost import lost
from cmp.report.method import method
from cmp.report.page import write_page
from cmp.report.view import SearchView, build
from cmp.results.history import History
from cmp.results.journal import read_events
from cmp.results.scores import load_scores
from cmp.results.space_file import read_space_file
from cmp.space.space import Space
from tests.report.honest import FULL_CONTEXT, NO_CONTEXT, text_loss


def view_of(folder: Path) -> SearchView:
    space = Space.from_dict(read_space_file(folder / "space.yaml"))
    history = History.from_events(read_events(folder / "journal.jsonl"))
    return build(history, space, load_scores(folder / "test.json"))


def section(folder: Path, key: str) -> str:
    """The HTML of one section of a folder's page."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    return html.split(f'<section id="{key}">')[1].split("</section>")[0]


def plain(html: str) -> str:
    """What a reader sees of it."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html))).strip()


def rows(html: str, table: str) -> list[list[str]]:
    """Cells of a table's body, as a reader sees them."""
    body = html.split(f'class="{table}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [[plain(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in body.split("</tr>")[:-1]]


def trials(folder: Path) -> dict[str, dict[str, str]]:
    """The table of trials: by trial, cells by column."""
    html = section(folder, "trials-section")
    heads = [plain(head) for head in re.findall(r"<th.*?</th>", html)]
    body = html.split("<tbody>")[1].split("</tbody>")[0]
    found = [[plain(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in body.split("</tr>")[:-1]]
    return {row[0].split()[0]: dict(zip(heads, row, strict=True)) for row in found}


def test_the_answer_begins_with_worth_on_test_and_has_every_control_beside_it(pages: Callable[[str], Path]) -> None:
    html = section(pages("tested"), "answer")

    lead = plain(html.split('class="lead"')[1].split("</p>")[0]).removeprefix("> ")
    own = load_scores(pages("tested") / "test.json").compressors[0]  # type: ignore[union-attr]
    assert own.worth_tokens is not None and own.gain is not None
    tokens, gain = own.worth_tokens, own.gain
    assert lead.replace(" .", ".") == (
        f"16 vectors and the last 4 tokens do the work of {tokens.value:.1f} tokens of text (gain {gain.value:.1f})."
    )
    words = plain(html)
    assert f"worth {tokens.low:.1f} to {tokens.high:.1f} tokens, gain {gain.low:.2f} to {gain.high:.2f}" in words
    table = rows(html, "ladder")
    assert [(row[0], row[1]) for row in table] == [
        ("the model without the context", f"{NO_CONTEXT + 0.02:.3f}"),
        ("the adapted model with the last 4 tokens, without any memory", f"{text_loss(4) + 0.01:.3f}"),
        ("with the memory of another document", "1.800"),
        ("with one constant memory, the mean", "1.770"),
        ("plain text at the same price, the last 20 tokens", f"{own.text_loss:.3f}"),
        ("its own memory", f"{own.loss.low:.3f} to {own.loss.high:.3f} {own.loss.value:.3f}"),
        ("the model with the whole context", f"{FULL_CONTEXT + 0.01:.3f}"),
    ]
    assert [row[3] for row in table][::6] == ["0.0 %", "100 %"], "recovered stays, in the last column"
    assert "recovers" not in words
    assert "it cannot be told from keeping that many of the last tokens" in words, (
        "the interval of the gain has 1 in it"
    )
    assert "the runner-up, is 0.0210 nats worse on the same documents (+0.0120 to +0.0300), more than chance." in words
    assert re.search(r"Trained under 3 seeds, val_loss is trial 8 1\.6\d\d ± 0\.0\d\d, trial 4", words)
    assert "their order held" in words


def test_without_test_scores_the_numbers_are_named_as_those_that_it_was_selected_on(
    pages: Callable[[str], Path],
) -> None:
    words = plain(section(pages("untested"), "answer"))

    assert "On the validation documents that it was selected on, which flatters it: gain 1.07" in words
    assert "test documents" not in words
    assert 'id="lost"' not in (pages("untested") / "report.html").read_text()
    assert rows(section(pages("untested"), "answer"), "ladder")[2] == [
        "with the memory of another document", f"{text_loss(4) + 0.02:.3f}", "", "72 %",
    ]  # fmt: skip


def test_scores_of_an_earlier_best_are_not_passed_off_as_the_bests(results: Callable[[str], Path]) -> None:
    folder = results("tested")
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    better = [
        {**event, "metrics": {**event["metrics"], "val_loss": 1.6}}
        for event in events
        if event["event"] == "reported" and event["trial"] == 4
    ]
    lines = [json.dumps(event) + "\n" for event in [*events[:-1], {**better[-1], "epoch": 10}, events[-1]]]
    (folder / "journal.jsonl").write_text("".join(lines))

    words = plain(section(write_page(folder).parent, "answer"))

    assert "There are no scores on the test split." in words
    assert "trial, epoch 4, 9" in words or "trial, epoch 4, 10" in words


def test_nothing_is_said_of_worth_before_the_text_control_is_done(pages: Callable[[str], Path]) -> None:
    words = plain(section(pages("control-running"), "answer"))

    assert words.startswith("Answer So far: ")
    assert "the model untrained" in words
    assert "adapted model" not in words, "there is none yet"
    assert "do the work of" not in words, "by the bare model's text it would be worth several times as much"
    assert not {"worth", "gain"} & set(trials(pages("control-running"))["0"])


def test_what_is_lost_is_said_by_kind_of_token_with_what_a_memory_costs(pages: Callable[[str], Path]) -> None:
    html = section(pages("tested"), "lost")

    assert rows(html, "kinds")[0] == ["in the context", "1 500", "2.200", "1.410", "1.450", "1.330", "91 %"]
    assert "a thousand contexts" in plain(html)
    assert "pays for itself after 88 written tokens" in plain(html)
    assert lost(view_of(pages("untested"))) == ""


def test_every_trial_has_its_worth_and_the_control_is_a_row_of_its_own(pages: Callable[[str], Path]) -> None:
    view, found = view_of(pages("tested")), trials(pages("tested"))

    assert list(found)[:2] == ["text", "8"]
    assert found["text"]["val_loss"] == f"{view.control.loss:.3f}" if view.control else False
    assert {found["text"][name] for name in ("worth", "gain", "positions", "ratio")} == {"–"}
    assert view.best is not None and (worth := view.worth(view.best)) is not None
    best = found["8"]
    assert (best["worth"], best["gain"]) == (f"{worth.tokens:.1f}", f"{worth.gain:.2f}")
    assert (best["positions"], best["swapped"]) == ("20", f"{text_loss(4) + 0.02:.3f}")
    assert re.search(r"finished finalist: 1\.\d{3} ± 0\.\d{3} under 3 seeds", best["outcome"])
    assert "finalist" not in found["0"]["outcome"]
    old = trials(pages("typical"))
    assert "worth" not in old["0"] and "swapped" not in old["0"] and old["0"]["positions"] != "–"


def test_the_front_is_shown_with_its_scores_on_test(pages: Callable[[str], Path]) -> None:
    table = rows(section(pages("tested"), "tradeoff"), "front")

    scored = [row for row in table if row[0] == "20"]
    assert re.fullmatch(r"1\.\d\d \d\.\d\d to 1\.\d\d", scored[0][7])
    assert any(row[6] == "–" for row in table), "a point that was not scored there"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("tested", "A compressor with nothing to compress, trained beside the trials"),
        ("tested", "n_cmps 16. It ran 9 epochs in 1 min 30 s."),
        ("control-running", "epochs in 1 min 10 s (running)."),
        ("no-control", "None: there is no text control (search.control: false)"),
        ("typical", "None: what a memory is worth in plain text is not known"),
    ],
)
def test_the_method_says_how_the_control_was_trained(pages: Callable[[str], Path], kind: str, says: str) -> None:
    words = plain(method(view_of(pages(kind)), {}, []))

    assert says in words.replace("\u00a0", " ")
