import re

import pytest

from di4c_plugin.algorithms.denoising import Denoising
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import make
from di4c_plugin.training.build import make_algorithm


def test_options_reach_the_algorithm() -> None:
    algorithm = make_algorithm({"name": "denoising", "min_time": 0.5}, Absorbing(3))
    assert isinstance(algorithm, Denoising)
    assert algorithm.min_time == 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "denoising", "mintime": 1},
            "algorithm 'denoising': got an unexpected keyword argument 'mintime' "
            "(did you mean 'min_time'?); "
            "it takes label_dropout, min_time",
        ),
        ({"min_time": 1}, "the algorithm has no name"),
    ],
)
def test_options_it_does_not_take_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        make_algorithm(config, Absorbing(3))


def test_a_host_without_options_says_so() -> None:
    with pytest.raises(UserError, match="it takes no options"):
        make("host", {"name": "builtin", "path": "x"})
