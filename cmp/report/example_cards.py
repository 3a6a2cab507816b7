"""Examples side by side: what was read, what is written from the memory, and from the two bounds; scores of answers."""

import difflib
import re

from cmp.report import text
from cmp.report.text import Markup, escape
from cmp.results.examples import Example, ExampleSet
from cmp.results.recovered import recovered_fraction
from cmp.results.written import WAYS, Written, measures


def answers(written: Written) -> Markup:
    """How right what is written in answer to prompts is, after each kind of context."""
    names = measures(written)
    kept = written.kept()
    rows = [
        (escape(words), [f"{getattr(written.mean(way), name):.3f}" for name in names]) for way, words in WAYS.items()
    ]
    shares = ["" if (share := kept[name]) is None else text.percent(share) for name in names]
    rows.append(("kept of the full context's", shares))
    body = "".join(f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("read before the prompt", *names.values()))
    reader = "the text control, trained as the compressors are" if written.text_by == "control" else "the bare model"
    return f"""<p>Greedy answers to {text.count(len(written.rows))} prompts of the test split, each scored against all
right answers. The memory takes {text.count(written.positions)} positions; text at equal positions is the context's last
tokens, read by {reader}.</p>
<div class="scroll"><table class="front"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"""


def examples(found: ExampleSet) -> Markup:
    """Validation windows side by side, least lost first, worst last."""
    last = len(found.examples) - 1
    cards = "".join(_card(e, found.scored, is_open=i in (0, last)) for i, e in enumerate(found.examples))
    source = f'<a href="#trial-{found.trial}">trial {found.trial}</a>, epoch {found.epoch}'
    return f"""<p>Greedy continuations from {source}, on texts it was not trained on. {text.count(found.scored)} were
scored and ranked by what the memory loses against the full context; shown are the best, some in between, and the worst.
Losses are on the true continuation, nats per token.</p>{cards}"""


def _card(example: Example, scored: int, *, is_open: bool) -> Markup:
    losses, written = example.losses, example.continuations
    share = recovered_fraction(losses.no_context, losses.full_context, losses.memory)
    recovered = "the context does not help" if share is None else f"recovered {text.percent(share)}"
    rank = "the worst" if example.place == scored and scored > 1 else f"place {text.count(example.place)}"
    columns: list[tuple[str, str, float | None, str]] = [
        ("no context", written.no_context, losses.no_context, ""),
        ("memory", written.memory, losses.memory, " memory"),
        ("full context", written.full_context, losses.full_context, ""),
    ]
    if written.text is not None:
        columns.insert(2, ("text at equal positions", written.text, None, ""))
    cells = "".join(_cell(*column) for column in columns)
    return f"""<details class="example"{" open" if is_open else ""}>
<summary>{rank} of {text.count(scored)} <small>{recovered}</small></summary>
<div class="texts source"><div class="text"><h4>context</h4><p>{escape(example.context.strip())}</p></div>
{_reconstruction(example)}
{_truth(example)}</div>
<div class="texts three">{cells}</div></details>"""


def _cell(name: str, body: str, loss: float | None, kind: str) -> Markup:
    shown = "" if loss is None else f"<span>{text.loss(loss)}</span>"
    return f'<div class="text{kind}"><h4>{name}{shown}</h4><p>{escape(body.strip())}</p></div>'


def _truth(example: Example) -> Markup:
    """What really follows, or what was asked and may be answered."""
    if not example.golds:
        return f'<div class="text"><h4>what really follows</h4><p>{escape(example.target.strip())}</p></div>'
    asked = ""
    if example.prompt is not None:
        asked = f'<div class="text"><h4>asked</h4><p>{escape(example.prompt.strip())}</p></div>\n'
    golds = "<br>".join(escape(gold) for gold in example.golds)
    return f'{asked}<div class="text"><h4>right answers</h4><p>{golds}</p></div>'


def _reconstruction(example: Example) -> Markup:
    if example.reconstruction is None:
        return ""
    value = example.losses.reconstruction
    shown = f"<span>{text.loss(value)}</span>" if value is not None else ""
    body = marked_differences(example.context.strip(), example.reconstruction.strip())
    return f'<div class="text"><h4>reconstruction{shown}</h4><p>{body}</p></div>'


def marked_differences(original: str, copy: str) -> Markup:
    """`copy` as HTML with every word that differs from `original` marked."""
    old, new = re.findall(r"\s+|\S+", original), re.findall(r"\s+|\S+", copy)
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        body = escape("".join(new[start:end]))
        parts.append(body if kind == "equal" or not body.strip() else f"<mark>{body}</mark>")
    return "".join(parts)
