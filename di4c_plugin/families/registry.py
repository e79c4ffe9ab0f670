"""The known families of networks: those of the registered hosts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.naming import bare
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.plugins import lookup, names_of

if TYPE_CHECKING:
    from di4c_plugin.families.base import Family


def families() -> "dict[str, Family[Any]]":
    """Return the families of the registered hosts, by name."""
    by_name: dict[str, Family[Any]] = {}
    for host in names_of("host"):
        family = lookup("host", host).family
        by_name.setdefault(family.name, family)
    return by_name


def family_named(kind: Any, origin: str) -> "Family[Any]":
    """Return the family of that name; raises UserError."""
    by_name = families()
    if kind not in by_name:
        raise UserError(f"{origin} has an unknown kind of network, {quoted(kind)}")
    return by_name[kind]


def family_of(content: Content) -> "Family[Any]":
    """Return the family whose network a file holds.

    Raises:
        UserError: if no known family has it.
    """
    if content.description is not None:
        return family_named(content.description.get("kind", "transformer"), content.origin)
    return family_with([bare(str(name)) for name in content.state], content.origin)


def family_with(names: Sequence[str], origin: str) -> "Family[Any]":
    """Return the family whose networks have weights of these names; errors as `family_of`."""
    for family in families().values():
        if family.holds(names):
            return family
    titles = ", ".join(family.title for family in families().values())
    raise UserError(f"{origin} holds no weights of a network that we know: {titles}")
