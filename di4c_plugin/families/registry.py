"""Which families of networks there are: those of the registered hosts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from di4c_plugin.checkpoints.content import Content, bare
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.plugins import lookup, names_of

if TYPE_CHECKING:
    from di4c_plugin.families.base import Family


def families() -> "dict[str, Family[Any]]":
    """Return the families of the registered hosts, by name."""
    found: dict[str, Family[Any]] = {}
    for host in names_of("host"):
        family = lookup("host", host).family
        found.setdefault(family.name, family)
    return found


def family_named(kind: Any, origin: str) -> "Family[Any]":
    """Return the family of that name; raises UserError."""
    found = families()
    if kind not in found:
        raise UserError(f"{origin} has an unknown kind of network, {quoted(kind)}")
    return found[kind]


def family_of(content: Content) -> "Family[Any]":
    """Return the family whose network a file holds.

    Raises:
        UserError: for none of those that there are.
    """
    if content.description is not None:
        return family_named(content.description.get("kind", "transformer"), content.origin)
    return family_with([bare(str(name)) for name in content.state], content.origin)


def family_with(names: Sequence[str], origin: str) -> "Family[Any]":
    """Return the family whose networks have weights of these names; errors as `family_of`."""
    for family in families().values():
        if family.holds(names):
            return family
    known = ", ".join(family.title for family in families().values())
    raise UserError(f"{origin} holds no weights of a network that we know: {known}")
