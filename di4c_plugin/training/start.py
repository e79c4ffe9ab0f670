"""What a student must be that training goes on from."""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.algorithms.base import Role
from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import same_options


def check_latent(
    role: Role, asked: Mapping[str, Any] | None, start: Mapping[str, Any] | None
) -> None:
    """Refuse a start whose latent is not what the method's student has.

    Args:
        role: of the student.
        asked: the latent that the user named; None: none.
        start: the latent of the start.

    Raises:
        UserError: saying which of the two is missing, or differs.
    """
    if asked is not None and not same_options(start, dict(asked)):
        raise UserError(f"the student to start from has the latent {start}, not {dict(asked)}")
    if role.latent == "required" and start is None:
        raise UserError("the student to start from has no latent, and this method needs one")
    if role.latent == "none" and start is not None:
        raise UserError("the student to start from has a latent, and this method's has none")
