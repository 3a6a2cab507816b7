"""How right one written answer is, by the measures of the field. Called by `written`.

The measures are torchmetrics' (checked against published examples by a test); here they are put together.
"""

from collections.abc import Sequence
from typing import Any

from cmp.results.written import AnswerScores


def answer_scores(answer: str, golds: Sequence[str], accuracy: float | None = None) -> AnswerScores:
    """Exact match and F1 with SQuAD's normalisation, and stemmed ROUGE-L; each the best over the right answers."""
    from torchmetrics.functional.text import rouge_score, squad

    prediction = {"prediction_text": answer, "id": "0"}
    target: dict[str, Any] = {"answers": {"text": list(golds), "answer_start": [0] * len(golds)}, "id": "0"}
    found = squad([prediction], [target])
    rouge = rouge_score([answer], [list(golds)], rouge_keys="rougeL", use_stemmer=True, accumulate="best")
    return AnswerScores(
        exact_match=float(found["exact_match"]) / 100,
        f1=float(found["f1"]) / 100,
        rouge_l=float(rouge["rougeL_fmeasure"]),
        accuracy=accuracy,
    )
