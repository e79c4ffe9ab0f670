import pytest
import torch

from di4c_plugin.diffusion import Arccos, Cosine, LogLinear, Schedule, Uniform


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
