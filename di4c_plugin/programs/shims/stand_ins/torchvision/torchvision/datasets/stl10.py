"""Stand-in for `torchvision.datasets.stl10`."""

from di4c_plugin.programs.shims.refuse import refused_class

STL10 = refused_class("torchvision", "torchvision.datasets.STL10", "torchvision")
