"""What a user holds: a compressor loaded from its folder. Needs torch and transformers, no Ray.

Shape suffixes: `B` batch, `E` vectors of a memory, `D` width of a memory vector, `S` target.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, View
from cmp.model.compression import CompressionModel, Task
from cmp.model.generation import GREEDY, continuation_text, generate_after_memory, generate_after_tokens
from cmp.model.handover import lead_cache, lead_embeds
from cmp.model.hub import MESSAGE, HubError, push
from cmp.model.loading import LoadOptions
from cmp.model.memory import Memories
from cmp.model.pieces import Memory, Texts, is_single, joined, padded, rows_by_key, token_rows
from cmp.model.saving import (
    CONTROL_CONFIG,
    CONTROL_TENSORS,
    CompressorError,
    Origin,
    has_control,
    opened,
    read_compressor,
    read_config,
    read_tensors,
    save_compressor,
    write_for_hub,
)
from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings

__all__ = ["Compressor", "CompressorError", "Memory", "TextLosses", "save_compressor"]


@dataclasses.dataclass(frozen=True)
class TextLosses:
    """Losses of the same text without a memory, nats per token; `full_context` is None where the text is too long."""

    no_context: float
    full_context: float | None


class Compressor:
    """Turns texts into memories and goes on from them. Reading is thread-safe: nothing changes after loading."""

    def __init__(
        self,
        model: CompressionModel,
        origin: Origin | None = None,
        n_cmps: int | None = None,
        place: str | Path | None = None,
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.origin = origin or Origin()
        self.n_cmps = n_cmps or model.settings.n_cmps
        self._place = place

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str | None = None,
        torch_dtype: str | torch.dtype | None = None,
        backbone: str | Path | Backbone | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
    ) -> "Compressor":
        """Load a compressor and the backbone that it belongs to.

        Args:
            folder: config.json, compressor.safetensors; a search's `best/`, for instance. Or the URL of one, or
                "user/compressor" on the hub, or "user/compressor@revision".
            device: where to run; None is the GPU when there is one, or all of them where it was trained with
                `model_parallel`. Not used with a loaded backbone.
            torch_dtype: precision of the backbone; None is as in training, "auto" is what suits the device. Not used
                with a loaded backbone.
            backbone: a loaded backbone to share, or another place of the model it was trained with; None is the
                place that it was trained from, at the same commit where that is the hub.
            trust_remote_code: run the code that the backbone's files bring. Asked for here again, whatever it was
                trained with: a compressor from somewhere else must not decide it.
            attn_implementation: of transformers; None is its own choice.

        Raises:
            CompressorError: missing or damaged files, a backbone that cannot be loaded, or another one than it was
                trained with.
        """
        config, tensors = read_compressor(folder)
        if not isinstance(backbone, Backbone):
            place = config.backbone.place if backbone is None else str(backbone)
            options = LoadOptions(
                str(torch_dtype or config.settings.torch_dtype).removeprefix("torch."),
                device or ("cuda" if torch.cuda.is_available() else "cpu"),
                config.settings.model_parallel and device is None and torch.cuda.is_available(),
                trust_remote_code=trust_remote_code,
                quantization=config.settings.quantization,
                attn_implementation=attn_implementation,
            )
            backbone = _load_backbone(place, options)
        if backbone.identity.fingerprint != config.backbone.fingerprint:
            raise CompressorError(
                f"{folder}: trained with {config.backbone.name} (fingerprint {config.backbone.fingerprint}), "
                f"but {backbone.identity.name} has other weights ({backbone.identity.fingerprint}); "
                "give the model it was trained with as backbone"
            )
        model = CompressionModel(backbone, config.settings, config.settings.seed)
        _load_tensors(model, tensors, folder)
        return cls(model, config.origin, config.n_cmps, folder)

    @classmethod
    def text_control(cls, folder: str | Path, backbone: Backbone) -> "Compressor | None":
        """The text control in a compressor's folder, on the same backbone; None where the folder has none.

        Raises:
            CompressorError: damaged files, or a control of another backbone.
        """
        with opened(folder) as local:
            if not has_control(local):
                return None
            config = read_config(local, CONTROL_CONFIG)
            tensors = read_tensors(local, config, CONTROL_TENSORS)
        if backbone.identity.fingerprint != config.backbone.fingerprint:
            raise CompressorError(f"{folder}/{CONTROL_CONFIG}: trained with {config.backbone.name}, not this backbone")
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
    def piece_len(self) -> int:
        """The most tokens that are compressed at once; a longer text is cut into pieces."""
        return self.settings.piece_len or self.settings.compressed_len

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
        self,
        texts: Texts,
        attention_mask: torch.Tensor | None = None,
        *,
        n_cmps: int | None = None,
        batch_size: int = 32,
    ) -> Memory:
        """Memories of texts.

        The last `keep_len` tokens of a text stay text. What is before them is cut into consecutive pieces of
        `piece_len` tokens, the first one as long as is left over, because what follows hangs on the end; the pieces'
        memories lie one after the other. A compressor that was trained without `piece_len` has seen one piece only:
        how much an earlier one adds is for `loss` to say.

        Args:
            texts: a text, a list of texts, token ids of one or several, or a (T,) or (B, T) tensor of ids; ids come
                without special tokens.
            attention_mask: (B, T), with a tensor of ids: non-zero on real tokens.
            n_cmps: vectors of each piece, any number up to the trained one for a compressor trained with `nested`; None
                is all, or as many as its folder on the front stands for.
            batch_size: pieces that are read at once.

        Returns:
            The memories, in the backbone's precision, on its device, with the kept tokens.

        Raises:
            CompressorError: no text, one with more pieces than the backbone has positions for (kv memories are read
                where they lie), or a number of vectors that was not trained.
        """
        vectors = self._trained_count(n_cmps)
        rows = token_rows(self.tokenizer, texts, attention_mask)
        keep_len = self.settings.keep_len
        kept = [row[max(0, len(row) - keep_len) :] for row in rows]
        before = [row[: max(0, len(row) - keep_len)] for row in rows]
        made: dict[int, torch.Tensor] = {}
        for n_pieces, members in rows_by_key([max(1, -(-len(row) // self.piece_len)) for row in before]).items():
            self._require_places(n_pieces)
            at_once = max(1, batch_size // n_pieces)
            for start in range(0, len(members), at_once):
                some = members[start : start + at_once]
                ids, mask = padded([before[row] for row in some], left=True)
                memories = self.model.compress(Batch(ids, ids[:, :0], mask), View(n_vectors=vectors))
                made.update(zip(some, memories.vectors, strict=True))
        return Memory(joined([made[row] for row in range(len(rows))]), tuple(map(tuple, kept)), vectors)

    @torch.no_grad()
    def generate(self, memory: Memory, prompt: str | Sequence[str] = "", **generation_settings: Any) -> str | list[str]:
        """Write on from memories.

        Args:
            memory: from `compress`.
            prompt: comes after the memory and its kept tokens; one for all, or a list with one for each.
            generation_settings: those of transformers' `generate` (max_new_tokens, do_sample, temperature, top_k,
                top_p, num_beams, num_return_sequences, eos_token_id, ...); `seq_len` new tokens unless said otherwise.
                Penalties on repetition look at new tokens, not at the prompt.

        Returns:
            What follows the prompt: one text for one memory and one prompt, else a list, `num_return_sequences` for
            each memory in a row.
        """
        token = self._fwd_token("generate")
        self._checked(memory)
        prompts = [[*kept, *row] for kept, row in zip(memory.kept, self._prompt_rows(prompt, len(memory)), strict=True)]
        if not generation_settings.keys() & {"max_new_tokens", "max_length", "generation_config"}:
            generation_settings["max_new_tokens"] = self.settings.seq_len
        new = self.new_tokens(memory, token, prompts, **generation_settings)
        flat = [
            continuation_text(self.tokenizer, before, ids)
            for before, some in zip(prompts, new, strict=True)
            for ids in some
        ]
        return flat[0] if len(flat) == 1 and isinstance(prompt, str) else flat

    @torch.no_grad()
    def prompt_embeds(self, memory: Memory, prompt: str | Sequence[str] = "") -> torch.Tensor | list[torch.Tensor]:
        """What the decoder reads instead of a context, as embeddings, for a server that takes these (`prompt_embeds`).

        `encode_prompt_embeds` of `cmp.model.handover` makes the text of it that vLLM takes. Where a family scales its
        embeddings (Gemma), these are scaled: a server that scales what it is given has to leave that out.

        Args:
            memory: from `compress`.
            prompt: comes after the memory and its kept tokens; one for all, or a list with one for each.

        Returns:
            (n, H) in the backbone's precision, for one memory and one prompt; else a list of these.

        Raises:
            CompressorError: a memory of keys and values, which are no embeddings.
        """
        token, lengths = self._fwd_token("prompt_embeds"), self._checked(memory)
        prompts = self._prompt_rows(prompt, len(memory))
        found: list[torch.Tensor] = []
        for row, (length, kept) in enumerate(zip(lengths, memory.kept, strict=True)):
            ids = torch.tensor([[*kept, *prompts[row]]], dtype=torch.long)
            embeds = lead_embeds(self.model, self._part(memory, [row], length, ids.shape[1]), token, ids)
            if embeds is None:
                raise CompressorError(
                    'prompt_embeds: memory: "kv" is keys and values of every layer, not embeddings; use to_cache, or a '
                    'compressor that was trained with memory: "hidden" or "pooled"'
                )
            found.append(embeds[0])
        return found[0] if len(found) == 1 and isinstance(prompt, str) else found

    @torch.no_grad()
    def to_cache(self, memory: Memory) -> DynamicCache:
        """The memories and their kept tokens as a cache, for plain transformers code to go on from.

            cache, ids = compressor.to_cache(memory), tokenizer(prompt, return_tensors="pt").input_ids
            mask = torch.ones(len(ids), cache.get_seq_length() + ids.shape[1])
            model.generate(ids, attention_mask=mask, past_key_values=cache)

        `generate` changes the cache: make another one for another prompt. The prompt has a token at least, and no BOS.
        A text-generation pipeline wants the text of the cache before the prompt, and cuts it off: give it any token as
        often as `cache.get_seq_length()`, with `add_special_tokens=False`.

        Raises:
            CompressorError: memories of different lengths, which would need padding in the cache.
        """
        token, lengths = self._fwd_token("to_cache"), self._checked(memory)
        if len({(length, len(kept)) for length, kept in zip(lengths, memory.kept, strict=True)}) > 1:
            raise CompressorError("to_cache: memories of different lengths; make one cache for each: memory[i : i + 1]")
        ids = torch.tensor(memory.kept, dtype=torch.long).view(len(memory), -1)
        part = self._part(memory, list(range(len(memory))), lengths[0], ids.shape[1])
        return lead_cache(self.model, part, token, ids)

    @torch.no_grad()
    def new_tokens(
        self, memory: Memory, token: torch.Tensor, before: Sequence[Sequence[int]], **generation_settings: Any
    ) -> list[list[list[int]]]:
        """Token ids written after each memory, the task token and the ids that come before; see `generate`.

        Returns:
            For each memory `num_return_sequences` rows of ids.
        """
        lengths = self._checked(memory)
        new: list[list[list[int]]] = [[] for _ in lengths]
        for length, rows in rows_by_key(lengths).items():
            lead = padded([before[row] for row in rows], left=True)
            part = self._part(memory, rows, length, lead[0].shape[1] + _count_new(generation_settings))
            made = generate_after_memory(self.model, part, token, lead, **generation_settings)
            for row, some in zip(rows, made.view(len(rows), -1, made.shape[-1]).tolist(), strict=True):
                new[row] = some
        return new

    def loss(self, memory: Memory, text: Texts, *, per_token: bool = False) -> Any:
        """Teacher-forced cross-entropy of what follows a memory.

        Args:
            memory: from `compress`.
            text: what follows each memory: one for all, or as many as there are memories.
            per_token: every token's own loss instead of their mean.

        Returns:
            Nats per token: a float for one memory and one text, else a list of B; with `per_token` a list of floats
            in their place.
        """
        if self.model.fwd_token is None:
            raise CompressorError("loss: trained with rmb_only; use reconstruction_loss")
        return self._loss(memory, text, self.model.fwd_token, per_token, with_kept=True)

    def reconstruction_loss(self, memory: Memory, text: Texts, *, per_token: bool = False) -> Any:
        """Like `loss`, for reading the compressed text itself (without kept tokens) back from a memory of one piece."""
        return self._loss(memory, text, self._rmb_token("reconstruction_loss"), per_token, with_kept=False)

    @torch.no_grad()
    def reconstruct(self, memory: Memory, *, max_new_tokens: int | None = None) -> str | list[str]:
        """Write the compressed text back, greedily, piece by piece, and the kept tokens after it.

        Args:
            memory: from `compress`.
            max_new_tokens: of each piece; None is `piece_len`. A memory does not say how long its text was.

        Returns:
            One text for one memory, else a list.

        Raises:
            CompressorError: not trained to reconstruct (`rmb_task`, `rmb_only`).
        """
        token, n_cmps = self._rmb_token("reconstruct"), memory.n_cmps
        settings = {**GREEDY, "max_new_tokens": max_new_tokens or self.piece_len}
        texts = []
        for row, length in enumerate(self._checked(memory)):
            whole = self._part(memory, [row], length, 0).vectors
            ids: list[int] = []
            for piece in range(length // n_cmps):  # each one is read from where the decoder stood right after it
                part = Memories(whole[:, piece * n_cmps : (piece + 1) * n_cmps], piece + 1)
                none = torch.zeros(1, 0, dtype=torch.long)
                ids += generate_after_memory(self.model, part, token, (none, None), **settings)[0].tolist()
            texts.append(self.tokenizer.decode([*ids, *memory.kept[row]], skip_special_tokens=True))
        return texts[0] if len(texts) == 1 else texts

    def bounds(self, context: str | Sequence[int], text: str | Sequence[int]) -> TextLosses:
        """What `loss` lies between: the backbone alone on `text`, and after the uncompressed `context`."""
        (before,), (after,) = token_rows(self.tokenizer, context), token_rows(self.tokenizer, text)
        batch = Batch(torch.tensor([before]), torch.tensor([after]))
        no_context = self.backbone.score_no_context(batch).nll.mean().item()
        if not self.fits(len(before) + len(after)):
            return TextLosses(no_context, None)
        return TextLosses(no_context, self.backbone.score_full_context(batch).nll.mean().item())

    def continue_text(self, context: str | Sequence[int], prompt: str = "", **generation_settings: Any) -> str:
        """What the backbone itself writes after the uncompressed context (which may be empty) and the prompt."""
        before = token_rows(self.tokenizer, context)[0] if context else []
        before = before + (token_rows(self.tokenizer, prompt)[0] if prompt else [])
        ids = torch.tensor([before], dtype=torch.long).view(1, -1)
        new = generate_after_tokens(self.backbone, (ids, None), **generation_settings)
        return continuation_text(self.tokenizer, before, new[0].tolist())

    def fits(self, n_tokens: int) -> bool:
        """True when the backbone has positions for BOS and this many tokens."""
        limit = self.backbone.max_positions
        return limit is None or n_tokens + 1 <= limit

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, compressor.safetensors and README.md."""
        n_cmps = None if self.n_cmps == self.settings.n_cmps else self.n_cmps
        save_compressor(self.model, Path(folder), dataclasses.asdict(self.origin), n_cmps)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = MESSAGE,
        token: str | bool | None = None,
    ) -> str:
        """Put it on the Hugging Face hub, with the text control and the card that lie in its folder.

        The backbone stays where it is: others can load the compressor where they can load that. No file says where
        results and data lay; the data set is named as the space named it.

        Args:
            repository: "user/compressor"; made when missing.
            private: of a new repository; None is your account's default.
            revision: a branch, made when missing; None is main.
            message: of the commit.
            token: of the hub; None is the one you have logged in with.

        Returns:
            "user/compressor@commit", which `from_pretrained` takes: this very state of it.

        Raises:
            CompressorError: the hub refuses it, or cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="cmp-") as temporary:
            own, folder = Path(temporary) / "own", Path(temporary) / "hub"
            folder.mkdir()
            if self._place is None:
                self.save_pretrained(own)
            write_for_hub(own if self._place is None else self._place, folder, repository)
            try:
                return push(folder, repository, private=private, revision=revision, message=message, token=token)
            except HubError as error:
                raise CompressorError(str(error)) from error

    @torch.no_grad()
    def _loss(self, memory: Memory, text: Texts, token: torch.Tensor, per_token: bool, *, with_kept: bool) -> Any:
        lengths, targets = self._checked(memory), token_rows(self.tokenizer, text)
        if len(targets) == 1:
            targets = targets * len(memory)
        if len(targets) != len(memory):
            raise CompressorError(f"{len(targets)} texts for {len(memory)} memories; give one, or one for each")
        losses: list[list[float]] = [[] for _ in lengths]
        for length, rows in rows_by_key(lengths).items():
            ids, mask = padded([targets[row] for row in rows], left=False)
            ids = ids.to(self.backbone.device)
            lead, lead_mask = padded([memory.kept[row] if with_kept else () for row in rows], left=True)
            part = self._part(memory, rows, length, lead.shape[1] + ids.shape[1])
            (states,) = self.model.decode(part, [Task(token, ids, mask, lead, lead_mask)])
            scores = self.backbone.scores(states, ids, mask)
            for row, nll in zip(rows, scores.nll.tolist(), strict=True):
                losses[row] = nll[: len(targets[row])]
        results: list[Any] = losses if per_token else [sum(row) / len(row) for row in losses]
        return results[0] if len(results) == 1 and is_single(text) else results

    def _part(self, memory: Memory, rows: list[int], length: int, n_tokens: int) -> Memories:
        """The last `length` vectors of some rows, where the backbone can read them and `n_tokens` after them."""
        vectors = memory.vectors
        part = vectors[rows, vectors.shape[1] - length :].to(self.backbone.device, self.backbone.dtype)
        n_pieces = length // memory.n_cmps
        reader = self.model.memory.reader(part, n_pieces)
        start = length if reader.cache is None else int(reader.first_position)
        if not self.fits(start + n_tokens):  # the task token takes the place that `fits` keeps for BOS
            raise CompressorError(
                f"a memory that reaches to position {start} and {n_tokens} tokens after it are more than the model's "
                f"{self.backbone.max_positions} positions; compress fewer pieces, or write less"
            )
        return Memories(part, n_pieces)

    def _require_places(self, n_pieces: int) -> None:
        if not self.fits((places := self.model.memory.places(n_pieces)) - 1):
            raise CompressorError(
                f"a text of {n_pieces} pieces of {self.piece_len} tokens takes {places:,} positions, and the model has "
                f"{self.backbone.max_positions:,}; compress a shorter text, or parts of it, each for itself"
            )

    def _trained_count(self, n_cmps: int | None) -> int:
        """Vectors of a piece, as asked for, as the folder says or as trained."""
        trained, n_cmps = self.settings.n_cmps, n_cmps or self.n_cmps
        if n_cmps == trained:
            return trained
        if not self.settings.nested:
            raise CompressorError(f"n_cmps: trained for {trained} vectors only; other numbers need nested: true")
        if not 1 <= n_cmps <= trained:
            raise CompressorError(f"n_cmps: {n_cmps} is outside 1..{trained}, which it was trained for")
        return n_cmps

    def _checked(self, memory: Memory) -> list[int]:
        """The number of real vectors in each row of a memory."""
        vectors = memory.vectors
        if vectors.dim() != 3 or vectors.shape[1] == 0 or vectors.shape[1] % memory.n_cmps:
            raise CompressorError(
                f"memory: (B, E, D) vectors with E a multiple of {memory.n_cmps} are expected, not "
                f"{tuple(vectors.shape)}"
            )
        lengths = memory.lengths
        if 0 in lengths:
            raise CompressorError(f"memory: row {lengths.index(0)} holds zero vectors only")
        return lengths

    def _prompt_rows(self, prompt: str | Sequence[str], count: int) -> list[list[int]]:
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        if len(prompts) != count:
            raise CompressorError(f"prompt: {len(prompts)} prompts for {count} memories; give one, or one for each")
        return [token_rows(self.tokenizer, text)[0] if text else [] for text in prompts]

    def _fwd_token(self, method: str) -> torch.Tensor:
        if self.model.fwd_token is None:
            raise CompressorError(f"{method}: trained with rmb_only, so it can only reconstruct")
        return self.model.fwd_token

    def _rmb_token(self, method: str) -> torch.Tensor:
        if self.model.rmb_token is None:
            raise CompressorError(f"{method}: needs a compressor that was trained with rmb_task or rmb_only")
        return self.model.rmb_token


def _count_new(generation_settings: dict[str, Any]) -> int:
    """New tokens that were asked for by name, less the last, which needs no position."""
    return max(0, int(generation_settings.get("max_new_tokens") or 1) - 1)


def _load_backbone(place: str, options: LoadOptions) -> Backbone:
    try:
        return Backbone.load(place, options)
    except UserError as error:
        raise CompressorError(f"{place}: the backbone cannot be loaded ({error})") from error
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            advice = "if you trust the code that it brings, give trust_remote_code=True (--trust-remote-code)"
            raise CompressorError(f"{place}: {advice}") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompressorError(
            f"{place}: the backbone cannot be loaded ({reason}); give its place as backbone"
        ) from error


def _load_tensors(model: CompressionModel, tensors: dict[str, torch.Tensor], folder: str | Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CompressorError(f"{folder}: its tensors do not fit its settings ({', '.join(wrong[:5])})")
    model.load_state_dict(tensors)
