"""Checks of the latents of teacher, student and the student that training continues from."""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.algorithms.base import Role
from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import same_options


def check_latent(
    role: Role, latent: Mapping[str, Any] | None, start: Mapping[str, Any] | None
) -> None:
    """Refuse a start whose latent does not suit the method or the user's options.

    Args:
        role: of the student.
        latent: the latent that the user named, or None.
        start: the latent of the start.

    Raises:
        UserError: if a latent is missing, not wanted, or another one.
    """
    if latent is not None and not same_options(start, dict(latent)):
        raise UserError(f"the student to start from has the latent {start}, not {dict(latent)}")
    if role.latent == "required" and start is None:
        raise UserError("the student to start from has no latent, and this method needs one")
    if role.latent == "none" and start is not None:
        raise UserError("the student to start from has a latent, and this method's has none")


def tell_lost_latent(teacher: Mapping[str, Any] | None, student: Mapping[str, Any] | None) -> None:
    """Announce that a student does not take over the latent of its teacher, if so.

    Args:
        teacher: its latent.
        student: that of a student which starts from the teacher.
    """
    if teacher is None or same_options(teacher, student):
        return
    own = "none" if student is None else f"a new one, {dict(student)}"
    announce_once(
        f"the teacher's latent {dict(teacher)} is not carried over: the student has {own}"
    )
