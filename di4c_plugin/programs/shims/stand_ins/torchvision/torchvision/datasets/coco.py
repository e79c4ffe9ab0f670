"""Stand-in for `torchvision.datasets.coco`."""

from di4c_plugin.programs.shims.refuse import refused_class

CocoCaptions = refused_class("torchvision", "torchvision.datasets.CocoCaptions", "torchvision")
