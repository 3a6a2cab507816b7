import torch

from cmp.model.compression import CompressionModel
from cmp.model.flops import ModelShape, loop_flops, shape_of
from cmp.model.steps import LossStep
from tests.model.families import settings, tiny_backbone
from tests.model.test_families import counts, full_batch, gradients, padded_batch


def test_a_step_adds_the_gradients_of_the_scaled_total() -> None:
    compressor = CompressionModel(tiny_backbone("gpt2"), settings(rmb_task=True), seed=0)
    step = LossStep(compressor, torch.tensor(3.0))
    expected: dict[str, torch.Tensor] = {}
    for batch in (full_batch(), padded_batch()):
        losses = step(batch, *counts(batch))
        total = compressor.losses(batch, *counts(batch)).total
        assert losses.total.item() == total.item()
        assert not losses.total.requires_grad
        for name, gradient in gradients(total, compressor).items():
            expected[name] = expected.get(name, torch.zeros(())) + 3.0 * gradient
    for name, parameter in compressor.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7)


def test_operations_of_a_loop_worked_out_by_hand() -> None:
    """Two blocks of 10 weights, 4 of them for keys and values, attention width 3, head 4 x 5; context 2, target 3.

    One compression token, layer 2. Prefill: 3 positions, a whole block: 2*10*3 + 4*3*6 = 132, keys and values of the
    second: 2*4*3 = 24. Compression: 1 position after 3, 2 blocks: 2*(20 + 4*3*4) = 136, twice: 272.
    Decoder: 4 positions, 2 blocks: 2*(2*10*4 + 4*3*10) = 400, twice: 800. Head: 2*4*5*3 = 120, twice: 240.
    """
    shape = ModelShape(
        n_layers=2, block_weights=10, key_value_weights=4, attention_width=3, hidden_size=4, vocab_size=5
    )
    flops = loop_flops(shape, settings(cmp_len=2, seq_len=3, n_cmps=1, cmp_layer=2), sequences=1)
    assert (flops.prefill, flops.compression, flops.decoder, flops.head) == (156, 272, 800, 240)
    assert loop_flops(shape, settings(cmp_len=2, seq_len=3, n_cmps=1, cmp_layer=2), 7).total == 7 * 1468


def test_operations_grow_with_what_a_setting_adds() -> None:
    shape = shape_of(tiny_backbone("llama"))
    assert shape.block_weights == 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    assert shape.key_value_weights == 2 * 32 * 16
    base = loop_flops(shape, settings()).total
    for more in ({"kl_scale": 0.1}, {"rmb_task": True}, {"cmp_layer": -1}, {"sep_cmpr": True}):
        assert loop_flops(shape, settings(**more)).total > base
    assert loop_flops(shape, settings(memory="pooled")).compression == 0
    assert loop_flops(shape, settings(memory="kv")).decoder < loop_flops(shape, settings()).decoder
