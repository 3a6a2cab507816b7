"""Every setting of a trial, a search and its resources: name, type, default, meaning.

A space file is parsed into these once; after that no dict of settings exists. Called by `loading` (which fills
them) and by everything downstream (which takes the part it needs).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrialSettings:
    """What one trial does. Lengths are in tokens; a loop is one micro-batch of `batch_size` sequences."""

    model_string: str
    dataset: str
    exp_name: str = "search"
    save_root: str = "results"
    testing: str | None = None
    seed: int = 0
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    multi_gpu: bool = False
    model_parallel: bool = False

    dataset_config: str | None = None
    text_column: str | None = None
    data_root: str | None = None
    n_data_procs: int | None = None
    abbrev_len: int | None = None

    cmp_len: int = 100
    seq_len: int = 40
    n_cmps: int = 4
    cmp_layer: int | Literal["half"] = "half"
    memory: Literal["hidden", "kv", "pooled"] = "hidden"
    lora_rank: int = 0
    proj_cmpr: bool = True
    proj_hid_mult: float | None = None
    sep_cmpr: bool = False

    rmb_task: bool = False
    rmb_only: bool = False
    rmb_scale: float = 0.25
    kl_scale: float = 0.0

    lr: float = 5e-3
    l2: float = 0.0
    lr_schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    patience: int = 2
    grad_clip: float | None = 1.0
    batch_size: int = 32
    n_grad_loops: int = 1
    n_train_loops: int = 100
    n_epochs: int = 10
    checkpt_mod: int | None = None
    val_batch_size: int = 32
    max_val_loops: int | None = 50


@dataclass(frozen=True)
class SearchSettings:
    """How trials are chosen and stopped. Epochs are the scheduler's unit of time."""

    num_samples: int = 24
    max_concurrent: int | None = None
    seed: int = 0
    startup_trials: int = 8
    grace_period: int = 1
    reduction_factor: int = 3
    min_peers: int = 3
    time_budget_seconds: float | None = None


@dataclass(frozen=True)
class ResourceSettings:
    """What one trial occupies. `None` is decided from the machine: see `search.footprint`."""

    workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: float | None = None


@dataclass(frozen=True)
class Window:
    """How documents are cut so that every trial of a space is scored on the same target tokens.

    A window is `context_len + target_len` consecutive tokens, where `context_len` is the largest `cmp_len` that the
    space can sample and `target_len` the largest `seq_len`. A trial reads the `cmp_len` tokens before position
    `context_len` and predicts the `seq_len` tokens after it. With `rmb_only` a window is `seq_len` tokens, context
    and target at once, and `context_len` is 0.
    """

    context_len: int
    target_len: int
