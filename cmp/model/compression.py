"""The model that a trial trains: a context goes in once, a memory stands in for it, losses and scores come out.

One step is four phases, each a method: `read` (the context, without gradient), `remember` (the compression tokens, with
gradient), `decode` (target and reconstruction after the memory), and the fused head and loss in `losses`. What the
decoder reads is [memory, task token, kept tokens, prompt, target].

Shape suffixes: `B` batch, `C` context, `K` compression tokens, `L` kept tokens, `S` target, `H` hidden, `D` width of a
memory vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cmp.model.backbone import (
    Backbone,
    Prefix,
    before_target,
    joint_mask,
    left_padded_positions,
    states_of_target,
)
from cmp.model.batch import Batch, Parts, Stretch, TokenScores, View, joined, padded_right, prompt_of, split
from cmp.model.losses import linear_cross_entropy
from cmp.model.memory import LearnedEmbeddings, Memories, make_memory
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
        lead_ids: (B, L) int64, text between the task token and `ids`, not predicted; padded anywhere.
        lead_mask: (B, L) bool, True on its real tokens; None when all are.
    """

    token: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor | None
    lead_ids: torch.Tensor | None = None
    lead_mask: torch.Tensor | None = None

    @property
    def lead(self) -> Stretch:
        """`lead_ids` with their mask; no tokens where there are none."""
        return (self.ids[:, :0], None) if self.lead_ids is None else (self.lead_ids, self.lead_mask)


