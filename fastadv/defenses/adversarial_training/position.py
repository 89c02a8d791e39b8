"""Where a training is, and what came of each pass: all that is counted, and nothing that is trained."""

from dataclasses import asdict, dataclass

from .validation import Accuracy


@dataclass
class Position:
    """Where a training is.

    Attributes:
        epoch: passes done.
        batch: batches of the current pass that are done.
        update: updates done in all.
        loss, right, samples: sums over the samples of the current pass.
        seconds: of the current pass, waiting for a resumption not counted.
        best: the highest robust accuracy of a validation so far, -1 before the first.
        best_epoch: the pass after which it was.
        stopped: validation has not improved for `patience` passes.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    loss: float = 0.0
    right: int = 0
    samples: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    stopped: bool = False

    @property
    def mean_loss(self) -> float:
        """Of the current pass so far."""
        return self.loss / self.samples

    @property
    def accuracy(self) -> float:
        """The part of the current pass's samples that the model got right."""
        return self.right / self.samples

    def add(self, batches: int, samples: int, loss: float, right: int) -> None:
        """Count an update: of so many batches and samples, with the sums over these."""
        self.batch += batches
        self.update += 1
        self.samples += samples
        self.loss += loss
        self.right += right

    def turn(self, validation: Accuracy | None, *, learning_rate: float, patience: int | None) -> "Epoch":
        """End a pass, see whether it was the best, and begin the next with sums of 0."""
        self.epoch += 1
        if validation is not None:
            if validation.robust > self.best:
                self.best, self.best_epoch = validation.robust, self.epoch
            self.stopped = patience is not None and self.epoch - self.best_epoch >= patience
        ended = Epoch(
            epoch=self.epoch,
            update=self.update,
            loss=self.mean_loss,
            accuracy=self.accuracy,
            learning_rate=learning_rate,
            seconds=self.seconds,
            validation=validation,
        )
        self.batch = self.right = self.samples = 0
        self.loss = self.seconds = 0.0
        return ended


@dataclass(frozen=True)
class Epoch:
    """What a pass over the samples came to.

    Attributes:
        epoch: its number, from 1.
        update: updates done in all.
        loss: the mean over its samples.
        accuracy: the part of the (adversarial) samples that the model got right when it was trained on them.
        learning_rate: after the pass.
        seconds: that it took, validation included.
        validation: what was measured after it.
    """

    epoch: int
    update: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    validation: Accuracy | None

    def row(self) -> dict[str, int | float]:
        """What the log has of it, in one line."""
        row = {name: value for name, value in asdict(self).items() if name != "validation"}
        if self.validation is not None:
            row |= {"clean": self.validation.clean, "robust": self.validation.robust}
        return row
