"""The model that a trial trains: a context goes in once, a memory stands in for it, losses and scores come out.

One step is four phases, each a method: `read` (the context, without gradient), `memory.make` (the compression tokens,
with gradient), `decode` (target and reconstruction after the memory), and the fused head and loss in `losses`.

Shape suffixes: `B` batch, `C` context, `K` compression tokens, `S` target, `H` hidden, `D` width of a memory vector.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cmp.model.backbone import Backbone, Prefix
from cmp.model.batch import Batch, TokenScores
from cmp.model.losses import linear_cross_entropy
from cmp.model.memory import LearnedEmbeddings, make_memory
from cmp.space.settings import TrialSettings


@dataclass(frozen=True)
class Losses:
    """The loss terms of one batch.

    Args:
        total: what to call backward on: every term divided by the global token counts, weighted, added.
        lm_sum: nats over the kept tokens of the main task (the target; with `rmb_only` the reconstruction).
        lm_tokens: how many.
        rmb_sum: nats over the kept context tokens of the reconstruction beside it; 0 without `rmb_task`.
        rmb_tokens: how many; 0 without `rmb_task`.
        kl_sum: KL(full context || memory) over the kept target tokens, nats; 0 without `kl_scale`.

    All but `total` are detached scalars.
    """

    total: torch.Tensor
    lm_sum: torch.Tensor
    lm_tokens: torch.Tensor
    rmb_sum: torch.Tensor
    rmb_tokens: torch.Tensor
    kl_sum: torch.Tensor


@dataclass(frozen=True)
class Task:
    """Something to predict from a memory.

    Args:
        token: (1, H) embedding of the task token that says what.
        ids: (B, T) int64, padded on the right.
        mask: (B, T) bool, True on tokens that count; None when all do.
    """

    token: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor | None


class CompressionModel(nn.Module):
    """The trainables around a frozen backbone, float32; the backbone is no part of `state_dict` or `parameters`."""

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: int) -> None:
        super().__init__()
        self._backbone = (backbone,)  # in a tuple, so that it is no submodule
        self.settings = settings
        generator = torch.Generator().manual_seed(seed)
        self.memory = make_memory(backbone, settings, generator)
        self.fwd = None if settings.rmb_only else LearnedEmbeddings(backbone, 1, generator)
        reconstructs = settings.rmb_task or settings.rmb_only
        self.rmb = LearnedEmbeddings(backbone, 1, generator) if reconstructs else None

    @property
    def backbone(self) -> Backbone:
        """The frozen model that this compressor was made for."""
        return self._backbone[0]

    @property
    def fwd_token(self) -> torch.Tensor | None:
        """(1, H) the FWD task token in the backbone's precision; None with `rmb_only`."""
        return None if self.fwd is None else self.fwd()

    @property
    def rmb_token(self) -> torch.Tensor | None:
        """(1, H) the RMB task token in the backbone's precision; None where nothing is reconstructed."""
        return None if self.rmb is None else self.rmb()

    def compress(self, batch: Batch) -> torch.Tensor:
        """(B, K, D) memories of the contexts, in the backbone's precision, with gradient unless it is switched off."""
        return self.memory.make(self.read(batch))

    def read(self, batch: Batch) -> Prefix:
        """The contexts, read once without gradient, by as many blocks as the memory or the KL teacher needs."""
        blocks = self.backbone.n_layers if self._needs_teacher() else self.memory.n_blocks
        with_states = self._needs_teacher() or self.memory.reads_states
        return self.backbone.prefill(batch.context_ids, batch.context_mask, blocks, with_states=with_states)

    def losses(self, batch: Batch, token_count: float, rmb_token_count: float) -> Losses:
        """All loss terms of a batch, or of one worker's share of it.

        Args:
            batch: this worker's sequences.
            token_count: kept target tokens of the whole optimizer step, over all workers and accumulated loops.
            rmb_token_count: kept context tokens likewise; only used with `rmb_task`.
        """
        prefix = self.read(batch)
        tasks = self.tasks(batch)
        states = self.decode(self.memory.make(prefix), tasks)
        teacher = self.backbone.teacher_states(prefix, batch.target_ids) if self._needs_teacher() else None
        return self.combine(tasks, states, teacher, token_count, rmb_token_count)

    def tasks(self, batch: Batch) -> list[Task]:
        """The main task first, then the reconstruction beside it where the settings ask for one."""
        if self.fwd is None:
            assert self.rmb is not None
            return [Task(self.rmb(), batch.target_ids, batch.target_mask)]
        tasks = [Task(self.fwd(), batch.target_ids, batch.target_mask)]
        if self.rmb is not None:
            tasks.append(Task(self.rmb(), *left_to_right_padding(batch.context_ids, batch.context_mask)))
        return tasks

    def decode(self, memory: torch.Tensor, tasks: list[Task]) -> list[torch.Tensor]:
        """(B, T, H) states that predict each task's tokens from the memory, teacher-forced.

        Tasks of the same length run in one batch.
        """
        lengths = {task.ids.shape[1] for task in tasks}
        if len(lengths) > 1:
            return [states for task in tasks for states in self.decode(memory, [task])]
        inputs = torch.cat([self._task_inputs(task) for task in tasks])
        reader = self.memory.reader(memory)
        reader = reader.repeated(len(tasks)) if len(tasks) > 1 else reader
        if reader.cache is not None:
            first = reader.first_position
            positions = torch.arange(first, first + inputs.shape[1], device=inputs.device)[None]
            states = self.backbone.run(inputs, cache=reader.cache, positions=positions)
        else:
            assert reader.embeds is not None
            states = self.backbone.run(torch.cat([reader.embeds, inputs], dim=1))[:, reader.embeds.shape[1] :]
        return list(states.chunk(len(tasks)))

    def combine(
        self,
        tasks: list[Task],
        states: list[torch.Tensor],
        teacher: torch.Tensor | None,
        token_count: float,
        rmb_token_count: float,
    ) -> Losses:
        """Head, losses and their weighted sum."""
        scales = [1.0 / token_count, self.settings.rmb_scale / rmb_token_count if len(tasks) > 1 else 0.0]
        teachers = [teacher, None]
        zero = torch.zeros((), device=self.backbone.device)
        total, sums, tokens, kl_sum = zero, [zero, zero], [zero, zero], zero
        for index, (task, task_states) in enumerate(zip(tasks, states, strict=True)):
            keep = _weights(task, task_states.device)
            flat_teacher = None if teachers[index] is None else teachers[index].flatten(0, 1)  # type: ignore[union-attr]
            objective, nll, kl = linear_cross_entropy(
                task_states.flatten(0, 1),
                task.ids.to(task_states.device).flatten(),
                self.backbone.head,
                flat_teacher,
                self.settings.kl_scale,
            )
            total = total + (objective * keep).sum() * scales[index]
            sums[index], tokens[index], kl_sum = (nll * keep).sum(), keep.sum(), kl_sum + (kl * keep).sum()
        return Losses(total, sums[0], tokens[0], sums[1], tokens[1], kl_sum)

    @torch.no_grad()
    def score(self, batch: Batch) -> TokenScores:
        """Scores of the main task: the target after the memory; with `rmb_only` its reconstruction."""
        return self._score(batch, self.tasks(batch)[0])

    @torch.no_grad()
    def score_reconstruction(self, batch: Batch) -> TokenScores:
        """Scores of the context's tokens, predicted from the memory; (B, C), padded on the right.

        Raises:
            ValueError: this compressor was not trained to reconstruct.
        """
        if self.rmb is None:
            raise ValueError("score_reconstruction: needs rmb_task or rmb_only")
        return self._score(batch, self.tasks(batch)[-1])

    def _score(self, batch: Batch, task: Task) -> TokenScores:
        prefix = self.backbone.prefill(
            batch.context_ids, batch.context_mask, self.memory.n_blocks, with_states=self.memory.reads_states
        )
        (states,) = self.decode(self.memory.make(prefix), [task])
        return self.backbone.scores(states, task.ids, task.mask)

    def _task_inputs(self, task: Task) -> torch.Tensor:
        token = task.token.expand(len(task.ids), 1, -1)
        return torch.cat([token, self.backbone.embed(task.ids[:, :-1])], dim=1)

    def _needs_teacher(self) -> bool:
        return self.settings.kl_scale > 0.0


def left_to_right_padding(ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Move every row's real tokens to the front; the padding goes to the back."""
    if mask is None:
        return ids, None
    length = ids.shape[1]
    missing = length - mask.sum(1, keepdim=True)
    source = (torch.arange(length, device=ids.device) + missing) % length
    return ids.gather(1, source), mask.gather(1, source)


def _weights(task: Task, device: torch.device) -> torch.Tensor:
    if task.mask is None:
        return torch.ones(task.ids.numel(), device=device)
    return task.mask.to(device).flatten().float()
