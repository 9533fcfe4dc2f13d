"""Training: the Learner, its models and its learning rates."""

from fastaug.training.learner import History, Learner
from fastaug.training.models import classifier, lite0_weights, model_statistics, parameter_groups
from fastaug.training.rates import slice_rates

__all__ = ["History", "Learner", "classifier", "lite0_weights", "model_statistics", "parameter_groups", "slice_rates"]
