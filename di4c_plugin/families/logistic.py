r"""tauLDR's prediction: a logistic distribution over pixel values, cut into S bins.

The truncated logistic of D3PM (Austin et al. 2021, arXiv 2107.03006, appendix) over [-1, 1]: bin i
has the logit log(F(right edge) - F(left edge)), F(x) = sigmoid((x - mu) / scale), with
1 / scale = exp(2 - s). The mass outside [-1, 1] is dropped, so the logits are not normalised. They
are evaluated in the host's order of operations, with its rounding: where F is almost 1, a bin's
logit is accurate to a few per cent only, and a better formula would be another function.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

EPS = 1e-6  # of the host: a bin's logit does not become -inf


def logistic_logits(mu: Tensor, s: Tensor, size: int, *, fix: bool = False) -> Tensor:
    """Return the logits of `size` bins, (..., S), for mu and s (...), in fp32 or better.

    With `fix` (tauLDR's `fix_logistic`) the smaller of two forms is taken, the difference of F and
    that of 1 - F: each is exact on one side of mu.
    """
    with torch.autocast(mu.device.type, enabled=False):
        dtype = torch.promote_types(mu.dtype, torch.float32)
        mu, s = mu.to(dtype).unsqueeze(-1), s.to(dtype).unsqueeze(-1)
        width, sharpness = 2.0 / size, torch.exp(-(s - 2))
        first, last = -1.0 + width / 2, 1.0 - width / 2
        centres = torch.linspace(first, last, size, dtype=dtype, device=mu.device)
        left = (centres - width / 2 - mu) * sharpness
        right = (centres + width / 2 - mu) * sharpness
        log_left, log_right = logsigmoid(left), logsigmoid(right)
        logits = log_difference(log_right, log_left)
        if fix:  # log(1 - sigmoid(z)) = log sigmoid(z) - z
            logits = torch.minimum(logits, log_difference(log_left - left, log_right - right))
        return logits


def log_difference(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return log(a - b) for a > b, not below log(EPS a)."""
    return log_a + torch.log1p(EPS - torch.exp(log_b - log_a))
