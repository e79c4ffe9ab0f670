"""Stand-in for `torchvision.datasets.cifar`."""

from di4c_plugin.programs.shims.refuse import refused_class

CIFAR10 = refused_class("torchvision", "torchvision.datasets.CIFAR10", "torchvision")
