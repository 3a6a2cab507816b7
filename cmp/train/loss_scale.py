"""How far a float16 trial lifts its loss, so that small gradients survive: as high as none overflows.

Called by `optimizer`. float16 ends at 65,504 and loses what is below 6e-8. Which factor fits depends on the model, on
the batch (a mean over more tokens has smaller gradients) and on how far training is, so it is found while training, as
torch's GradScaler does. Its state lies on the device, because a GPU runs ahead of Python.
"""

import torch

FIRST = 2.0**16
SMALLEST, LARGEST = 1.0, 2.0**24
# A factor that is too high costs one step, so trying a higher one costs at most one step in this many. GradScaler waits
# 2,000, which is longer than most trials.
GROWTH_STEPS = 200


class LossScale:
    """What the loss is multiplied by before backward and gradients are divided by after it; 1 unless dynamic.

    Args:
        device: where training runs.
        dynamic: halve it when gradients overflow, double it after `GROWTH_STEPS` steps without.
    """

    def __init__(self, device: torch.device, *, dynamic: bool) -> None:
        self.dynamic = dynamic
        self.value = torch.full((), FIRST if dynamic else 1.0, device=device)
        self._clean_steps = torch.zeros((), device=device)

    def can_fall(self) -> torch.Tensor:
        """() bool on the device: an overflow may be the scale's fault and not the trial's."""
        return self.value > SMALLEST if self.dynamic else torch.zeros_like(self.value, dtype=torch.bool)

    def update(self, overflowed: torch.Tensor) -> None:
        """After a step: () bool on the device, whether its gradients were too large for float16."""
        if not self.dynamic:
            return
        self._clean_steps.add_(1.0).masked_fill_(overflowed, 0.0)
        grows = self._clean_steps >= GROWTH_STEPS
        self._clean_steps.masked_fill_(grows, 0.0)
        self.value.mul_(torch.where(grows, 2.0, torch.where(overflowed, 0.5, 1.0))).clamp_(SMALLEST, LARGEST)

    def state(self) -> list[float]:
        """What a checkpoint keeps: the scale, and the steps since it last changed."""
        return [self.value.item(), self._clean_steps.item()]

    def load(self, state: list[float]) -> None:
        """The inverse of `state`."""
        self.value.fill_(state[0])
        self._clean_steps.fill_(state[1])
