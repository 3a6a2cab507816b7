"""From hidden states to vectors that the decoder can read as embeddings.

Shape suffixes: `B` batch, `K` compression tokens, `H` hidden.
"""

import torch
from torch import nn

from cmp.model.backbone import Backbone
from cmp.space.settings import TrialSettings


class Projection(nn.Module):
    """Brings (B, K, H) states to the scale of embeddings; with `proj_cmpr` also learns a map, started at identity.

    With `proj_hid_mult` the map is x + W2 relu(W1 x), W2 started at zero, hidden width `proj_hid_mult` x H. The map
    works on vectors of RMS 1, in float32 whatever the backbone computes in.
    """

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        width, device = backbone.hidden_size, backbone.device
        self._scale, self._dtype = backbone.embedding_rms, backbone.dtype
        self.gain: nn.Parameter | None = None
        self.linear: nn.Parameter | None = None
        self.inner: nn.Parameter | None = None
        if not settings.proj_cmpr:
            return
        self.gain = nn.Parameter(torch.ones(width, device=device))
        if settings.proj_hid_mult is None:
            self.linear = nn.Parameter(torch.eye(width, device=device))
            self.bias = nn.Parameter(torch.zeros(width, device=device))
            return
        hidden = max(1, round(settings.proj_hid_mult * width))
        inner = torch.randn(hidden, width, generator=seed) * (2 / width) ** 0.5
        self.inner = nn.Parameter(inner.to(device))
        self.inner_bias = nn.Parameter(torch.zeros(hidden, device=device))
        self.outer = nn.Parameter(torch.zeros(width, hidden, device=device))
        self.bias = nn.Parameter(torch.zeros(width, device=device))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, K, H) states of any scale to (B, K, H) memory vectors in the backbone's precision."""
        x = states.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        if self.gain is not None:
            x = x * self.gain
        if self.linear is not None:
            x = nn.functional.linear(x, self.linear, self.bias)
        elif self.inner is not None:
            inner = nn.functional.linear(x, self.inner, self.inner_bias).relu()
            x = x + nn.functional.linear(inner, self.outer, self.bias)
        return (x * self._scale).to(self._dtype)
