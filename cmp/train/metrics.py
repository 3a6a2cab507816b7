"""Pure arithmetic on losses: what the numbers of a report mean. No tensor, no file.

Called by `bounds`, `evaluation` and `trial`. Every loss is in nats per kept target token.
"""

import math


def mean_or_nan(total: float, count: float) -> float:
    """`total / count`, NaN where nothing was counted."""
    return total / count if count else math.nan


def perplexity(loss: float) -> float:
    """exp of a loss; infinite where that overflows a float."""
    return math.exp(loss) if loss < 700 else math.inf
