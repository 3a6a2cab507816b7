"""From hidden states to vectors that the decoder can read as embeddings.

Shape suffixes: `B` batch, `K` compression tokens, `H` hidden.
"""

import torch
from torch import nn

from cmp.model.backbone import Backbone
from cmp.space.settings import TrialSettings

# Adam moves every entry of a matrix by about the learning rate, so the same rate moves the output of a wide matrix
# further, in proportion to its width. Scaled by REFERENCE_WIDTH / width, a learning rate found on a small model holds
# for a large one (Yang et al. 2022, muP). Its value puts the best rate of short trials near the 5e-3 to 1e-2 of the
# other trainables: on stories (width 64, 150 loops) 0.648, 0.657, 0.667, 0.680 recovered at 1/8, 1/2, 1, 2 times 5e-3.
REFERENCE_WIDTH = 512


class Projection(nn.Module):
    """Brings (B, K, H) states to the scale of embeddings; with `proj_cmpr` also learns a map, started at identity.

    The map is x + Wx + b; with `proj_hid_mult` it is x + W2 relu(W1 x + b1) + b, hidden width `proj_hid_mult` x H. W
    and W2 start at zero. It works on vectors of RMS 1, in float32 whatever the backbone computes in.
    """

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        width, device = backbone.hidden_size, backbone.device
        self._scale, self._dtype = backbone.embedding_rms, backbone.dtype
        self.gain: nn.Parameter | None = None
        self.inner: nn.Parameter | None = None
        if not settings.proj_cmpr:
            return
        self.gain = nn.Parameter(torch.ones(width, device=device))
        self.bias = nn.Parameter(torch.zeros(width, device=device))
        hidden = width
        if settings.proj_hid_mult is not None:
            hidden = max(1, round(settings.proj_hid_mult * width))
            self._inner_scale = (2 / width) ** 0.5
            self.inner = nn.Parameter(torch.randn(hidden, width, generator=seed).to(device))
            self.inner_bias = nn.Parameter(torch.zeros(hidden, device=device))
        self._linear_scale = REFERENCE_WIDTH / hidden
        self.linear = nn.Parameter(torch.zeros(width, hidden, device=device))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, K, H) states of any scale to (B, K, H) memory vectors in the backbone's precision."""
        x = states.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        if self.gain is not None:
            x = x * self.gain
            features = x
            if self.inner is not None:
                features = nn.functional.linear(x, self._inner_scale * self.inner, self.inner_bias).relu()
            x = x + nn.functional.linear(features, self._linear_scale * self.linear, self.bias)
        return (x * self._scale).to(self._dtype)
