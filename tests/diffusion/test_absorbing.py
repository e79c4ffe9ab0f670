import pytest
import torch

from di4c_plugin.diffusion import (
    LOG_ZERO,
    Absorbing,
    Arccos,
    Cosine,
    DuoCosine,
    LogLinear,
    Schedule,
    build_process,
)
from di4c_plugin.errors import UserError

MASK = 3
TIMES = torch.tensor([0.9, 0.4], dtype=torch.float64)
every_schedule = pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), DuoCosine(), Arccos()])


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


# The mask as one of the tokens: the same process after a renaming of states.
every_mask = pytest.mark.parametrize("mask", [0, 2, 3])


def renamed(x: torch.Tensor, mask: int) -> torch.Tensor:
    """States of Absorbing(3), whose mask is 3, as those of Absorbing(4, mask=mask)."""
    order = torch.tensor([*(i for i in range(4) if i != mask), mask])
    return order[x]


@every_mask
@every_schedule
def test_a_mask_among_the_tokens_is_another_name_for_it(mask: int, schedule: Schedule) -> None:
    one, other = Absorbing(3, schedule), Absorbing(4, schedule, mask=mask)
    assert (one.num_states, other.num_states) == (4, 4)
    names = renamed(torch.arange(4), mask)
    s, t = TIMES * 0.5, TIMES
    q = other.transition(s, t)[:, names][:, :, names]
    torch.testing.assert_close(q, one.transition(s, t))
    x_t, logits = torch.arange(4).expand(2, -1), torch.randn(2, 4, 3, dtype=torch.float64)
    wide = torch.randn(2, 4, 4, dtype=torch.float64)  # at the mask whatever the network says
    wide[..., names[:3]] = logits
    y_t = renamed(x_t, mask)
    log_p_0 = one.carry_over(logits.log_softmax(-1), x_t)
    log_q_0 = other.carry_over(other.restrict(wide).log_softmax(-1), y_t)
    torch.testing.assert_close(log_q_0[..., names[:3]].exp(), log_p_0.exp())
    assert (log_q_0[..., mask] <= LOG_ZERO / 2).all()
    log_p_s, log_q_s = (
        one.log_posterior(log_p_0, x_t, t, s),
        other.log_posterior(log_q_0, y_t, t, s),
    )
    torch.testing.assert_close(log_q_s[..., names].exp(), log_p_s.exp())


@every_mask
def test_a_mask_among_the_tokens_draws_alike(mask: int) -> None:
    one, other = Absorbing(3), Absorbing(4, mask=mask)
    x_0, generators = torch.randint(3, (2, 500)), [torch.Generator().manual_seed(0) for _ in "ab"]
    x_t = one.corrupt(x_0, TIMES, generator=generators[0])
    y_t = other.corrupt(renamed(x_0, mask), TIMES, generator=generators[1])
    assert torch.equal(y_t, renamed(x_t, mask))
    assert torch.equal(other.active(y_t), one.active(x_t))
    cpu = torch.device("cpu")
    assert (other.prior((2, 3), generator=generators[1], device=cpu) == mask).all()


@pytest.mark.parametrize("mask", [-1, 4])
def test_a_mask_that_is_no_token_is_refused(mask: int) -> None:
    with pytest.raises(UserError, match=f"mask must be one of the tokens 0 ... 3, not {mask}"):
        Absorbing(4, mask=mask)


def test_the_mask_is_part_of_the_description_only_where_it_is_a_token() -> None:
    assert "mask" not in Absorbing(3).config
    again = build_process(Absorbing(4, mask=0).config)
    assert isinstance(again, Absorbing)
    assert (again.mask, again.num_states) == (0, 4)
