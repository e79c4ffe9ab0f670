import math

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.losses.alpha import ALPHAS, correlation_weight

T = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("sigmoid", [1 / (1 + math.exp(20 * (0.5 - t))) for t in T.tolist()]),
        ("linear", T.tolist()),
        ("const", [1.0] * 4),
    ],
)
def test_weights_of_the_paper(name: str, want: list[float]) -> None:
    assert correlation_weight(name, T).tolist() == pytest.approx(want)


@pytest.mark.parametrize("name", ALPHAS)
def test_weights_stay_in_the_unit_interval(name: str) -> None:
    weight = correlation_weight(name, torch.linspace(0, 1, 101, dtype=torch.float64))
    assert weight.min() >= 0
    assert weight.max() <= 1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="'cubic'; there are sigmoid, linear, const"):
        correlation_weight("cubic", T)
