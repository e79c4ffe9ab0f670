"""The truncated logistic against its definition in float64."""

import pytest
import torch

from di4c_plugin.families.logistic import EPS, logistic_logits

MU = torch.tensor([-1.0, -0.3, 0.0, 0.8])
S = torch.tensor([0.5, 1.0, 2.0, 4.0])


@pytest.mark.parametrize("fix", [False, True])
def test_definition(fix: bool) -> None:
    mu, scale = MU.double()[:, None], torch.exp(S.double() - 2)[:, None]
    centres = torch.arange(17, dtype=torch.float64) * 2 / 17 - 1 + 1 / 17
    left, right = (torch.sigmoid((centres + k / 17 - mu) / scale) for k in (-1, 1))
    # The host's eps is relative to F, and with `fix` to 1 - F where that is less.
    exact = torch.log(right - left + EPS * right)
    if fix:
        exact = torch.minimum(exact, torch.log(right - left + EPS * (1 - left)))
    found = logistic_logits(MU, S, 17, fix=fix)
    likely = exact.log_softmax(-1) > -7
    assert likely.sum() > 30
    torch.testing.assert_close(found[likely], exact.float()[likely], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.exp(), exact.exp().float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fix", [False, True])
def test_far_tails_and_gradients_are_finite(fix: bool) -> None:
    mu = torch.tensor([-1.0, 1.0, 0.0], requires_grad=True)
    s = torch.tensor([-6.0, -6.0, -8.0], requires_grad=True)
    log_p = logistic_logits(mu, s, 256, fix=fix).log_softmax(-1)
    assert log_p.isfinite().all()
    log_p[:, 200].sum().backward()
    assert mu.grad is not None
    assert s.grad is not None
    assert mu.grad.isfinite().all()
    assert s.grad.isfinite().all()


def test_fp32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = logistic_logits(MU.bfloat16(), S.bfloat16(), 9)
    assert found.dtype == torch.float32
