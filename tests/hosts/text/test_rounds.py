import pytest
import torch

from di4c_plugin.hosts.text.averages import averages
from di4c_plugin.hosts.text.rounds import round_of
from tests.hosts.text import stand_in


@pytest.mark.parametrize(
    ("steps", "rounds", "want"),
    [
        (6, 1, [0] * 7),
        (6, 2, [0, 0, 0, 1, 1, 1, 1]),
        (7, 2, [0, 0, 0, 0, 1, 1, 1, 1]),
        (6, 3, [0, 0, 1, 1, 2, 2, 2]),
        (-1, 2, [0, 0, 0]),
    ],
)
def test_rounds_are_equal_parts_of_the_updates(steps: int, rounds: int, want: list[int]) -> None:
    assert [round_of(step, steps, rounds) for step in range(len(want))] == want


def test_the_teacher_becomes_the_averaged_student_and_stays_it() -> None:
    student = stand_in.student()
    teacher = student._teacher[0]
    x_t = torch.full((2, stand_in.D), stand_in.MASK)
    t, lam = torch.full((2,), 0.5).double(), torch.rand(2, 1)
    assert teacher.denoiser.latent_shape is None
    for average in student.ema.shadow_params:
        average.add_(0.1)
    before = averages(student)
    teacher.become(student)
    now = teacher.denoiser
    assert now.latent_shape == student.student.latent_shape == (1,)
    log_q = now(x_t, t, latent=lam)
    with torch.no_grad():
        for p in student.backbone.parameters():
            p.mul_(3)
        for average in student.ema.shadow_params:
            average.zero_()
    assert torch.equal(now(x_t, t, latent=lam), log_q)
    assert all(torch.equal(p, before[n]) for n, p in now.backbone.named_parameters())
    assert not now.training
    assert not any(part.training for part in now.modules())
    assert not any(p.requires_grad for p in now.parameters())
    assert any(p.requires_grad for p in student.backbone.parameters())
    assert not torch.equal(student.student.eval()(x_t, t, latent=lam), log_q)
