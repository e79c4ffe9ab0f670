"""Stand-in for torchvision: Duo imports it for its picture data."""

from di4c_plugin.hosts.shims.refuse import refusal

from . import transforms as transforms

__version__ = "0.0"


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("torchvision", f"torchvision.{name}", "torchvision")