class CompressionModel(nn.Module):
    """The trainables around a frozen backbone, float32; the backbone is no part of `state_dict` or `parameters`."""

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: int) -> None:
        super().__init__()
        self._backbone = (backbone,)  # in a tuple, so that it is no submodule
        self.settings = settings
        self._piece_len = max(1, settings.piece_len or settings.compressed_len)
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

    @property
    def view(self) -> View:
        """How the settings read a context."""
        return View(kept=self.settings.keep_len)

    def compress(self, batch: Batch, view: View | None = None) -> Memories:
        """The memories of the contexts, with gradient unless it is switched off."""
        view = view or self.view
        parts = split(batch, view)
        return self.remember(parts, self.read(parts), view.n_vectors)

    def read(self, parts: Parts, *, for_teacher: bool = False) -> Prefix:
        """What is compressed, read once without gradient: (B x pieces, piece) rows, the pieces of a context in a row.

        Args:
            parts: the contexts. One row stands for all where there is nothing to compress.
            for_teacher: read it through all blocks, so that the KL teacher can go on from it.
        """
        ids, mask, starts = self._pieces(parts)
        blocks = self.backbone.n_layers if for_teacher else self.memory.n_blocks
        with_states = for_teacher or self.memory.reads_states
        return self.backbone.prefill(ids, mask, blocks, with_states=with_states, starts=starts)

    def remember(self, parts: Parts, prefix: Prefix, n_vectors: int | None = None) -> Memories:
        """The memories of what was read, the pieces' side by side: `n_vectors` of each, or all."""
        batch_size, n_pieces = len(parts.compressed_ids), self._n_pieces(parts)
        has_text = None
        if n_pieces > 1 and prefix.mask is not None:
            has_text = prefix.mask.sum(1).view(batch_size, n_pieces) > 1  # more than BOS
            has_text[:, -1] = True  # an empty context has a memory too
        if self.settings.recursive and n_pieces > 1:
            return self._remember_in_turn(prefix, n_pieces, has_text, n_vectors)
        vectors = self.memory.make(prefix, n_vectors)
        vectors = vectors.reshape(-1, n_pieces * vectors.shape[1], vectors.shape[2])
        return Memories(vectors.expand(batch_size, -1, -1), n_pieces, _for_each_vector(has_text, vectors, n_pieces))

    def _remember_in_turn(
        self, prefix: Prefix, n_pieces: int, has_text: torch.Tensor | None, n_vectors: int | None
    ) -> Memories:
        """Piece after piece, each reading the memories of those before it."""
        memories: Memories | None = None
        for piece in range(n_pieces):
            made = self.memory.make(prefix.rows(slice(piece, None, n_pieces)), n_vectors, memories)
            vectors = made if memories is None else torch.cat([memories.vectors, made], dim=1)
            mask = _for_each_vector(None if has_text is None else has_text[:, : piece + 1], vectors, piece + 1)
            memories = Memories(vectors, piece + 1, mask)
        assert memories is not None
        return memories

    def losses(self, batch: Batch, token_count: float, rmb_token_count: float, view: View | None = None) -> Losses:
        """All loss terms of a batch, or of one worker's share of it.

        Args:
            batch: this worker's sequences.
            token_count: kept target tokens of the whole optimizer step, over all workers and accumulated loops.
            rmb_token_count: kept compressed tokens likewise; only used with `rmb_task`.
            view: how the contexts are read; None is as the settings say.
        """
        view = view or self.view
        parts = split(batch, view)
        shares = self._needs_teacher() and self._shares_prefix(parts, view)
        prefix = self.read(parts, for_teacher=shares)
        tasks = self.tasks(batch, parts)
        states = self.decode(self.remember(parts, prefix, view.n_vectors), tasks)
        teacher = self._teacher_states(batch, parts, prefix if shares else None) if self._needs_teacher() else None
        return self.combine(tasks, states, teacher, token_count, rmb_token_count)

    def tasks(self, batch: Batch, parts: Parts) -> list[Task]:
        """The main task first, then the reconstruction beside it where the settings ask for one."""
        if self.fwd is None:
            assert self.rmb is not None
            return [Task(self.rmb(), batch.target_ids, batch.target_mask)]
        tasks = [Task(self.fwd(), batch.target_ids, batch.target_mask, *lead_of(batch, parts))]
        if self.rmb is not None and parts.compressed_ids.shape[1]:
            tasks.append(self._reconstruction(parts))
        return tasks

    def decode(self, memories: Memories, tasks: list[Task]) -> list[torch.Tensor]:
        """(B, T, H) states that predict each task's tokens from the memory, teacher-forced.

        Tasks of one shape without text before their tokens run in one batch.
        """
        if len(tasks) > 1 and not _may_share_a_batch(tasks):
            return [states for task in tasks for states in self.decode(memories, [task])]
        starts = [self._task_inputs(task) for task in tasks]
        inputs = torch.cat([embeds for embeds, _ in starts])
        memories = memories.repeated(len(tasks)) if len(tasks) > 1 else memories
        reader = self.memory.reader(memories.vectors, memories.n_real_pieces)
        mask = joint_mask(memories.mask, memories.vectors.shape[1], None, inputs.shape[1], len(inputs))
        recompute = self.settings.gradient_checkpointing
        if reader.cache is not None:
            new = torch.arange(inputs.shape[1], device=inputs.device)[None]
            places = reader.first_position + new
            states = self.backbone.run(inputs, cache=reader.cache, mask=mask, positions=places, recompute=recompute)
        else:
            assert reader.embeds is not None
            positions = None if mask is None else left_padded_positions(mask)
            embeds = torch.cat([reader.embeds, inputs], dim=1)
            states = self.backbone.run(embeds, mask=mask, positions=positions, recompute=recompute)
        states = states[:, -inputs.shape[1] :]
        return list(states_of_target(states, starts[0][1], tasks[0].ids.shape[1]).chunk(len(tasks)))

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
    def score(self, batch: Batch, view: View | None = None) -> TokenScores:
        """Scores of the main task: the target after the memory; with `rmb_only` its reconstruction."""
        view = view or self.view
        parts = split(batch, view)
        return self._score(self.remember(parts, self.read(parts), view.n_vectors), self.tasks(batch, parts)[0])

    @torch.no_grad()
    def score_variants(
        self, batch: Batch, swap: torch.Tensor | None, sizes: Sequence[int] = (), *, with_mean: bool = False
    ) -> dict[str, TokenScores]:
        """Scores of the main task after different memories; the contexts are read once for all of them.

        Args:
            batch: with a context of its own for each row.
            swap: (B,) int64, for each row the row whose memory it reads instead of its own.
            sizes: numbers of vectors to read instead of all.
            with_mean: also read one constant memory, the mean over the batch.

        Returns:
            "memory"; "swapped", where `swap` is given; "mean", where asked for; each size as a text.
        """
        parts = split(batch, self.view)
        prefix, task = self.read(parts), self.tasks(batch, parts)[0]
        own = self.remember(parts, prefix)
        found = {"memory": self._score(own, task)}
        if swap is not None:
            found["swapped"] = self._score(own.rows(swap.to(own.vectors.device)), task)
        if with_mean:
            found["mean"] = self._score(own.mean(), task)
        return found | {str(size): self._score(self.remember(parts, prefix, size), task) for size in sizes}

    @torch.no_grad()
    def score_reconstruction(self, batch: Batch) -> TokenScores:
        """Scores of the compressed tokens, predicted from the memory; (B, C), padded on the right.

        Raises:
            ValueError: this compressor was not trained to reconstruct.
        """
        if self.rmb is None:
            raise ValueError("score_reconstruction: needs rmb_task or rmb_only")
        parts = split(batch, self.view)
        if not parts.compressed_ids.shape[1]:  # texts no longer than what is kept of them
            nothing = torch.zeros(len(batch.context_ids), 0, device=self.backbone.device)
            return TokenScores(nothing, nothing.bool(), nothing.bool(), nothing.bool())
        return self._score(self.remember(parts, self.read(parts)), self._reconstruction(parts))

    def _score(self, memories: Memories, task: Task) -> TokenScores:
        (states,) = self.decode(memories, [task])
        return self.backbone.scores(states, task.ids, task.mask)

    def _reconstruction(self, parts: Parts) -> Task:
        assert self.rmb is not None
        return Task(self.rmb(), *padded_right((parts.compressed_ids, parts.compressed_mask)))

    def _task_inputs(self, task: Task) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, 1 + L + T - 1, H) embeddings of [task token, lead, ids but the last], and where each row's ids start."""
        following, starts = before_target(task.lead, task.ids)
        token = task.token.expand(len(task.ids), 1, -1)
        return torch.cat([token, self.backbone.embed(following)], dim=1), starts

    def _n_pieces(self, parts: Parts) -> int:
        """Contexts are as long as the settings say in training; a longer text of a user is more pieces."""
        return max(1, -(-parts.compressed_ids.shape[1] // self._piece_len))

    def _pieces(self, parts: Parts) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """What is compressed as (B x pieces, piece) ids and mask, and where each piece starts in its context.

        The first piece is padded on the left where the pieces do not fill the context. A batch without anything to
        compress is one row.
        """
        ids, mask, n_pieces = parts.compressed_ids, parts.compressed_mask, self._n_pieces(parts)
        if ids.shape[1] == 0:
            return ids[:1], None, None
        if n_pieces == 1:
            return ids, mask, None
        piece_len = self._piece_len
        missing = n_pieces * piece_len - ids.shape[1]
        if missing:
            mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
            mask = functional.pad(mask, (missing, 0))
            ids = functional.pad(ids, (missing, 0))
        starts = None
        if self.memory.has_places:
            places = torch.arange(n_pieces, device=ids.device)[None]
            if mask is not None:  # a short context begins with its first real piece
                real = -(-mask.sum(1, keepdim=True) // piece_len)
                places = (places - n_pieces + real.clamp(min=1)).clamp(min=0)
            starts = (places * piece_len).expand(len(ids), -1).reshape(-1, 1)
        mask = None if mask is None else mask.reshape(-1, piece_len)
        return ids.reshape(-1, piece_len), mask, starts

    def _teacher_states(self, batch: Batch, parts: Parts, prefix: Prefix | None) -> torch.Tensor:
        """States of the backbone that has read the whole context; it goes on from `prefix` where that is part of it."""
        if prefix is None:
            blocks = self.backbone.n_layers
            prefix = self.backbone.prefill(batch.context_ids, batch.context_mask, blocks, with_states=True)
            parts = split(batch, View())
        return self.backbone.teacher_states(prefix, lead_of(batch, parts), batch.target_ids)

    def _shares_prefix(self, parts: Parts, view: View) -> bool:
        """Whether the teacher reads the context just as the memory does; pooled states are those of their own layer."""
        own_layer = self.memory.reads_states and self.memory.n_blocks < self.backbone.n_layers
        one_piece = parts.compressed_ids.shape[1] > 0 and self._n_pieces(parts) == 1
        return view.compresses and one_piece and not own_layer

    def _needs_teacher(self) -> bool:
        return self.settings.kl_scale > 0.0


def lead_of(batch: Batch, parts: Parts) -> Stretch:
    """What the decoder reads as text before the target: kept tokens, then the prompt."""
    return joined([(parts.kept_ids, parts.kept_mask), prompt_of(batch)])


def _may_share_a_batch(tasks: list[Task]) -> bool:
    """Whether all tasks have as many tokens to predict and no text before them."""
    return len({task.ids.shape[1] for task in tasks}) == 1 and not any(task.lead[0].shape[1] for task in tasks)


def _for_each_vector(has_text: torch.Tensor | None, vectors: torch.Tensor, n_pieces: int) -> torch.Tensor | None:
    """A (B, pieces) mask of pieces as a (B, E) mask of their vectors."""
    return None if has_text is None else has_text.repeat_interleave(vectors.shape[1] // n_pieces, dim=1)


def _weights(task: Task, device: torch.device) -> torch.Tensor:
    if task.mask is None:
        return torch.ones(task.ids.numel(), device=device)
    return task.mask.to(device).flatten().float()
