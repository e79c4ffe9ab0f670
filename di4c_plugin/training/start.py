"""Checks of the latents of teacher, student and the student that training continues from."""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.algorithms.base import Algorithm, Role
from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import same_options


def check_method(method: Algorithm, name: str, latent: Mapping[str, Any] | None) -> None:
    """Refuse a method that distils no teacher, and a latent where no network takes one.

    Args:
        method: made.
        name: of the method.
        latent: the latent that the user named, or None.

    Raises:
        UserError: naming the method.
    """
    if latent is not None and all(role.latent == "none" for role in method.roles.values()):
        raise UserError(f"algorithm {name!r} makes no mixture: leave out the latent")
    if not method.needs_teacher:
        raise UserError(f"algorithm {name!r} trains teachers: use di4c train-teacher")


def latent_of(role: Role, latent: Mapping[str, Any] | None, default: str) -> dict[str, Any] | None:
    """Return the latent of a new network; None if it has none.

    Args:
        role: of the network.
        latent: that of the user or the recipe, or None.
        default: the name of the host's.
    """
    if role.latent == "none" or (role.latent == "optional" and latent is None):
        return None
    return {"name": default} | dict(latent or {})


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
