"""Training: the Learner, its models and its learning rates, and what came of it."""

from fastaug.models import classifier, lite0_weights, model_statistics, parameter_groups
from fastaug.training.checkpoint import KeepBest
from fastaug.training.interpretation import Interpretation
from fastaug.training.learner import History, Learner
from fastaug.training.losses import BinaryCrossEntropy
from fastaug.training.lr_finder import FoundRates
from fastaug.training.rates import slice_rates

__all__ = [
    "BinaryCrossEntropy",
    "FoundRates",
    "History",
    "Interpretation",
    "KeepBest",
    "Learner",
    "classifier",
    "lite0_weights",
    "model_statistics",
    "parameter_groups",
    "slice_rates",
]
