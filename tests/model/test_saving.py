import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.saving import CARD, CONFIG, TENSORS, read_config, save_compressor
from tests.model.saved import new_compressor, save_tiny_model

METRICS = {
    "epoch": 3,
    "val_loss": 2.5,
    "no_context_loss": 3.0,
    "full_context_loss": 2.0,
    "recovered": 0.5,
    "loops": 1200,
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def backbone(model_folder: Path) -> Backbone:
    return Backbone.load(str(model_folder))


@pytest.fixture
def saved(backbone: Backbone, tmp_path: Path) -> Path:
    extra = {"trial": 7, "metrics": METRICS, "window": {"context_len": 9, "target_len": 7}, "data": {"documents": 40}}
    save_compressor(new_compressor(backbone, rmb_task=True).model, tmp_path / "saved", extra)
    return tmp_path / "saved"


@pytest.mark.parametrize("changes", [{}, {"memory": "kv", "lora_rank": 2, "sep_cmpr": True}, {"proj_cmpr": True}])
def test_a_saved_compressor_comes_back_to_the_bit(backbone: Backbone, changes: dict[str, Any], tmp_path: Path) -> None:
    compressor = new_compressor(backbone, **changes)
    compressor.save_pretrained(tmp_path)

    again = Compressor.from_pretrained(tmp_path, device="cpu")

    assert again.settings == compressor.settings
    assert torch.equal(again.compress("the cat").vectors, compressor.compress("the cat").vectors)


def test_a_loaded_backbone_is_shared(saved: Path, backbone: Backbone) -> None:
    assert Compressor.from_pretrained(saved, backbone=backbone).backbone is backbone


def test_the_backbone_may_be_in_another_place_and_precision(saved: Path, tmp_path: Path) -> None:
    copy = save_tiny_model("llama", tmp_path / "moved")

    compressor = Compressor.from_pretrained(saved, backbone=copy, torch_dtype=torch.bfloat16, device="cpu")

    assert compressor.compress("the cat").vectors.dtype == torch.bfloat16


def test_another_models_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    other = save_tiny_model("llama", tmp_path / "other", change=0.05)

    with pytest.raises(CompressorError, match=r"trained with .* but .* has other weights"):
        Compressor.from_pretrained(saved, backbone=other)


def test_another_family_is_refused_with_the_same_words(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="has other weights"):
        Compressor.from_pretrained(saved, backbone=save_tiny_model("gpt2", tmp_path / "gpt2"))


def test_what_is_known_of_its_origin_survives_saving_again(saved: Path, backbone: Backbone, tmp_path: Path) -> None:
    Compressor.from_pretrained(saved, backbone=backbone).save_pretrained(tmp_path / "again")

    assert read_config(tmp_path / "again") == read_config(saved)


def test_only_the_trained_tensors_are_in_the_folder(saved: Path, backbone: Backbone) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted([CONFIG, TENSORS, CARD])
    # 3 compression tokens and 2 task tokens of width 32, float32, and a header.
    assert (saved / TENSORS).stat().st_size < 5 * 32 * 4 + 1000


def test_saving_over_a_compressor_replaces_it(saved: Path, backbone: Backbone) -> None:
    other = new_compressor(backbone, n_cmps=2)

    other.save_pretrained(saved)

    assert Compressor.from_pretrained(saved, backbone=backbone).compress("the cat").vectors.shape[1] == 2
    assert sorted(path.name for path in saved.iterdir()) == sorted([CONFIG, TENSORS, CARD])


def test_the_card_says_what_it_is_and_what_its_numbers_mean(saved: Path, model_folder: Path) -> None:
    card = (saved / CARD).read_text(encoding="utf-8")

    for part in (
        "9 context tokens become 3 memory vectors",
        "from trial 7",
        "| val_loss | 2.5000 | cross-entropy of the held-out target tokens",
        "| recovered | 0.5000 | (no_context_loss - val_loss) / (no_context_loss - full_context_loss)",
        f"| name | {model_folder} |",
        "| documents | 40 |",
        "| cmp_len | 9 |",
        "| lr | 0.005 (default) |",
        "compressor.reconstruct(memory)",
    ):
        assert part in card


def test_the_cards_code_runs(saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    card = (saved / CARD).read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace("this/folder", str(saved))

    exec(compile(code, "card", "exec"), {})

    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_card_of_a_compressor_for_questions_shows_how_to_ask(backbone: Backbone, tmp_path: Path) -> None:
    save_compressor(new_compressor(backbone, prompt_template="\nQ: {prompt}\nA:").model, tmp_path, {})

    card = (tmp_path / CARD).read_text(encoding="utf-8")

    assert 'compressor.generate(memory, prompt="\\nQ: ...\\nA:", max_new_tokens=7)' in card
    assert "| prompt_template | \\nQ: {prompt}\\nA: |" in card


def test_an_unknown_fact_beside_the_weights_is_a_mistake_in_the_program(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="epochs"):
        save_compressor(new_compressor(backbone).model, tmp_path, {"epochs": 3})


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def test_each_unusable_folder_has_its_own_clear_error(saved: Path, tmp_path: Path) -> None:
    def error(folder: Path, **options: Any) -> str:
        with pytest.raises(CompressorError) as caught:
            Compressor.from_pretrained(folder, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in error(tmp_path / "nowhere")
    assert "config.json is missing" in error(tmp_path)
    (tmp_path / "results" / "best").mkdir(parents=True)
    (tmp_path / "results" / "best" / CONFIG).write_text("{}")
    assert "did you mean" in error(tmp_path / "results")
    assert "not a compressor's config" in error(tmp_path / "results" / "best")
    assert "cannot be loaded" in error(saved, backbone=tmp_path / "no-model")
    config, tensors = (saved / CONFIG).read_text(), (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(tensors[:-1] + bytes([tensors[-1] ^ 1]))
    assert "damaged" in error(saved)
    (saved / TENSORS).unlink()
    assert "missing" in error(saved)
    (saved / TENSORS).write_bytes(tensors)
    for changes, message in [
        ({"format": "other"}, "not a compressor's config"),
        ({"format_version": 2}, "format version 2"),
        ({"settings": {"model_string": "x", "dataset": "y", "from_the_future": 1}}, "from_the_future"),
        ({"backbone": {"name": "x"}}, "another version"),
    ]:
        (saved / CONFIG).write_text(config)
        rewrite(saved, **changes)
        assert message in error(saved)
    (saved / CONFIG).write_text(config[: len(config) // 2])
    assert "not JSON" in error(saved)


def test_tensors_that_do_not_fit_the_settings_are_refused(saved: Path, backbone: Backbone) -> None:
    rewrite(saved, settings={**json.loads((saved / CONFIG).read_text())["settings"], "n_cmps": 5})

    with pytest.raises(CompressorError, match=r"do not fit its settings \(memory.compression.tokens.weight\)"):
        Compressor.from_pretrained(saved, backbone=backbone)
