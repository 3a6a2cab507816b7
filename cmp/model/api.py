"""What a user holds: a compressor loaded from its folder. Needs torch and transformers, no Ray.

Shape suffixes: `B` batch, `K` memory vectors, `D` width of a memory vector, `S` target.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch
from cmp.model.compression import CompressionModel, Task
from cmp.model.generation import GREEDY, continuation_text, generate_after_memory, generate_after_tokens
from cmp.model.pieces import (
    Texts,
    context_batches,
    cut,
    is_single,
    joined,
    memory_lengths,
    padded,
    rows_by_key,
    token_rows,
)
from cmp.model.saving import CompressorError, Origin, read_config, read_tensors, save_compressor
from cmp.model.surgery import UnsupportedModelError
from cmp.space.settings import TrialSettings

__all__ = ["Bounds", "Compressor", "CompressorError", "save_compressor"]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Losses of the same text without a memory, nats per token; `full_context` is None where the text is too long."""

    no_context: float
    full_context: float | None


class Compressor:
    """Turns texts into memories and goes on from them. Reading is thread-safe: nothing changes after loading."""

    def __init__(self, model: CompressionModel, origin: Origin | None = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.origin = origin or Origin()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str | None = None,
        torch_dtype: str | torch.dtype | None = None,
        backbone: str | Path | Backbone | None = None,
    ) -> "Compressor":
        """Load a compressor and the backbone that it belongs to.

        Args:
            folder: config.json, compressor.safetensors; a search's `best/`, for instance.
            device: where to run; None is the GPU when there is one, or all of them where it was trained with
                `model_parallel`. Not used with a loaded backbone.
            torch_dtype: precision of the backbone; None is as in training. Not used with a loaded backbone.
            backbone: a loaded backbone to share, or another place of the model it was trained with; None is the
                place that it was trained from.

        Raises:
            CompressorError: missing or damaged files, a backbone that cannot be loaded, or another one than it was
                trained with.
        """
        folder = Path(folder)
        config = read_config(folder)
        tensors = read_tensors(folder, config)
        if not isinstance(backbone, Backbone):
            place = config.backbone.name if backbone is None else str(backbone)
            backbone = _load_backbone(place, device, torch_dtype or config.settings.torch_dtype, config.settings)
        if backbone.identity.fingerprint != config.backbone.fingerprint:
            raise CompressorError(
                f"{folder}: trained with {config.backbone.name} (fingerprint {config.backbone.fingerprint}), "
                f"but {backbone.identity.name} has other weights ({backbone.identity.fingerprint}); "
                "give the model it was trained with as backbone"
            )
        model = CompressionModel(backbone, config.settings, config.settings.seed)
        _load_tensors(model, tensors, folder)
        return cls(model, config.origin)

    @property
    def settings(self) -> TrialSettings:
        """The settings of the trial that made it."""
        return self.model.settings

    @property
    def backbone(self) -> Backbone:
        """The frozen language model."""
        return self.model.backbone

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        return self.model.backbone.tokenizer

    @property
    def context_len(self) -> int:
        """The longest text in tokens that becomes one piece of memory."""
        return self.settings.context_len

    @property
    def can_continue(self) -> bool:
        """False for a compressor that was only trained to reconstruct (`rmb_only`)."""
        return self.model.fwd_token is not None

    @property
    def can_reconstruct(self) -> bool:
        """True when trained with `rmb_task` or `rmb_only`."""
        return self.model.rmb_token is not None

    @torch.no_grad()
    def compress(
        self, texts: Texts, attention_mask: torch.Tensor | None = None, *, batch_size: int = 32
    ) -> torch.Tensor:
        """Memories of texts.

        A text longer than `context_len` tokens is cut into consecutive pieces of that length, the first one as long as
        is left over, and the pieces' memories lie one after the other. A compressor is trained on one piece: how much
        an earlier piece adds is for `loss` to say.

        Args:
            texts: a text, a list of texts, token ids of one or several, or a (T,) or (B, T) tensor of ids; ids come
                without special tokens.
            attention_mask: (B, T), with a tensor of ids: non-zero on real tokens.
            batch_size: pieces that are read at once.

        Returns:
            (B, K, D) in the backbone's precision, on its device. K is `n_cmps` times the pieces of the longest text;
            rows of shorter texts begin with zero vectors, which all methods here leave out.
        """
        rows = [cut(row, self.context_len) for row in token_rows(self.tokenizer, texts, attention_mask)]
        pieces = [piece for row in rows for piece in row]
        memories = [self.model.memory.make(self.model.read(batch)) for batch in context_batches(pieces, batch_size)]
        return joined(torch.cat(memories), [len(row) for row in rows])

    @torch.no_grad()
    def generate(
        self, memory: torch.Tensor, prompt: str | Sequence[str] = "", **generation_settings: Any
    ) -> str | list[str]:
        """Write on from memories.

        Args:
            memory: (B, K, D) from `compress`.
            prompt: comes after the memory; one for all, or a list with one for each.
            generation_settings: those of transformers' `generate` (max_new_tokens, do_sample, temperature, top_k,
                top_p, num_beams, num_return_sequences, eos_token_id, ...); `seq_len` new tokens unless said otherwise.
                Penalties on repetition look at new tokens, not at the prompt.

        Returns:
            What follows the prompt: one text for one memory and one prompt, else a list, `num_return_sequences` for
            each memory in a row.
        """
        if self.model.fwd_token is None:
            raise CompressorError("generate: trained with rmb_only, so it can only reconstruct")
        lengths = self._checked(memory)
        prompts = self._prompt_rows(prompt, len(memory))
        if not generation_settings.keys() & {"max_new_tokens", "max_length", "generation_config"}:
            generation_settings["max_new_tokens"] = self.settings.seq_len
        texts: list[list[str]] = [[] for _ in lengths]
        for (length, _), rows in rows_by_key([(n, len(p)) for n, p in zip(lengths, prompts, strict=True)]).items():
            ids = torch.tensor([prompts[row] for row in rows], dtype=torch.long).view(len(rows), -1)
            part = self._part(memory, rows, length, ids.shape[1] + _count_new(generation_settings))
            new = generate_after_memory(self.model, part, self.model.fwd_token, ids, **generation_settings)
            for row, some in zip(rows, new.view(len(rows), -1, new.shape[-1]).tolist(), strict=True):
                texts[row] = [continuation_text(self.tokenizer, prompts[row], ids) for ids in some]
        flat = [text for some in texts for text in some]
        return flat[0] if len(flat) == 1 and isinstance(prompt, str) else flat

    def loss(self, memory: torch.Tensor, text: Texts, *, per_token: bool = False) -> Any:
        """Teacher-forced cross-entropy of what follows a memory.

        Args:
            memory: (B, K, D) from `compress`.
            text: what follows each memory: one for all, or as many as there are memories.
            per_token: every token's own loss instead of their mean.

        Returns:
            Nats per token: a float for one memory and one text, else a list of B; with `per_token` a list of floats
            in their place.
        """
        if self.model.fwd_token is None:
            raise CompressorError("loss: trained with rmb_only; use reconstruction_loss")
        return self._loss(memory, text, self.model.fwd_token, per_token)

    def reconstruction_loss(self, memory: torch.Tensor, text: Texts, *, per_token: bool = False) -> Any:
        """Like `loss`, for reading the compressed text itself back from its memory of one piece."""
        return self._loss(memory, text, self._rmb_token("reconstruction_loss"), per_token)

    @torch.no_grad()
    def reconstruct(self, memory: torch.Tensor, *, max_new_tokens: int | None = None) -> str | list[str]:
        """Write the compressed text back, greedily, piece by piece.

        Args:
            memory: (B, K, D) from `compress`.
            max_new_tokens: of each piece; None is `context_len`. A memory does not say how long its text was.

        Returns:
            One text for one memory, else a list.

        Raises:
            CompressorError: not trained to reconstruct (`rmb_task`, `rmb_only`).
        """
        token, n_cmps = self._rmb_token("reconstruct"), self.settings.n_cmps
        texts = []
        for row, length in enumerate(self._checked(memory)):
            pieces = self._part(memory, [row], length, 0).view(length // n_cmps, n_cmps, -1)
            settings = {**GREEDY, "max_new_tokens": max_new_tokens or self.context_len}
            none = torch.zeros(len(pieces), 0, dtype=torch.long)
            new = generate_after_memory(self.model, pieces, token, none, **settings)
            texts.append(self.tokenizer.decode(new.flatten().tolist(), skip_special_tokens=True))
        return texts[0] if len(texts) == 1 else texts

    def bounds(self, context: str | Sequence[int], text: str | Sequence[int]) -> Bounds:
        """What `loss` lies between: the backbone alone on `text`, and after the uncompressed `context`."""
        (before,), (after,) = token_rows(self.tokenizer, context), token_rows(self.tokenizer, text)
        batch = Batch(torch.tensor([before]), torch.tensor([after]))
        no_context = self.backbone.score_no_context(batch).nll.mean().item()
        if not self.fits(len(before) + len(after)):
            return Bounds(no_context, None)
        return Bounds(no_context, self.backbone.score_full_context(batch).nll.mean().item())

    def continue_text(self, context: str | Sequence[int], prompt: str = "", **generation_settings: Any) -> str:
        """What the backbone itself writes after the uncompressed context (which may be empty) and the prompt."""
        before = token_rows(self.tokenizer, context)[0] if context else []
        before = before + (token_rows(self.tokenizer, prompt)[0] if prompt else [])
        ids = torch.tensor([before], dtype=torch.long).view(1, -1)
        new = generate_after_tokens(self.backbone, ids, **generation_settings)
        return continuation_text(self.tokenizer, before, new[0].tolist())

    def fits(self, n_tokens: int) -> bool:
        """True when the backbone has positions for BOS and this many tokens."""
        limit = self.backbone.max_positions
        return limit is None or n_tokens + 1 <= limit

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, compressor.safetensors and README.md."""
        save_compressor(self.model, Path(folder), dataclasses.asdict(self.origin))

    @torch.no_grad()
    def _loss(self, memory: torch.Tensor, text: Texts, token: torch.Tensor, per_token: bool) -> Any:
        lengths, targets = self._checked(memory), token_rows(self.tokenizer, text)
        if len(targets) == 1:
            targets = targets * len(memory)
        if len(targets) != len(memory):
            raise CompressorError(f"{len(targets)} texts for {len(memory)} memories; give one, or one for each")
        losses: list[list[float]] = [[] for _ in lengths]
        for length, rows in rows_by_key(lengths).items():
            ids, mask = padded([targets[row] for row in rows], left=False)
            ids = ids.to(self.backbone.device)
            part = self._part(memory, rows, length, ids.shape[1])
            (states,) = self.model.decode(part, [Task(token, ids, mask)])
            scores = self.backbone.scores(states, ids, mask)
            for row, nll in zip(rows, scores.nll.tolist(), strict=True):
                losses[row] = nll[: len(targets[row])]
        results: list[Any] = losses if per_token else [sum(row) / len(row) for row in losses]
        return results[0] if len(results) == 1 and is_single(text) else results

    def _part(self, memory: torch.Tensor, rows: list[int], length: int, n_tokens: int) -> torch.Tensor:
        """The last `length` vectors of some rows, where the backbone can read them and `n_tokens` after them."""
        part = memory[rows, memory.shape[1] - length :].to(self.backbone.device, self.backbone.dtype)
        reader = self.model.memory.reader(part)
        start = length if reader.cache is None else reader.first_position
        if not self.fits(start + n_tokens):  # the task token takes the place that `fits` keeps for BOS
            raise CompressorError(
                f"a memory that reaches to position {start} and {n_tokens} tokens after it are more than the model's "
                f"{self.backbone.max_positions} positions; compress fewer pieces, or write less"
            )
        return part

    def _checked(self, memory: torch.Tensor) -> list[int]:
        """The number of real vectors in each row of a memory."""
        if memory.dim() != 3 or memory.shape[1] == 0 or memory.shape[1] % self.settings.n_cmps:
            raise CompressorError(
                f"memory: (B, K, D) with K a multiple of {self.settings.n_cmps} is expected, not {tuple(memory.shape)}"
            )
        lengths = memory_lengths(memory)
        if 0 in lengths:
            raise CompressorError(f"memory: row {lengths.index(0)} holds zero vectors only")
        return lengths

    def _prompt_rows(self, prompt: str | Sequence[str], count: int) -> list[list[int]]:
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        if len(prompts) != count:
            raise CompressorError(f"prompt: {len(prompts)} prompts for {count} memories; give one, or one for each")
        return [token_rows(self.tokenizer, text)[0] if text else [] for text in prompts]

    def _rmb_token(self, method: str) -> torch.Tensor:
        if self.model.rmb_token is None:
            raise CompressorError(f"{method}: needs a compressor that was trained with rmb_task or rmb_only")
        return self.model.rmb_token


def _count_new(generation_settings: dict[str, Any]) -> int:
    """New tokens that were asked for by name, less the last, which needs no position."""
    return max(0, int(generation_settings.get("max_new_tokens") or 1) - 1)


def _load_backbone(
    place: str, device: torch.device | str | None, torch_dtype: str | torch.dtype, settings: TrialSettings
) -> Backbone:
    gpu = torch.cuda.is_available()
    spread = settings.model_parallel and device is None and gpu
    device = device or ("cuda" if gpu else "cpu")
    dtype = str(torch_dtype).removeprefix("torch.")
    try:
        return Backbone.load(place, torch_dtype=dtype, device=device, model_parallel=spread)
    except (OSError, UnsupportedModelError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompressorError(
            f"{place}: the backbone cannot be loaded ({reason}); give its place as backbone"
        ) from error


def _load_tensors(model: CompressionModel, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CompressorError(f"{folder}: its tensors do not fit its settings ({', '.join(wrong[:5])})")
    model.load_state_dict(tensors)
