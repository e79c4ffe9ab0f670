import pytest
import torch

from di4c_plugin.bench.cases import NetworkCase
from di4c_plugin.bench.networks import latent_options, make_models
from di4c_plugin.errors import UserError

SMALL = {"vocab": 11, "positions": 6, "hidden": 16, "layers": 2, "heads": 2}


@pytest.mark.parametrize("latent", ["adaln", "token", "mask_noise"])
def test_the_student_starts_from_a_teacher_whose_weights_are_not_zero(latent: str) -> None:
    teacher, student = make_models(NetworkCase(**SMALL, latent=latent))  # type: ignore[arg-type]
    ours = student.denoiser.state_dict()
    for name, value in teacher.denoiser.state_dict().items():
        assert torch.equal(ours[name], value)
    matrices = [p for p in teacher.denoiser.parameters() if p.ndim == 2]
    assert all(p.any() for p in matrices)
    assert student.is_student


def test_blocks_are_an_option_only_where_they_are_given() -> None:
    assert latent_options(NetworkCase()) == {"name": "adaln"}
    assert latent_options(NetworkCase(blocks=1)) == {"name": "adaln", "blocks": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "networks are measured in float32 or"),
        ({"heads": 3}, "3 heads do not divide hidden size 16"),
        ({"latent": "no"}, "unknown latent 'no'"),
        ({"blocks": 3}, "blocks"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_models(NetworkCase(**(SMALL | options)))  # type: ignore[arg-type]
