r"""The weight \alpha_t of the correlation term on data (Di4C, the schedules of its code)."""

import torch
from torch import Tensor

from di4c_plugin.errors import UserError

ALPHAS = ("sigmoid", "linear", "const")


def correlation_weight(name: str, t: Tensor) -> Tensor:
    r"""Return \alpha_t, of the shape of t: sigmoid(20 (t - 1/2)), t, or 1.

    Few tokens are known near t = 1, where correlations matter most; t is schedule time, not the
    share of masks.

    Raises:
        UserError: for an unknown name.
    """
    if name == "sigmoid":
        return torch.sigmoid(20 * (t - 0.5))
    if name == "linear":
        return t
    if name == "const":
        return torch.ones_like(t)
    raise UserError(f"unknown alpha {name!r}; there are {', '.join(ALPHAS)}")
