"""Stand-in for `torchvision.datasets.mnist`."""

from di4c_plugin.programs.shims.refuse import refused_class

MNIST = refused_class("torchvision", "torchvision.datasets.MNIST", "torchvision")
