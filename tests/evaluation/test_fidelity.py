"""KID, precision and recall on the stand-in's features, against loops over their definitions."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.fidelity import KID, NEIGHBOURS, PrecisionRecall
from di4c_plugin.evaluation.inception import Inception
from di4c_plugin.evaluation.picture_metric import MetricOptions, Reference
from tests.evaluation import stand_in_fidelity

# Of the real library, before the stand-in takes its place.
modules = {
    name: stand_in_fidelity.library(f"torch_fidelity.{name}")
    for name in ("metric_kid", "metric_prc")
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MetricOptions:
    stand_in_fidelity.install(monkeypatch)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"torch_fidelity.{name}", module)
    return MetricOptions(stand_in_fidelity.weights(tmp_path / "weights.pth"))


def pictures(n: int, seed: int, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)


def made(kind: Any, real: Tensor, options: MetricOptions) -> Any:
    return kind(Reference("real", "none", (3, 4, 4), lambda: iter(real.split(7))), options)


def features(x: Tensor, options: MetricOptions) -> Tensor:
    return Inception(options.weights).features(x)[0].double()


def test_kid_is_the_unbiased_mmd(stand_in: MetricOptions) -> None:
    """With as many pictures as a subset holds, each subset is the whole set."""
    x, y = pictures(12, 0), pictures(12, 1, high=200)
    a, b = features(x, stand_in), features(y, stand_in)

    def kernel(u: Tensor, v: Tensor) -> float:
        return float((u @ v / len(u) + 1) ** 3)

    total = 0.0
    for i in range(12):
        for j in range(12):
            if i != j:
                total += (kernel(a[i], a[j]) + kernel(b[i], b[j])) / (12 * 11)
            total -= 2 * kernel(a[i], b[j]) / 144
    found = made(KID, y, stand_in)(x.split(5))
    assert found["kid"] == pytest.approx(total, rel=1e-6)


def test_precision_and_recall_by_their_definition(stand_in: MetricOptions) -> None:
    x, y = pictures(20, 0), pictures(16, 1, high=230)
    a, b = features(x, stand_in), features(y, stand_in)

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = [sorted((c - other).norm() for other in centres)[NEIGHBOURS] for c in centres]
        inside = [
            any((p - c).norm() <= r for c, r in zip(centres, radii, strict=True)) for p in points
        ]
        return sum(inside) / len(points)

    found = made(PrecisionRecall, y, stand_in)(x.split(5))
    assert found["precision"] == pytest.approx(covered(a, b), abs=1e-6)
    assert found["recall"] == pytest.approx(covered(b, a), abs=1e-6)
    assert 0 < found["precision"] < 1


def test_mistakes(stand_in: MetricOptions) -> None:
    with pytest.raises(UserError, match="at least 10 pictures, not 9 of the reference"):
        made(KID, pictures(9, 0), stand_in)
    with pytest.raises(UserError, match="at least 10 pictures, not 3 of the samples"):
        made(KID, pictures(12, 0), stand_in)(pictures(3, 0).split(3))
    kept = MetricOptions(stand_in.weights, Path("s.npz"))
    with pytest.raises(UserError, match="--statistics is for fid"):
        made(PrecisionRecall, pictures(12, 0), kept)
