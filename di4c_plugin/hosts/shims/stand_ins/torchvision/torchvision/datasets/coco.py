"""Stand-in for `torchvision.datasets.coco`."""

from di4c_plugin.hosts.shims.refuse import refused_class

CocoCaptions = refused_class("torchvision", "torchvision.datasets.CocoCaptions", "torchvision")
