"""Whether a loss is taken of whole tensors or by chunks of hidden states: the option `loss`."""

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
    """Return whether a loss goes by chunks.

    Args:
        loss: see `Loss`; "auto": where it can.
        networks: of a method.
        names: of those that the loss is of.
        step: the process whose step the loss takes; None: it takes none.

    Raises:
        UserError: where it must and cannot.
    """
    headless = [name for name in names if not has_head(networks[name])]
    reason = f"the {headless[0]} has no hidden states" if headless else None
    if step is not None and not step.factorised:
        reason = f"the step of {step.config['name']} looks at all positions"
    if loss == "chunked" and reason:
        raise UserError(f"loss=chunked: {reason}; use naive")
    return loss != "naive" and reason is None
