"""How each loop of a trial reads its contexts: a pure function of settings and loop, so that resuming repeats it.

Called by `loop`, `validation` and `bounds`.
"""

import math

import numpy as np

from cmp.model.batch import View
from cmp.space.settings import TrialSettings
from cmp.train.session import Role

# Of the text control's loops, this share reads no text, and this one the whole context; the others a number of tokens
# between, drawn evenly on a logarithmic scale, as the text curve is.
NO_TEXT, ALL_TEXT = 0.2, 0.1


def training_view(settings: TrialSettings, role: Role, loop: int) -> View:
    """How `loop` of a trial reads its contexts."""
    rng = np.random.default_rng([settings.seed, loop])
    if role == "control":
        return View(kept=_drawn_text(settings.context_len, rng.random(), rng.random()), compresses=False)
    if settings.nested:
        sizes = [*prefix_sizes(settings.n_cmps), settings.n_cmps]
        return View(kept=settings.keep_len, n_vectors=int(sizes[rng.integers(len(sizes))]))
    return View(kept=settings.keep_len)


def prefix_sizes(n_cmps: int) -> list[int]:
    """The powers of two below `n_cmps`: the smaller memories that a nested one is trained and validated for."""
    return [2**power for power in range(n_cmps.bit_length()) if 2**power < n_cmps]


def curve_lengths(context_len: int) -> list[int]:
    """The numbers of kept tokens at which the text curve is measured: 0, powers of two, and the whole context."""
    return [0, *prefix_sizes(context_len), context_len]


def _drawn_text(context_len: int, kind: float, share: float) -> int:
    """Tokens that stay text, from two numbers in [0, 1)."""
    if kind < NO_TEXT:
        return 0
    if kind < NO_TEXT + ALL_TEXT:
        return context_len
    return int(math.exp(share * math.log(context_len)))
