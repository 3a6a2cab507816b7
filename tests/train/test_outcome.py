from dataclasses import replace

import pytest
import torch

from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings
from cmp.train.outcome import TrialFailedError, as_failure

SETTINGS = TrialSettings(model_string="m", dataset="d", batch_size=48, val_batch_size=64)


def test_running_out_of_memory_is_recognised_in_each_of_its_forms() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
        failure = as_failure(error, SETTINGS)
        assert failure.kind == "out_of_memory"
        assert "batch_size 48" in failure.reason and "val_batch_size 64" in failure.reason
    assert "bfloat16" in as_failure(MemoryError(), SETTINGS).reason
    assert "bfloat16" not in as_failure(MemoryError(), replace(SETTINGS, torch_dtype="bfloat16")).reason


def test_recomputation_is_advised_where_it_is_not_done_yet() -> None:
    assert "or set gradient_checkpointing: true" in as_failure(MemoryError(), SETTINGS).reason
    assert "checkpointing" not in as_failure(MemoryError(), replace(SETTINGS, gradient_checkpointing=True)).reason


def test_any_other_error_is_one_line() -> None:
    failure = as_failure(ValueError("\nfirst\nsecond"), SETTINGS)
    assert (failure.kind, failure.reason) == ("failed", "ValueError: first")
    assert as_failure(KeyError(), SETTINGS).reason == "KeyError"
    assert as_failure(UserError("dataset", "no such file"), SETTINGS).reason == "dataset: no such file"


def test_a_failure_stays_what_it_is() -> None:
    failure = TrialFailedError("diverged", "the loss is not finite at loop 3 (epoch 1)")
    assert as_failure(failure, SETTINGS) is failure
