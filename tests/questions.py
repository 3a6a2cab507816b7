"""Questions on Python's own documentation, in SQuAD's layout: a data set of questions and answers without a download.

    python -m tests.questions questions/

Of each class or function with a docstring of several sentences two rows: what it does (its first sentence) and which
arguments it takes; the entry is the context. Train, validation and test are those of the documentation itself, so that
no text stands in two of them.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmp.model import pydoc

ENTRY = re.compile(r"^(?:class )?([\w.]+)(?:\((.*)\))?\n    (\S.*)", flags=re.DOTALL)
FIRST_SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)", flags=re.DOTALL)
SHORTEST_CONTEXT, LONGEST_CONTEXT, LONGEST_ANSWER = 150, 450, 90  # characters
# Arguments that all methods have, or that say nothing, are not asked for.
SMALLEST_ARGUMENTS = 6


def write_questions(folder: Path) -> Path:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in pydoc.SPLITS:
        rows = [row for document in pydoc.documents(split) for row in questions(document)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def questions(document: str) -> Iterator[dict[str, Any]]:
    """The rows of one module's documentation."""
    for entry in re.split(r"\n\n(?=\S)", document):
        found = ENTRY.match(entry)
        if found is None or not SHORTEST_CONTEXT <= len(entry) <= LONGEST_CONTEXT:
            continue
        name, arguments, text = found.groups()
        sentence = FIRST_SENTENCE.match(text)
        context, short = _plain(entry), name.rpartition(".")[2]
        if sentence is not None and len(sentence[1]) <= LONGEST_ANSWER:
            yield _row(context, f"What does {short} do?", _plain(sentence[1]))
        arguments = _plain(arguments or "").removeprefix("self").removeprefix(", ")
        if SMALLEST_ARGUMENTS <= len(arguments) <= LONGEST_ANSWER:
            yield _row(context, f"Which arguments does {short} take?", arguments)


def _row(context: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "context": context,
        "question": question,
        "answers": {"text": [answer], "answer_start": [max(0, context.find(answer))]},
    }


def _plain(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(write_questions(Path(sys.argv[1])))
