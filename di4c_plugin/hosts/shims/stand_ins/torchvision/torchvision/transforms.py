"""Stand-in for `torchvision.transforms`."""

from di4c_plugin.hosts.shims.refuse import refusal


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("torchvision", f"torchvision.transforms.{name}", "torchvision")
