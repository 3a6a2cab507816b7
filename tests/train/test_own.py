"""What a search's end loads the compressors with that the search has trained."""

from pathlib import Path
from typing import Any

import pytest

from cmp.model.api import Compressor
from cmp.model.backbone import Backbone
from cmp.train.own import load_own
from tests.model.saved import new_compressor


@pytest.mark.parametrize(("spread", "device"), [(False, "cuda:1"), (True, None)])
def test_a_backbone_is_loaded_as_the_trials_have_loaded_it(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: bool, device: str | None
) -> None:
    """A model that needs several GPUs was put on the first one when the search had ended, and did not fit."""
    changes: dict[str, Any] = {"model_parallel": spread, "attn_implementation": "eager"}
    new_compressor(Backbone.load(str(tiny_model_folder)), **changes).save_pretrained(tmp_path)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(Compressor, "from_pretrained", lambda _, **options: asked.append(options))

    load_own(tmp_path, "cuda:1")

    assert asked == [{"device": device, "trust_remote_code": False, "attn_implementation": "eager"}]
