"""The doors of a network: the sub-modules where a latent enters, and the linear head.

Networks are known by the names of these sub-modules, a table in their family that the user may
override (`latent.doors`). Names are looked up and nothing else is done with them.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, zip_longest
from typing import Any

from torch import nn

from di4c_plugin.errors import UserError, quoted

Names = Mapping[str, str | Sequence[str] | None]


@dataclass(frozen=True)
class Doors:
    """The sub-modules of a network that others need to know.

    Attributes:
        embedding: returns embeddings (B, D + others, E), the positions first.
        norms: normalise the inputs of all sub-layers, two a block, and of what follows the last.
        output: returns the residual stream (B, L, H), after the last block.
        blocks: take the stream, and then what else has B rows; empty if they are not called, so
            that a latent cannot enter late.
        sequence: takes the stream as its first argument, before block 0; None: it is what
            `embedding` returns.
        positions: returns tables of rotations (cosines, sines) (1, L, ...) for the stream; None if
            there are none.
        last: takes, after the blocks, what else has B rows; None if there is nothing.
        head: hidden states (B, D, H) to logits; None if these are no linear map of hidden states.
    """

    embedding: nn.Module
    norms: tuple[nn.Module, ...]
    output: nn.Module
    blocks: tuple[nn.Module, ...] = ()
    sequence: nn.Module | None = None
    positions: nn.Module | None = None
    last: nn.Module | None = None
    head: nn.Module | None = None


NAMES = tuple(field.name for field in fields(Doors))
MANY = ("norms", "blocks")


def find_doors(network: nn.Module, names: Names) -> Doors:
    """Return the doors of a network.

    Args:
        network: any.
        names: of its sub-modules, by the attributes of `Doors`; `*` is every child of a module in
            its order, and several names with `*` are taken in turn. Without `output` it is the
            last block.

    Raises:
        UserError: for a door that there is not, and for a name that the network has not.
    """
    found: dict[str, Any] = {}
    for door, name in names.items():
        if door not in NAMES:
            raise UserError(f"latent.doors has no {quoted(door)}; it has {', '.join(NAMES)}")
        many = isinstance(name, list | tuple)
        listed: list[Any] = list(name or ()) if many or name is None else [name]
        if not all(each and isinstance(each, str) for each in listed):
            raise UserError(f"latent.doors.{door} is {quoted(name)}: no name of a sub-module")
        modules = tuple(find_modules(network, f"latent.doors.{door}", listed))
        found[door] = modules if door in MANY else next(iter(modules), None)
    found["output"] = found.get("output") or next(reversed(found.get("blocks", ())), None)
    for door in ("embedding", "output", "norms"):
        if not found.get(door):
            kind = type(network).__name__
            raise UserError(f"a latent cannot enter {kind}: say latent.doors.{door}")
    return Doors(**found)


def find_modules(network: nn.Module, option: str, names: Iterable[str]) -> Iterable[nn.Module]:
    """Return the sub-modules of these names, which may have `*` as for `find_doors`.

    Raises:
        UserError: for a name that the network has not, given as `option`.
    """
    rows = [[_module(network, option, name) for name in _spread(network, name)] for name in names]
    turns = [row for name, row in zip(names, rows, strict=True) if "*" in name]
    rest = [row for name, row in zip(names, rows, strict=True) if "*" not in name]
    return [m for m in chain(*zip_longest(*turns), *rest) if m is not None]


def _spread(network: nn.Module, name: str) -> list[str]:
    """Return the names that a name with `*` stands for."""
    first, star, rest = name.partition("*")
    if not star:
        return [name]
    try:
        children = network.get_submodule(first.rstrip(".")).named_children()
    except AttributeError:
        return [first.rstrip(".")]  # `_module` says that there is none
    return [each for child, _ in children for each in _spread(network, f"{first}{child}{rest}")]


def _module(network: nn.Module, option: str, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        known = [found for found, _ in network.named_modules() if found]
        kind, near = type(network).__name__, _near(name, known)
        raise UserError(f"{option}: {kind} has no {quoted(name)}{near}") from None


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0)
    return f" (the nearest is {close[0]!r})" if close else ""
