from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from di4c_plugin.api import sample
from di4c_plugin.diffusion import Absorbing, DiscretisedGaussian, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.frechet import frechet_distance
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.hosts.builtin import LEVELS, TEACHER, load_builtin
from di4c_plugin.networks import TransformerConfig

SMALL = {"hidden_size": 16, "embedding_size": 8, "num_blocks": 1, "num_heads": 2}


def test_the_data_are_scikit_learns_digits() -> None:
    data, digits = BUILTIN().data(), load_digits()
    assert data.x_0.dtype == torch.long
    assert data.x_0.reshape(-1, 8, 8).equal(torch.from_numpy(digits.images).long())
    assert data.labels is not None
    assert data.labels.tolist() == digits.target.tolist()
    assert data.x_0.unique().tolist() == list(range(LEVELS))


@pytest.mark.parametrize(
    ("process", "kind", "states", "timed"),
    [
        ({"name": "absorbing", "schedule": "cosine"}, Absorbing, 18, False),
        ({"name": "uniform"}, Uniform, 17, True),
        ({"name": "gaussian", "q_sigma": 8.0}, DiscretisedGaussian, 17, True),
    ],
    ids=["absorbing", "uniform", "gaussian"],
)
def test_there_are_teachers_for_every_process(
    process: dict[str, Any], kind: type, states: int, timed: bool
) -> None:
    model = BUILTIN().new_teacher(process, **SMALL)
    x_0, t = BUILTIN().data().x_0[:3], torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    x_t = model.process.corrupt(x_0, t, generator=torch.Generator().manual_seed(0))
    assert isinstance(model.process, kind)
    assert isinstance(model.network, TransformerConfig)
    assert (model.network.num_states, model.network.time_conditioned) == (states, timed)
    torch.testing.assert_close(model.denoiser(x_t, t).exp().sum(-1), torch.ones(3, 64))


@pytest.mark.parametrize(
    ("process", "sizes", "message"),
    [
        ({"name": "heat"}, {}, "unknown process 'heat'; there are absorbing, gaussian, uniform"),
        ({"name": "uniform", "schedule": "slow"}, {}, "unknown schedule 'slow'; there are "),
        ({"name": "uniform", "colour": 1}, {}, "process 'uniform' with .*colour"),
        ({"name": "absorbing"}, {"depth": 3}, "host 'builtin' cannot make this teacher: .*depth"),
        ({"name": "absorbing"}, {"patch": (3, 3)}, "patches of 3x3 do not tile a 8x8 grid"),
    ],
)
def test_wrong_options_give_one_line(
    process: dict[str, Any], sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}.*$"):
        BUILTIN().new_teacher(process, **sizes)


@pytest.mark.parametrize("latent", ["adaln", "mask_noise", "token"])
def test_a_student_starts_near_its_teacher_but_not_at_it(latent: str) -> None:
    torch.manual_seed(0)
    teacher = load_builtin("digits")
    student = BUILTIN().build_student(teacher, {"name": latent})
    x_t, t = torch.full((64, 64), LEVELS), torch.ones(64, dtype=torch.float64)
    lam = torch.rand(64, *student.denoiser.latent_shape or ())
    with torch.no_grad():
        apart = student.denoiser(x_t, t, latent=lam).exp() - teacher.denoiser(x_t, t).exp()
    assert 0.01 < apart.abs().sum(-1).mean() / 2 < 0.15  # total variation of a position


def test_its_picture_is_an_image(tmp_path: Path) -> None:
    BUILTIN().picture(BUILTIN().data().x_0[:20], tmp_path / "digits.png")
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_samples_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^host 'builtin' draws 8x8 images, not 2 tokens$"):
        BUILTIN().picture(torch.zeros(3, 2, dtype=torch.long), tmp_path / "digits.png")


def test_the_shipped_teacher_is_small_and_says_how_it_was_made() -> None:
    model = load_builtin("digits")
    assert TEACHER.stat().st_size < 3e6
    assert not model.is_student
    assert model.info["command"].startswith("di4c train-teacher ")


@pytest.mark.slow
def test_the_shipped_teacher_is_worth_distilling() -> None:
    x = sample(load_builtin("digits"), 2000, steps=16)
    assert frechet_distance(x, BUILTIN().data().x_0) <= 45
