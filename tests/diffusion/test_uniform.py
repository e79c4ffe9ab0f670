import pytest
import torch

from di4c_plugin.diffusion import Arccos, Cosine, LogLinear, Schedule, Uniform, build_process
from di4c_plugin.networks.denoiser import normalise


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Arccos()])
def test_a_token_is_kept_or_redrawn_uniformly(schedule: Schedule) -> None:
    t = torch.tensor([0.9, 0.4, 1.0], dtype=torch.float64)
    q = Uniform(4, schedule).transition(torch.zeros(3), t)
    for matrix, alpha in zip(q, schedule.alpha(t).tolist(), strict=True):
        want = [[alpha * (i == j) + (1 - alpha) / 4 for j in range(4)] for i in range(4)]
        torch.testing.assert_close(matrix, torch.tensor(want, dtype=torch.float64))


def test_posterior_by_hand() -> None:
    """Two tokens, alpha_t = 1/4, alpha_s = 1/2, x_0 = x_t = 0: (3/4 * 3/4) / (5/8) = 9/10."""
    log_p_0 = torch.tensor([[[0.0, -1e6]]], dtype=torch.float64)
    t, s = torch.tensor([0.75]), torch.tensor([0.5])
    p_s = Uniform(2).log_posterior(log_p_0, torch.tensor([[0]]), t, s).exp()
    torch.testing.assert_close(p_s, torch.tensor([[[0.9, 0.1]]], dtype=torch.float64))


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Arccos()])
def test_normalised_at_the_smallest_times(schedule: Schedule) -> None:
    """Also where alpha rounds to 1, so that only x_0 = x_t has a likelihood."""
    t, s = torch.tensor([1e-10], dtype=torch.float64), torch.tensor([0.0])
    log_p_0 = torch.zeros(1, 1, 4).log_softmax(-1)
    p_s = Uniform(4, schedule).log_posterior(log_p_0, torch.tensor([[1]]), t, s).exp()
    torch.testing.assert_close(p_s.sum(-1), torch.ones(1, 1))


def test_leave_one_out_is_duos_posterior() -> None:
    """q(x_t | x_s) (pi Q_s)(x_s) / (pi Q_t)(x_t), by transition matrices and by Duo's formula."""
    process = Uniform(4, leave_one_out=True)
    logits = torch.randn(3, 2, 4, dtype=torch.float64)
    x_t = torch.tensor([[0, 3], [1, 1], [2, 0]])
    t, s = torch.tensor([0.9, 0.5, 0.3]).double(), torch.tensor([0.4, 0.45, 0.0]).double()
    log_p_0 = normalise(logits, x_t, t, process)
    found = process.log_posterior(log_p_0, x_t, t, s).exp()
    pi, zero = logits.softmax(-1), torch.zeros_like(t)
    hot = torch.nn.functional.one_hot(x_t, 4).double()
    q_s, q_t, q_ts = (process.transition(*pair) for pair in ((zero, s), (zero, t), (s, t)))
    want = (hot @ q_ts.mT) * (pi @ q_s) / ((pi @ q_t) * hot).sum(-1, keepdim=True)
    torch.testing.assert_close(found, want)
    alpha_t, alpha_s = (process.schedule.alpha(time).view(-1, 1, 1) for time in (t, s))
    ratio, own = alpha_t / alpha_s, (pi * hot).sum(-1, keepdim=True)
    numerator = alpha_t * 4 * pi * hot + (ratio - alpha_t) * hot
    numerator = numerator + (alpha_s - alpha_t) * pi + (1 - ratio) * (1 - alpha_s) / 4
    torch.testing.assert_close(found, numerator / (alpha_t * 4 * own + 1 - alpha_t))


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Arccos()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evidence_is_the_likelihood_of_ones_own_token(
    schedule: Schedule, dtype: torch.dtype
) -> None:
    """softmax(logits) times q(x_t | x_0), normalised: by transition matrices."""
    process = Uniform(5, schedule, leave_one_out=True)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    x_t = torch.randint(5, (4, 3), generator=generator)
    t = torch.tensor([1.0, 0.8, 0.3, 0.01], dtype=torch.float64)
    q = process.transition(torch.zeros_like(t), t)
    likelihood = torch.stack([q[b, :, x_t[b]].T for b in range(4)])
    want = logits.softmax(-1) * likelihood
    given = logits.to(dtype)
    found = process.with_evidence(given, x_t, t)
    assert found.dtype == dtype
    assert torch.equal(given, logits.to(dtype)), "it is the caller's"
    close = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(
        found.double().softmax(-1), want / want.sum(-1, keepdim=True), rtol=close, atol=close
    )
    plain = Uniform(5, schedule).with_evidence(given, x_t, t)
    assert torch.equal(plain, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evidence_at_time_0_is_certain_and_finite(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 1, 5, dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 1e-18], dtype=torch.float64)
    x_t = torch.tensor([[3], [1]])
    found = Uniform(5, leave_one_out=True).with_evidence(logits, x_t, t).log_softmax(-1)
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp().argmax(-1), x_t)
    found.exp().square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_leave_one_out_is_in_the_description() -> None:
    for process in (Uniform(4), Uniform(4, leave_one_out=True)):
        again = build_process(process.config)
        assert again.config == process.config
        assert again.leave_one_out == process.leave_one_out  # type: ignore[attr-defined]
