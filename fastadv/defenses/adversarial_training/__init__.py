"""Training, as usual or on adversarial samples: the survey's section 4."""

from . import distributed
from .attacks import fast_fgsm, madry_pgd
from .batches import Numbered, SplitBatches, TensorBatches
from .checkpoint import CheckpointError
from .distributed import process_group
from .log import Log
from .loss import AdversarialLoss, Evaluated
from .position import Epoch, Position
from .schedules import rise_and_fall
from .tensors import train
from .trainer import Trainer
from .validation import Accuracy, Validation

__all__ = [
    "Accuracy",
    "AdversarialLoss",
    "CheckpointError",
    "Epoch",
    "Evaluated",
    "Log",
    "Numbered",
    "Position",
    "SplitBatches",
    "TensorBatches",
    "Trainer",
    "Validation",
    "distributed",
    "fast_fgsm",
    "madry_pgd",
    "process_group",
    "rise_and_fall",
    "train",
]
