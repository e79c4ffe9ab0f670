"""The training loop for hosts without one of their own: Lightning, EMA, checkpoints, progress."""

from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.interrupt import Interrupted
from di4c_plugin.training.run import model_file, train
from di4c_plugin.training.trainer import is_first_process

__all__ = [
    "Interrupted",
    "TrainingConfig",
    "is_first_process",
    "make_algorithm",
    "model_file",
    "train",
]
