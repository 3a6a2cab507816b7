import pytest
import torch
from torch import nn
from torch.nn import functional

from cmp.model import losses
from cmp.model.head import Head
from cmp.model.losses import linear_cross_entropy, token_scores

N_TOKENS, HIDDEN, VOCABULARY = 37, 16, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen tokens at a time, so that 37 tokens are two chunks and a rest."""
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", {"cpu": 16 * VOCABULARY})


def head(scale: float = 1.0, softcap: float | None = None) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Head(nn.Linear(HIDDEN, VOCABULARY).requires_grad_(False), scale, softcap)


def all_logits(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    logits = head.module(hidden) * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N_TOKENS, HIDDEN, generator=generator) * 3
    teacher = torch.randn(N_TOKENS, HIDDEN, generator=generator) * 3
    labels = torch.randint(VOCABULARY, (N_TOKENS,), generator=generator)
    return hidden.requires_grad_(), teacher, labels, torch.rand(N_TOKENS, generator=generator)


HEADS = {"plain": (1.0, None), "scaled": (0.3, None), "softcap": (1.0, 4.0), "both": (0.5, 4.0)}


@pytest.mark.parametrize("kind", HEADS)
def test_chunked_cross_entropy_and_its_gradient_are_those_of_all_logits(kind: str) -> None:
    hidden, _, labels, weight = example()
    objective, nll, kl = linear_cross_entropy(hidden, labels, head(*HEADS[kind]))
    expected = functional.cross_entropy(all_logits(hidden, head(*HEADS[kind])), labels, reduction="none")

    torch.testing.assert_close(nll, expected.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(objective.detach(), nll)
    assert not kl.any()
    (ours,) = torch.autograd.grad((objective * weight).sum(), hidden)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_chunked_kl_and_its_gradient_are_those_of_all_logits(kind: str) -> None:
    hidden, teacher, labels, weight = example()
    objective, _, kl = linear_cross_entropy(hidden, labels, head(*HEADS[kind]), teacher, kl_scale=0.7)
    student = torch.log_softmax(all_logits(hidden, head(*HEADS[kind])), -1)
    right = torch.log_softmax(all_logits(teacher, head(*HEADS[kind])), -1)
    expected_kl = functional.kl_div(student, right, log_target=True, reduction="none").sum(-1)
    expected = functional.nll_loss(student, labels, reduction="none") + 0.7 * expected_kl

    torch.testing.assert_close(kl, expected_kl.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objective, expected, rtol=1e-5, atol=1e-5)
    (ours,) = torch.autograd.grad((objective * weight).sum(), hidden)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_student_that_is_its_teacher_has_no_kl() -> None:
    hidden, _, labels, _ = example()
    _, _, kl = linear_cross_entropy(hidden, labels, head(), hidden.detach(), kl_scale=1.0)
    assert kl.abs().max() < 1e-6


def test_rank_counts_the_tokens_that_are_likelier() -> None:
    linear = nn.Linear(1, 4, bias=False).requires_grad_(False)
    linear.weight[:] = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    nll, rank = token_scores(torch.ones(3, 1), torch.tensor([3, 1, 0]), Head(linear))
    assert rank.tolist() == [0, 2, 3]
    total = sum(torch.exp(torch.tensor(float(i))) for i in range(1, 5))
    torch.testing.assert_close(nll, torch.log(total) - torch.tensor([4.0, 2.0, 1.0]))


def test_equally_likely_tokens_have_different_ranks_so_that_only_one_of_them_counts_as_correct() -> None:
    """In bfloat16 nine in ten of these tokens share their logit; each of the best was counted as correct."""
    vocabulary = 4000
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, vocabulary, bias=False).requires_grad_(False)
    linear.weight[:] = torch.randn(vocabulary, 64, generator=generator)
    state = torch.randn(1, 64, generator=generator).bfloat16()

    _, rank = token_scores(state.expand(vocabulary, -1), torch.arange(vocabulary), Head(linear.bfloat16()))

    logits = linear(state)[0].float()
    assert logits.unique().numel() < 0.9 * vocabulary, "there are ties"
    assert rank.sort().values.tolist() == list(range(vocabulary))
    assert rank.argsort().tolist() == (-logits).argsort(stable=True).tolist(), "of equals the lower id comes first"


def test_no_chunk_exceeds_the_budget_and_every_token_is_in_one() -> None:
    parts = list(losses.chunks(N_TOKENS, VOCABULARY, torch.device("cpu")))
    assert [part.stop - part.start for part in parts] == [16, 16, 5]
