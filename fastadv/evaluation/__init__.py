"""What attacks do to models, measured, drawn and kept."""

from .detection import Roc, Samples, Tuning, roc, tune
from .experiment import Experiment, Goal, Subject, count_classes
from .figure import percent
from .results import Outcome, Prediction, Record, Results, in_use
from .robustness_curve import RobustnessCurve

__all__ = [
    "Experiment",
    "Goal",
    "Outcome",
    "Prediction",
    "Record",
    "Results",
    "RobustnessCurve",
    "Roc",
    "Samples",
    "Subject",
    "Tuning",
    "count_classes",
    "in_use",
    "percent",
    "roc",
    "tune",
]
