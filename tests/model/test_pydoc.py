import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cmp.model import pydoc, pydoc_text
from cmp.model.loading import load_tokenizer, model_facts
from cmp.space.errors import UserError

TINIEST = replace(pydoc.RECIPES["pydoc-tiny"], vocab_size=320, width=32, inner_width=64, steps=25, batch_size=4)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The real text, extracted once for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMP_CACHE", str(tmp_path_factory.mktemp("text")))
        pydoc_text._texts.cache_clear()
        return {split: pydoc.documents(split) for split in pydoc.SPLITS}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: dict[str, list[str]]) -> Path:
    """An empty cache, a small text and a model of 30 thousand parameters that trains in a second."""
    small = {"train": [text[:3000] for text in texts["train"][:30]]}
    small |= {split: texts[split][:3] for split in ("validation", "test")}
    monkeypatch.setenv("CMP_CACHE", str(tmp_path))
    monkeypatch.setattr(pydoc_text, "_texts", lambda: small)
    monkeypatch.setitem(pydoc.RECIPES, "pydoc-tiny", TINIEST)
    return tmp_path


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


def test_a_backbone_is_trained_once_and_loads_like_any_other(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(pydoc.resolve("pydoc-tiny"))
    monkeypatch.setattr(pydoc, "_make_backbone", lambda *_: pytest.fail("trained again"))

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    assert Path(pydoc.resolve("pydoc-tiny")) == folder
    assert model.config.num_hidden_layers == 2 and len(tokenizer) == 320
    assert tokenizer.bos_token_id == model.config.bos_token_id == 0
    assert tokenizer.is_fast and tokenizer.decode(tokenizer("json.dumps(obj)").input_ids) == "json.dumps(obj)"
    assert not list(cache.rglob("*.partial"))


def test_training_lowers_the_loss_and_leaves_global_randomness_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    train = pydoc.train
    monkeypatch.setattr(pydoc, "train", lambda model, recipe, texts, _: train(model, recipe, texts, losses.append))
    before = torch.random.get_rng_state()

    pydoc.ensure_backbone("pydoc-tiny")

    assert len(losses) == TINIEST.steps and losses[-1] < losses[0] - 0.5
    assert torch.equal(torch.random.get_rng_state(), before)


def test_shape_and_tokenizer_are_known_before_any_training(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydoc, "_make_backbone", lambda *_: pytest.fail("trained"))

    facts = model_facts("pydoc-tiny")

    assert (facts.n_layers, facts.max_positions, facts.vocab_size) == (2, 256, 320)
    assert len(load_tokenizer("pydoc-tiny")) == 320


def test_the_tokenizer_is_the_same_before_and_after_training(cache: Path) -> None:
    before = load_tokenizer("pydoc-tiny").backend_tokenizer.to_str()
    pydoc.ensure_backbone("pydoc-tiny")

    assert load_tokenizer("pydoc-tiny").backend_tokenizer.to_str() == before


def test_a_training_that_dies_leaves_nothing_that_passes_for_a_model(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pydoc, "train", dies)
        pydoc.ensure_backbone("pydoc-tiny")

    assert not list(cache.rglob("*.safetensors"))
    assert (pydoc.ensure_backbone("pydoc-tiny") / "model.safetensors").is_file()


def test_two_processes_train_one_backbone(cache: Path) -> None:
    program = (
        "import dataclasses; from cmp.model import pydoc, pydoc_text\n"
        "pydoc_text._texts = lambda: {'train': ['some text to learn ' * 200] * 4, 'validation': ['x']}\n"
        "made = pydoc._make_backbone\n"
        "pydoc._make_backbone = lambda *a: (print('trained'), made(*a))\n"
        "recipe = dataclasses.replace(pydoc.RECIPES['pydoc-tiny'], vocab_size=300, width=32, steps=3)\n"
        "pydoc.RECIPES['pydoc-tiny'] = recipe\n"
        "print(pydoc.resolve('pydoc-tiny'))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]

    lines = [line for process in processes for line in process.communicate()[0].splitlines()]

    assert lines.count("trained") == 1
    assert len(set(lines) - {"trained"}) == 1


def test_other_names_are_left_to_the_hub() -> None:
    assert pydoc.resolve("pydoc-like/some-model") == "pydoc-like/some-model"


def test_the_schedule_warms_up_stays_and_falls_to_nearly_nothing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.param_groups[0]["full_rate"] = 1.0
    rates = []
    for step, progress in ((0, 0.0), (100, 0.2), (200, 0.65), (400, 0.999)):
        pydoc._set_rate([optimizer], step, progress)
        rates.append(optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([0.05, 1.0, 0.5, 0.02])
