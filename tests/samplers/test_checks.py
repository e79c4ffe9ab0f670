from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin import sample
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.limits import OFF, SWITCH
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.samplers.checks import check_drawn
from tests.training import toy


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_labels_are_whole_numbers_of_any_type(dtype: torch.dtype) -> None:
    model = labelled()
    wanted = sample(model, 4, seed=1, cond=torch.tensor([0, 1, 1, 0]))
    assert torch.equal(
        sample(model, 4, seed=1, cond=torch.tensor([0, 1, 1, 0], dtype=dtype)), wanted
    )


@pytest.mark.parametrize(
    "cond",
    [
        torch.tensor([0.0, 1.0]),
        torch.tensor([torch.nan, 0]),
        torch.tensor([1j, 0]),
        torch.tensor([True, False]),
        np.array([0, 1]),
        torch.tensor([0, 1], device="meta"),
        torch.tensor([0, 1]).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint32),
    ],
)
def test_other_labels_are_refused(cond: Any) -> None:
    with pytest.raises(UserError, match="^class labels are a tensor of whole numbers, not "):
        sample(labelled(), 2, cond=cond)


def test_labels_are_counted_before_they_are_copied() -> None:
    """As int64 these would take 8 TB."""
    many = torch.zeros(1, dtype=torch.int32).expand(10**12)
    with pytest.raises(UserError, match="^2 samples take 2 class labels, not a tensor of "):
        sample(labelled(), 2, cond=many)


def labelled() -> Model:
    torch.manual_seed(0)
    sizes = TransformerConfig(
        3, 4, (2, 2), hidden_size=8, embedding_size=4, num_heads=2, num_classes=2, mask=3
    )
    return new_model(sizes, Absorbing(3))


@pytest.mark.parametrize("size", [{"steps": 2**62}, {"n": 2**61, "batch_size": 2**61}])
def test_sizes_beyond_memory_are_one_line(
    size: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, OFF)
    with pytest.raises(UserError, match="^not enough memory: draw fewer samples at once"):
        sample(toy.teacher(), **{"n": 1} | size)


@pytest.mark.parametrize(
    ("process", "wrong"),
    [(Absorbing(3), 3), (Absorbing(4, mask=1), 1), (Uniform(3), 3), (Uniform(3), -1)],
)
def test_what_is_no_token_of_the_data_is_told(process: Process, wrong: int) -> None:
    x = torch.tensor([[0, 2, 2], [2, 0, 0]])
    assert check_drawn(x, process) is x
    x[1, 1:] = wrong
    with pytest.raises(UserError, match="^2 of 6 tokens were not drawn: .* no probabilities$"):
        check_drawn(x, process)


@pytest.mark.parametrize("sampler", ["ancestral", "analytic", "di4c", "maskgit", "halton"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_without_finite_numbers_draws_nothing(sampler: str, value: float) -> None:
    model = toy.teacher()
    with torch.no_grad():
        next(model.denoiser.parameters()).fill_(value)
    with pytest.raises(UserError, match="no probabilities"):
        sample(model, 3, steps=2, sampler=sampler)
