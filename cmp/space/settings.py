"""Every setting of a trial, a search and its resources: name, type, rule, meaning, default; one line or two each.

A space file is parsed into these once; after that no dict of settings exists. Called by `loading` (which fills
them) and by everything downstream (which takes the part it needs). `rules.read_rules` turns the annotations into
checks, `--help` and the README's table, so a new setting is one line here.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cmp.space.rules import NotSearched, Range, Rule, read_rules

_Place = NotSearched("it says where files go, not what a trial does")
_Machine = NotSearched("it says what a trial occupies, not what it learns")
_Text = NotSearched("losses on different texts or tokens cannot be compared; use one space file for each")
_Backbone = NotSearched("losses of different models cannot be compared; use one space file for each")
_Validation = NotSearched("trials would be validated on different windows")
_Task = NotSearched("losses of different tasks cannot be compared; use one space file for each")
# The same compressor has 3.888 nats per token on 10 target tokens and 3.536 on 40.
_Target = NotSearched("losses over more or fewer target tokens cannot be compared; use one space file for each")
_POSITIVE = Range(0, exclusive=True)


@dataclass(frozen=True)
class TrialSettings:
    """What one trial does. Lengths are in tokens; a loop is one micro-batch of `batch_size` sequences."""

    model_string: Annotated[
        str, _Text, "the pretrained causal LM: hub id (with @revision), local folder, GGUF file, or built-in pydoc"
    ]
    dataset: Annotated[str, _Text, "openwebtext, glue, pydoc, a hub data set (with @revision), or local files"]
    revision: Annotated[
        str | None, _Text, "commit, tag or branch of a model_string of the hub, as in model_string: name@revision"
    ] = None
    trust_remote_code: Annotated[
        bool, _Text, "run the code that a model brings with it, on this machine, with all your rights"
    ] = False
    exp_name: Annotated[str, _Place, "results go to save_root/exp_name; the space file's name by default"] = "search"
    save_root: Annotated[str, _Place, "the folder, or s3://, gs:// or az:// URL, of all results"] = "results"
    testing: Annotated[str | None, _Place, "a small model for --test to use instead; pydoc-tiny by default"] = None
    warm_start: Annotated[
        str | None,
        NotSearched("trials that begin elsewhere cannot be compared; use one space file for each"),
        "start trials from a saved compressor of the same model: folder, URL or hub id; vectors it lacks are added",
    ] = None
    seed: Annotated[int, Range(0), "every random choice of a trial follows from it"] = 0
    torch_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        "precision of the frozen backbone; auto is bfloat16 where the device is good at it; trainables stay float32",
    ] = "auto"
    quantization: Annotated[
        Literal["8bit", "4bit"] | None, _Backbone, "bits of the frozen weights, by bitsandbytes (GPUs only)"
    ] = None
    attn_implementation: Annotated[
        str | None, _Machine, "of transformers: sdpa, eager, flash_attention_2, ...; null is its own choice"
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        _Machine,
        "run blocks again in the backward pass, to keep less of them until then: less memory, more time",
    ] = False
    multi_gpu: Annotated[bool, _Machine, "split each batch over several workers, one GPU each"] = False
    model_parallel: Annotated[bool, _Machine, "one worker spreads the backbone over its GPUs"] = False

    dataset_config: Annotated[str | None, _Text, "the data set's configuration, such as glue's task (mrpc)"] = None
    text_column: Annotated[str | None, _Text, "the column to read; found by itself when there is only one text"] = None
    context_column: Annotated[
        str | None, _Text, "rows instead of texts: the column to compress; a.b is b nested in a, a list becomes lines"
    ] = None
    prompt_column: Annotated[
        str | None, _Text, "what is asked of the context: read after the memory as text, without loss"
    ] = None
    answer_column: Annotated[
        str | None, _Text, "what is predicted; of a list (answers.text) the first is trained on, all are scored against"
    ] = None
    answer_choices: Annotated[
        str | None, _Text, 'the words of labels 0, 1, ... ("no, yes"): a classification, scored by likelihood'
    ] = None
    prompt_template: Annotated[
        str | None,
        _Text,
        'how a prompt is written, "\\nQuestion: {prompt}\\nAnswer:" for one; "\\n{prompt}\\n" if null',
    ] = None
    chat_template: Annotated[bool, _Text, "write prompts as the user's turn of the model's own chat template"] = False
    prompt_len: Annotated[int, Range(1), _Text, "rows with a longer prompt, in tokens, are left out"] = 128
    cut: Annotated[
        Literal["start", "end", "error"],
        _Text,
        "of a row's context above cmp_len, the start or the end is cut off, or it is an error",
    ] = "start"
    data_root: Annotated[str | None, _Place, "the folder for tokenized data; ~/.cache/cmp or $CMP_CACHE if null"] = None
    n_data_procs: Annotated[int | None, Range(1), _Machine, "threads that tokenize; one per core by default"] = None
    abbrev_len: Annotated[
        int | None,
        Range(1),
        _Text,
        "use at most this many documents; of a hub data set a seeded choice, and little more is downloaded",
    ] = None

    cmp_len: Annotated[int, Range(1), "context: how many tokens are compressed"] = 100
    seq_len: Annotated[
        int, Range(1), _Target, "target: how many tokens are predicted; with rmb_only the context as well"
    ] = 40
    n_cmps: Annotated[int, Range(1), "how many compression tokens, so how many vectors a memory has"] = 4
    keep_len: Annotated[
        int, Range(0), "the last tokens of the context stay text: read after the memory as they are"
    ] = 0
    nested: Annotated[
        bool, "train for every number of vectors up to n_cmps at once: the first n vectors are a memory of n"
    ] = False
    piece_len: Annotated[
        int | None, Range(1), "compress the context in pieces of this many tokens, each into n_cmps vectors"
    ] = None
    recursive: Annotated[bool, "compression tokens of a piece also read the memories of the pieces before it"] = False
    cmp_layer: Annotated[
        int | Literal["half"],
        Range(excluding=(0,)),
        "the layer a memory is read from: 1 is the first, -1 the last, half the middle",
    ] = "half"
    memory: Annotated[
        Literal["hidden", "kv", "pooled"],
        "hidden states at cmp_layer, keys and values of every layer, or the context's states averaged in pieces",
    ] = "hidden"
    lora_rank: Annotated[int, Range(0), "rank of LoRA that acts at the compression tokens only; 0 is none"] = 0
    proj_cmpr: Annotated[bool, "project the memory, starting at the identity, before it is read"] = True
    proj_hid_mult: Annotated[
        float | None, _POSITIVE, "two-layer projection with this many times the model's width inside; null is linear"
    ] = None
    sep_cmpr: Annotated[bool, "a trained separator between context and compression tokens"] = False

    rmb_task: Annotated[bool, "add the loss of reconstructing the context (rmb_rask in old files)"] = False
    rmb_only: Annotated[bool, _Task, "reconstruct seq_len tokens and do nothing else; cmp_len is ignored"] = False
    rmb_scale: Annotated[float, Range(0), "weight of the reconstruction loss that rmb_task adds"] = 0.25
    kl_scale: Annotated[float, Range(0), "weight of the KL from the full-context backbone, per target token"] = 0.0

    lr: Annotated[float, _POSITIVE, "learning rate of AdamW"] = 5e-3
    l2: Annotated[float, Range(0), "AdamW's weight decay"] = 0.0
    lr_schedule: Annotated[
        Literal["cosine", "plateau", "constant"], "cosine with warm-up, or reduced when val_loss stalls, or constant"
    ] = "cosine"
    patience: Annotated[int, Range(0), "epochs without a better val_loss before lr_schedule: plateau reduces lr"] = 2
    grad_clip: Annotated[float | None, _POSITIVE, "largest norm of the gradient; null is no clipping"] = 1.0
    batch_size: Annotated[int, Range(1), "sequences per loop, over all workers together"] = 32
    n_grad_loops: Annotated[int, Range(1), "loops per optimizer step; the loss is divided by it"] = 1
    n_train_loops: Annotated[int, Range(1), "loops per epoch"] = 100
    n_epochs: Annotated[int, Range(1), "epochs: after each one validation, one checkpoint, one report"] = 10
    checkpt_mod: Annotated[int | None, Range(1), "also checkpoint every this many loops inside an epoch"] = None
    val_batch_size: Annotated[int, Range(1), _Validation, "sequences per validation batch"] = 32
    max_val_loops: Annotated[int | None, Range(1), _Validation, "validate on at most this many batches"] = 50

    @property
    def context_len(self) -> int:
        """Tokens of a context: `cmp_len`, or with `rmb_only` the `seq_len` tokens to be reconstructed."""
        return self.seq_len if self.rmb_only else self.cmp_len

    @property
    def compressed_len(self) -> int:
        """Tokens of the context that are compressed: all but the kept ones."""
        return self.context_len - self.keep_len

    @property
    def n_pieces(self) -> int:
        """Pieces that a whole context is compressed in."""
        return 1 if self.piece_len is None else -(-self.compressed_len // self.piece_len)

    @property
    def n_vectors(self) -> int:
        """Vectors of a whole context's memory."""
        return self.n_cmps * self.n_pieces

    @property
    def positions(self) -> int:
        """What the decoder reads in the context's place, vectors and kept tokens: the price of this compressor."""
        return self.n_vectors + self.keep_len


