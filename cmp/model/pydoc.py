"""The built-in backbones, small causal LMs of Python's own documentation that come with this package.

`model_string: pydoc` means the demo's (2.2 M parameters), `pydoc-tiny` a smaller one for rehearsals and tests. Their
text is in `pydoc_text`; `tests/model/pydoc_training.py` trained them. Called by `backbone` through `resolve`.
"""

from pathlib import Path

from cmp.model.pydoc_text import SPLITS, documents, documents_fingerprint

__all__ = ["BUILT_IN", "SPLITS", "documents", "documents_fingerprint", "resolve"]

MODELS = Path(__file__).parent / "pydoc_models"
BUILT_IN = ("pydoc", "pydoc-tiny")


def resolve(model_string: str) -> str:
    """The folder of a built-in backbone, in Hugging Face format; any other name as it is."""
    return str(MODELS / model_string) if model_string in BUILT_IN else model_string
