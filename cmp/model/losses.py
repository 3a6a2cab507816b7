"""Cross-entropy, KL divergence and token scores from hidden states, without ever holding all logits.

A (B, S, V) tensor of logits is the largest thing a language model makes (BLOOM: 250,880 tokens). The head is frozen,
so the only gradient wanted is that of the hidden states, and a chunk of tokens needs nothing from another chunk: the
forward pass computes logits, loss and gradient chunk by chunk and keeps the (N, H) gradient; backward only scales it.

Shape suffixes: `N` tokens, `H` hidden, `V` vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch

from cmp.model.head import Head

# Logits in flight. 2^24 floats (64 MB) keep a chunk near the caches of a CPU at no loss of matrix-product rate; a GPU
# wants longer products.
CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**27}


def chunks(n_tokens: int, vocab_size: int, device: torch.device) -> Iterator[slice]:
    """Slices of tokens whose logits fit the budget of `device`."""
    rows = max(16, CHUNK_ELEMENTS.get(device.type, 2**24) // vocab_size)
    for start in range(0, n_tokens, rows):
        yield slice(start, min(start + rows, n_tokens))


def linear_cross_entropy(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Head,
    teacher: torch.Tensor | None = None,
    kl_scale: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Next-token loss of every token, with an optional pull towards a teacher.

    Args:
        hidden: (N, H) student states; the only input that gets a gradient.
        labels: (N,) int64.
        head: the frozen head, the same for student and teacher.
        teacher: (N, H) states of the backbone that read the uncompressed context.
        kl_scale: weight of KL(teacher || student).

    Returns:
        (N,) float32 each: objective = nll + kl_scale * kl, which alone has a gradient; nll; kl (0 without teacher).
    """
    return _LinearCrossEntropy.apply(hidden, labels, teacher, kl_scale, head)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None, kl_scale: float, head: Head
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wants_grad = ctx.needs_input_grad[0]
        with head.weights() as (weight, bias):
            home, hidden = hidden.device, hidden.to(weight.device)
            labels = labels.to(weight.device)
            nll = torch.empty(len(labels), device=weight.device)
            kl = torch.zeros_like(nll)
            grad = torch.empty_like(hidden) if wants_grad else None
            for part in chunks(len(labels), weight.shape[0], weight.device):
                logits = head.logits(hidden[part], weight, bias)
                log_student = torch.log_softmax(logits, dim=-1)
                target = labels[part, None]
                nll[part] = -log_student.gather(1, target)[:, 0]
                capped = logits if head.softcap is not None else None
                del logits  # only the slope of a softcap needs it again
                teacher_probs = None
                if teacher is not None:
                    log_teacher = torch.log_softmax(head.logits(teacher[part].to(weight.device), weight, bias), dim=-1)
                    teacher_probs = log_teacher.exp()
                    kl[part] = log_teacher.sub_(log_student).mul_(teacher_probs).sum(-1)
                if grad is not None:
                    slope = log_student.exp_()  # softmax
                    if teacher_probs is not None:
                        slope.mul_(1.0 + kl_scale).sub_(teacher_probs, alpha=kl_scale)
                    slope.scatter_add_(1, target, torch.full_like(target, -1, dtype=slope.dtype))
                    slope = head.backward_through_shape(slope, capped)
                    torch.mm(slope.to(weight.dtype), weight, out=grad[part])
        objective = nll if teacher is None else nll + kl_scale * kl
        objective, nll, kl = objective.to(home), nll.to(home), kl.to(home)
        if grad is not None:
            ctx.save_for_backward(grad.to(home))
        nll = nll.clone() if nll is objective else nll
        ctx.mark_non_differentiable(nll, kl)
        return objective, nll, kl

    @staticmethod
    def backward(ctx: Any, grad_objective: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        (grad,) = ctx.saved_tensors
        return (grad * grad_objective[:, None]).to(grad.dtype), None, None, None, None


@torch.no_grad()
def token_scores(hidden: torch.Tensor, labels: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) nll in nats and (N,) rank of the right token (0 = most likely), chunk by chunk.

    Of tokens that are equally likely the one with the lower id comes first. In bfloat16 that happens often: a logit
    near 16 has steps of 1/8, and the right token must not win because it is the right one.
    """
    with head.weights() as (weight, bias):
        home, hidden, labels = hidden.device, hidden.to(weight.device), labels.to(weight.device)
        nll = torch.empty(len(labels), device=weight.device)
        rank = torch.empty(len(labels), dtype=torch.int64, device=weight.device)
        ids = torch.arange(weight.shape[0], device=weight.device)
        for part in chunks(len(labels), weight.shape[0], weight.device):
            log_probs = torch.log_softmax(head.logits(hidden[part], weight, bias), dim=-1)
            target = labels[part, None]
            right = log_probs.gather(1, target)
            nll[part] = -right[:, 0]
            tied_before = (log_probs == right).logical_and_(ids < target)
            rank[part] = (log_probs > right).logical_or_(tied_before).sum(-1)
    return nll.to(home), rank.to(home)