@dataclass(frozen=True)
class SearchSettings:
    """How trials are chosen and stopped. Epochs are the scheduler's unit of time."""

    num_samples: Annotated[int, Range(1), "how many trials"] = 24
    objective: Annotated[
        Literal["loss", "front"],
        "the lowest val_loss, or the lowest for every number of positions; front is the default where n_cmps, keep_len "
        "or piece_len is searched",
    ] = "loss"
    best_positions: Annotated[
        int | None, Range(1), "best/ is the lowest val_loss at no more than this many positions; at any by default"
    ] = None
    max_concurrent: Annotated[int | None, Range(1), "trials at once at most; as many as fit by default"] = None
    seed: Annotated[int, Range(0), "every choice of settings follows from it and the history"] = 0
    startup_trials: Annotated[int, Range(0), "trials spread evenly over the space before results are learnt from"] = 8
    grace_period: Annotated[int, Range(1), "epochs before a trial may be stopped"] = 1
    reduction_factor: Annotated[int, Range(2), "of this many trials one goes on at each rung"] = 3
    min_peers: Annotated[int, Range(1), "results a rung needs before it may stop a trial"] = 3
    control: Annotated[
        bool, "train the text control: what plain text does at the same price; without, the bare model's"
    ] = True
    confirm: Annotated[int, Range(0), "train so many of the best settings again under two more seeds"] = 0
    time_budget_seconds: Annotated[
        float | None,
        _POSITIVE,
        "after this time, over all runs, no trial starts and running ones leave to be continued",
    ] = None
    first: Annotated[tuple[dict[str, Any], ...], "searched settings to try first; what is left out is sampled"] = ()
    learn_from: Annotated[
        tuple[str, ...], "results of earlier searches of the same model, data and validation, to learn from"
    ] = ()
    gpu_hours: Annotated[float | None, _POSITIVE, "after so many hours of GPUs at work, over all runs, likewise"] = None
    trial_time_limit_seconds: Annotated[
        float | None, _POSITIVE, "a trial that was at work so long is stopped after its next report"
    ] = None
    tracker: Annotated[Literal["wandb", "mlflow"] | None, "send every report there too, through Ray Tune"] = None


@dataclass(frozen=True)
class ResourceSettings:
    """What one trial occupies. `None` is decided from the machine: see `search.footprint`."""

    workers: Annotated[int | None, Range(1), "processes that share each batch of a trial"] = None
    gpus_per_worker: Annotated[float | None, Range(0), "GPUs of one worker; 0.5 lets two share one"] = None
    cpus_per_worker: Annotated[float | None, _POSITIVE, "CPU cores of one worker"] = None


@dataclass(frozen=True)
class Window:
    """How documents are cut so that every trial of a space is scored on the same target tokens.

    A window is `context_len + target_len` consecutive tokens, where `context_len` is the largest `cmp_len` that the
    space can sample and `target_len` is `seq_len`. A trial reads the `cmp_len` tokens before position
    `context_len` and predicts the `seq_len` tokens after it. With `rmb_only` a window is `seq_len` tokens, context
    and target at once, and `context_len` is 0.
    """

    context_len: int
    target_len: int


SECTIONS: dict[str, type] = {"search": SearchSettings, "resources": ResourceSettings}
RULES: dict[str, Rule] = {
    **read_rules(TrialSettings),
    **read_rules(SearchSettings, "search"),
    **read_rules(ResourceSettings, "resources"),
}
