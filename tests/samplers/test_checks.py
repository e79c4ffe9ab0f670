import pytest
import torch

from di4c_plugin import sample
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.samplers.checks import check_drawn
from tests.training import toy


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
