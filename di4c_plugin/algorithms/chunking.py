"""The option `loss`: whole tensors of log-probabilities, or chunks of hidden states."""

from collections.abc import Collection
from typing import Annotated

from di4c_plugin.algorithms.base import Networks
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.predict import has_head
from di4c_plugin.values import Choices

Loss = Annotated[str, Choices("auto", "naive", "chunked")]


def takes_chunks(
    loss: str, networks: Networks, names: Collection[str], step: Process | None = None
) -> bool:
    """Return whether a loss is computed by chunks.

    Args:
        loss: see `Loss`; "auto": by chunks where possible.
        networks: of a method.
        names: of the networks that the loss is computed from.
        step: the process whose step the loss takes; None: it takes none.

    Raises:
        UserError: for "chunked" where it is impossible.
    """
    headless = [name for name in names if not has_head(networks[name])]
    reason = f"the {headless[0]} has no hidden states" if headless else None
    if step is not None and not step.factorised:
        reason = f"the step of {step.config['name']} looks at all positions"
    if loss == "chunked" and reason:
        raise UserError(f"loss=chunked: {reason}; use naive")
    return loss != "naive" and reason is None
