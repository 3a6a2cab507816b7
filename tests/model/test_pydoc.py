import ast
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from cmp.model import pydoc, pydoc_text
from cmp.model.backbone import Backbone
from cmp.model.loading import load_tokenizer, model_facts
from cmp.space.errors import UserError
from tests.model import pydoc_training

TINIEST = replace(
    pydoc_training.RECIPES["pydoc-tiny"], vocab_size=320, width=32, inner_width=64, steps=25, batch_size=4
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The real text, extracted once for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMP_CACHE", str(tmp_path_factory.mktemp("text")))
        pydoc_text._texts.cache_clear()
        return {split: pydoc.documents(split) for split in pydoc.SPLITS}


def test_the_text_is_about_two_megabytes_of_documentation(texts: dict[str, list[str]]) -> None:
    everything = [text for some in texts.values() for text in some]

    assert 1.5e6 < sum(map(len, everything)) < 5e6
    assert any("json.dumps(obj, *, skipkeys=False" in text for text in everything)
    assert any('The "with" statement' in text for text in everything)


def test_a_tenth_of_the_documents_is_for_validation_and_a_tenth_for_test(texts: dict[str, list[str]]) -> None:
    sizes = {split: len(some) for split, some in texts.items()}

    assert all(0.05 < sizes[split] / sum(sizes.values()) < 0.15 for split in ("validation", "test"))
    sides = [set(some) for some in texts.values()]
    assert len(set.union(*sides)) == sum(map(len, sides))


def test_entries_are_docstrings_under_their_full_names_and_never_twice() -> None:
    source = '''"""About a."""
class Box:
    """Holds."""
    def put(self, thing, *, where="in"):
        """Put it.

        Gently.
        """
    async def take(self): "Take it."
    def nothing(self): pass
def put(): "Take it."
'''

    entries = list(pydoc_text._entries(ast.parse(source), "a.b", set()))

    assert entries == [
        "a.b\n\nAbout a.",
        "class a.b.Box\n    Holds.",
        "a.b.Box.put(self, thing, *, where='in')\n    Put it.\n    \n    Gently.",
        "a.b.Box.take(self)\n    Take it.",
    ]


def test_the_text_is_extracted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMP_CACHE", str(tmp_path))
    monkeypatch.setattr(pydoc_text, "_extract", lambda library: {"train": ["a"], "validation": ["b"]})
    uncached = pydoc_text._texts.__wrapped__
    assert uncached() == {"train": ["a"], "validation": ["b"]}
    monkeypatch.setattr(pydoc_text, "_extract", lambda library: pytest.fail("extracted again"))

    assert uncached() == {"train": ["a"], "validation": ["b"]}


def test_a_python_without_its_sources_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydoc_text, "_topics", lambda: iter(()))

    with pytest.raises(UserError, match="without the sources of its library"):
        pydoc_text._extract(tmp_path)


@pytest.mark.parametrize("name", pydoc.BUILT_IN)
def test_a_built_in_backbone_loads_like_any_other(name: str) -> None:
    recipe = pydoc_training.RECIPES[name]

    facts, tokenizer = model_facts(name), load_tokenizer(name)

    assert (facts.n_layers, facts.vocab_size) == (recipe.n_blocks, recipe.vocab_size)
    assert len(tokenizer) == recipe.vocab_size
    assert tokenizer.is_fast and tokenizer.decode(tokenizer("json.dumps(obj)").input_ids) == "json.dumps(obj)"
    assert Backbone.load(name).bos_id == tokenizer.bos_token_id == 0


@pytest.mark.parametrize("name", pydoc.BUILT_IN)
def test_a_built_in_backbone_is_as_good_as_it_says_on_text_that_it_never_read(
    name: str, texts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydoc_text, "_texts", lambda: texts)
    made = json.loads((pydoc.MODELS / name / pydoc_training.MADE).read_text())

    found = pydoc_training.losses(pydoc.MODELS / name)

    # Another version of Python has somewhat other documentation.
    tolerance = 0.005 if made["text"] == pydoc.documents_fingerprint() else 0.2
    assert found == pytest.approx(made["losses"], abs=tolerance)
    assert found["no_context"] - found["full_context"] > 0.2, "a context must be worth compressing"
    assert made["recipe"] == asdict(pydoc_training.RECIPES[name])


def test_a_backbone_can_be_made_again(
    tmp_path: Path, texts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it but for size: 30 thousand parameters, a small text, a second of training."""
    small = {"train": [text[:3000] for text in texts["train"][:30]], "validation": texts["validation"][:3], "test": []}
    monkeypatch.setattr(pydoc_text, "_texts", lambda: small)
    monkeypatch.setitem(pydoc_training.RECIPES, "pydoc-tiny", TINIEST)
    shown: list[float] = []
    before = torch.random.get_rng_state()

    pydoc_training.make("pydoc-tiny", tmp_path / "made", lambda step, loss: shown.append(loss))

    shipped = {path.name for path in (pydoc.MODELS / "pydoc-tiny").iterdir()}
    assert {path.name for path in (tmp_path / "made").iterdir()} == shipped
    assert Backbone.load(str(tmp_path / "made")).n_layers == 2
    assert len(shown) == TINIEST.steps and shown[-1] < shown[0] - 0.5
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_smaller_backbone_made_again_is_as_good_as_the_one_that_is_here(tmp_path: Path) -> None:
    pydoc_training.make("pydoc-tiny", tmp_path / "made")

    here, again = (pydoc_training.losses(folder) for folder in (pydoc.MODELS / "pydoc-tiny", tmp_path / "made"))

    assert again == pytest.approx(here, abs=0.05)


def test_other_names_are_left_to_the_hub() -> None:
    assert pydoc.resolve("pydoc-like/some-model") == "pydoc-like/some-model"


def test_the_schedule_warms_up_stays_and_falls_to_nearly_nothing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.param_groups[0]["full_rate"] = 1.0
    rates = []
    for step, progress in ((0, 0.0), (100, 0.2), (200, 0.65), (400, 0.999)):
        pydoc_training._set_rate([optimizer], step, progress)
        rates.append(optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([0.05, 1.0, 0.5, 0.02])
