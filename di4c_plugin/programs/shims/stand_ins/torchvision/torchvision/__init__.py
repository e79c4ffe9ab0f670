"""Stand-in for torchvision: what the hosts' picture data and their logs need, and no more."""

from di4c_plugin.programs.shims.refuse import refusal

from . import datasets as datasets
from . import transforms as transforms
from . import utils as utils

__version__ = "0.0"


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("torchvision", f"torchvision.{name}", "torchvision")
