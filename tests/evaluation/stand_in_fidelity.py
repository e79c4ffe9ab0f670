"""A stand-in for torch-fidelity's Inception, written by us: its interface, a tiny network.

It reads its weights as the library does, checks what it is fed with, and its features are the
pictures' own: mean and spread of each channel. `library` imports the real one.
"""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.evaluation.inception import MODULE
from di4c_plugin.programs.shims.refuse import refused_class

URL = "https://example.org/weights-stand-in-0123.pth"
FEATURES, CLASSES = 6, 5


class FeatureExtractorInceptionV3(nn.Module):
    """Six features and five classes."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: Any = None
    ) -> None:
        super().__init__()
        self.features_list = features_list
        self.fc = nn.Linear(FEATURES, CLASSES, bias=False)
        # As the library: it would run whatever is pickled in the file.
        state = torch.load(feature_extractor_weights_path, weights_only=False)
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features (B, 6) and logits (B, 5) in the order of `features_list`."""
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        assert not self.training
        values = x.flatten(2).float() / 255
        pooled = torch.cat([values.mean(-1), values.std(-1)], 1)
        found = {"2048": pooled, "logits_unbiased": self.fc(pooled)}
        return tuple(found[name] for name in self.features_list)


def weights(path: Path, seed: int = 0) -> Path:
    """Write weights to `path` and return it."""
    generator = torch.Generator().manual_seed(seed)
    torch.save({"fc.weight": 9 * torch.randn(CLASSES, FEATURES, generator=generator)}, path)
    return path


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in where torch-fidelity's module is imported from."""
    module: Any = ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3
    module.URL_INCEPTION_V3 = URL
    package = ModuleType(MODULE.partition(".")[0])
    package.__path__ = []
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, MODULE, module)


def library(name: str) -> ModuleType:
    """Import a module of torch-fidelity; skip the module of tests where it cannot be.

    It imports torchvision for other networks and data sets than ours. Where that is missing, an
    empty one stands there meanwhile, which refuses to be used: nothing that we test calls it.
    """
    try:
        with pytest.MonkeyPatch.context() as patch:
            if find_spec("torchvision") is None:
                for module in _torchvision():
                    patch.setitem(sys.modules, module.__name__, module)
            return importlib.import_module(name)
    except Exception as error:  # a torchvision that does not go with torch raises anything
        pytest.skip(f"needs torch-fidelity 0.4: {error}", allow_module_level=True)


def _torchvision() -> list[ModuleType]:
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms")
    whole, datasets, transforms = found = [ModuleType(name) for name in names]
    functional = ModuleType("torchvision.transforms.functional")
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(datasets, name, refused_class("torchvision", name, "torchvision"))
    vars(whole).update(datasets=datasets, transforms=transforms)
    vars(transforms).update(functional=functional)
    return [*found, functional]
