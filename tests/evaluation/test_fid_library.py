"""Our FID and IS against torch-fidelity's own, with an Inception of random weights."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from di4c_plugin.evaluation.fid import FID
from di4c_plugin.evaluation.inception import MODULE, Inception
from di4c_plugin.evaluation.picture_metric import MetricOptions, Reference
from tests.evaluation import stand_in_fidelity

library: Any = stand_in_fidelity.library(MODULE)


class Pictures(Dataset[Tensor]):
    """Pictures as the library takes them."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index]


def pictures(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    return (coarse.repeat_interleave(8, -1).repeat_interleave(8, -2) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under which features keep their size through all layers."""
    folder = tmp_path_factory.mktemp("inception")
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in _shapes(library).items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
        noise = torch.randn(shape, generator=generator) * math.sqrt(2 / fan_in)
        ones = name.endswith(("bn.weight", "running_var"))
        state[name] = torch.ones(shape) if ones else noise if fan_in > 1 else torch.zeros(shape)
    torch.save(state, folder / "random.pth")
    return folder / "random.pth"


def _shapes(library: Any) -> dict[str, torch.Size]:
    """Names and shapes of all weights: the network is made without any."""

    class Bare(library.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state: Any) -> None:
            pass

    empty = Path(__file__).parent / "nothing"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        network = Bare("bare", ["2048"], feature_extractor_weights_path=str(empty))
    return {name: value.shape for name, value in network.state_dict().items()}


@pytest.mark.slow
def test_values_are_those_of_the_library(weights: Path) -> None:
    sets = {"samples": pictures(24, 0), "reference": pictures(20, 1)}
    expected = importlib.import_module("torch_fidelity").calculate_metrics(
        input1=Pictures(sets["samples"]),
        input2=Pictures(sets["reference"]),
        fid=True,
        isc=True,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        verbose=False,
        batch_size=16,
        isc_splits=10,
        samples_shuffle=True,
        save_cpu_ram=True,
    )
    reference = Reference("", "", (3, 32, 32), lambda: iter([sets["reference"]]))
    found = FID(reference, MetricOptions(weights))([sets["samples"]])
    assert found["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found["is"] == pytest.approx(expected["inception_score_mean"], rel=1e-5)


@pytest.mark.slow
def test_grey_pictures_have_features(weights: Path) -> None:
    pooled, logits = Inception(weights).features(pictures(2, 0)[:, :1])
    assert (pooled.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert pooled.std() > 0
