"""Learning rates."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARM_UP = 0.1
"""The part of a training in which the learning rate rises."""


def rise_and_fall(optimizer: Optimizer, updates: int) -> LambdaLR:
    """A rate that rises linearly to the optimizer's own and then falls linearly to 0, in so many updates.

    So the last batches do not decide what the model is like. Its step is an update.
    """

    def part(update: int) -> float:
        done = (update + 0.5) / updates
        return max(0.0, min(done / WARM_UP, (1 - done) / (1 - WARM_UP)))

    return LambdaLR(optimizer, part)
