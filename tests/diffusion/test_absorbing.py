import pytest
import torch

from di4c_plugin.diffusion import LOG_ZERO, Absorbing, Arccos, Cosine, LogLinear, Schedule

MASK = 3
TIMES = torch.tensor([0.9, 0.4], dtype=torch.float64)
every_schedule = pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Arccos()])


@every_schedule
def test_a_token_is_kept_with_probability_alpha(schedule: Schedule) -> None:
    q = Absorbing(3, schedule).transition(torch.zeros(2), TIMES)
    for matrix, alpha in zip(q, schedule.alpha(TIMES).tolist(), strict=True):
        want = [[alpha * (x_0 == x_t) for x_t in range(3)] + [1 - alpha] for x_0 in range(3)]
        torch.testing.assert_close(matrix, torch.tensor([*want, [0, 0, 0, 1]], dtype=torch.float64))


def test_a_mask_opens_to_the_prediction_or_stays() -> None:
    """MDLM, equation (7), with numbers: from t = 0.8 to s = 0.2 three masks in four open."""
    p_0 = torch.tensor([[[0.5, 0.3, 0.2]]], dtype=torch.float64)
    t, s = torch.tensor([0.8]), torch.tensor([0.2])
    log_p_s = Absorbing(3).log_posterior(p_0.log(), torch.tensor([[MASK]]), t, s)
    want = torch.tensor([[[0.375, 0.225, 0.15, 0.25]]], dtype=torch.float64)
    torch.testing.assert_close(log_p_s.exp(), want, atol=1e-7, rtol=0)


@every_schedule
def test_open_tokens_stay(schedule: Schedule) -> None:
    process, x_t = Absorbing(3, schedule), torch.tensor([[0, 1, 2]])
    log_p_0 = torch.zeros(1, 3, 3).log_softmax(-1)
    log_p_s = process.log_posterior(log_p_0, x_t, torch.tensor([0.5]), torch.tensor([0.1]))
    want = torch.full((1, 3, 4), LOG_ZERO).scatter(-1, x_t[..., None], 0)
    assert torch.equal(log_p_s, want)


def test_a_step_leaves_open_tokens_whatever_is_predicted() -> None:
    x_t = torch.tensor([[0, 1, 2]])
    log_p_0 = torch.zeros(1, 3, 3).log_softmax(-1).expand(100, -1, -1)
    t, s = torch.full((100,), 0.5), torch.zeros(100)
    generator = torch.Generator().manual_seed(0)
    x_s = Absorbing(3).step(log_p_0, x_t.expand(100, -1), t, s, generator=generator)
    assert (x_s == x_t).all()


def test_carry_over_makes_open_positions_certain_and_keeps_the_others() -> None:
    log_p_0 = torch.randn(1, 3, 3).log_softmax(-1)
    carried = Absorbing(3).carry_over(log_p_0, torch.tensor([[1, MASK, 0]]))
    assert torch.equal(carried[0, 1], log_p_0[0, 1])
    assert carried[0, 0].tolist() == [LOG_ZERO, 0, LOG_ZERO]
    assert carried[0, 2].tolist() == [0, LOG_ZERO, LOG_ZERO]


@every_schedule
def test_finite_at_the_smallest_times(schedule: Schedule) -> None:
    """Where alpha rounds to 1 a mask cannot occur, but a batch may hold such a time."""
    x_t = torch.tensor([[0, MASK]])
    t, s = torch.tensor([1e-10], dtype=torch.float64), torch.tensor([0.0])
    log_p_s = Absorbing(3, schedule).log_posterior(torch.zeros(1, 2, 3).log_softmax(-1), x_t, t, s)
    assert log_p_s.isfinite().all()
