"""The doors of a network: the sub-modules where a latent enters, and the linear head.

Their names are a table in each family, which the user may override (`latent.doors`).
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, zip_longest
from typing import Any

from torch import nn

from di4c_plugin.errors import UserError, quoted
from di4c_plugin.values import shown

Names = Mapping[str, str | Sequence[str] | None]


@dataclass(frozen=True)
class Doors:
    """The sub-modules of a network that others need to know.

    Attributes:
        embedding: returns embeddings (B, D + others, E), the positions first.
        norms: normalise the inputs of all sub-layers, two for each block, and of the output layer.
        output: returns the residual stream (B, L, H), after the last block.
        blocks: take the stream, then other tensors with B rows; empty if they are not called, so
            that a latent cannot enter late.
        sequence: takes the stream as its first argument, before block 0; None: the stream is the
            output of `embedding`.
        positions: returns tables of rotations (cosines, sines) (1, L, ...) for the stream; None if
            there are none.
        last: takes, after the blocks, other tensors with B rows; None if there are none.
        head: hidden states (B, D, H) to logits; None if logits are no linear map of hidden states.
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


def chosen_doors(latent: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the doors that a latent's options name; raises UserError if they are no mapping."""
    doors = (latent or {}).get("doors") or {}
    if not isinstance(doors, Mapping):
        raise UserError(f"latent.doors is a set of names of sub-modules, not {shown(doors)}")
    return doors


def find_doors(network: nn.Module, names: Names) -> Doors:
    """Return the doors of a network.

    Args:
        network: any.
        names: of its sub-modules, by the attributes of `Doors`; `*` is every child of a module in
            order, and several names with `*` are interleaved. The default of `output` is the last
            block.

    Raises:
        UserError: for an unknown door, and for a name that the network does not have.
    """
    doors: dict[str, Any] = {}
    for door, name in names.items():
        if door not in NAMES:
            raise UserError(f"latent.doors has no {quoted(door)}; it has {', '.join(NAMES)}")
        many = isinstance(name, list | tuple)
        listed: list[Any] = list(name or ()) if many or name is None else [name]
        if not all(path and isinstance(path, str) for path in listed):
            raise UserError(f"latent.doors.{door} is {quoted(name)}: no name of a sub-module")
        modules = tuple(find_modules(network, f"latent.doors.{door}", listed))
        doors[door] = modules if door in MANY else next(iter(modules), None)
    doors["output"] = doors.get("output") or next(reversed(doors.get("blocks", ())), None)
    for door in ("embedding", "output", "norms"):
        if not doors.get(door):
            kind = type(network).__name__
            raise UserError(f"a latent cannot enter {kind}: say latent.doors.{door}")
    return Doors(**doors)


def find_modules(network: nn.Module, option: str, names: Iterable[str]) -> Iterable[nn.Module]:
    """Return the sub-modules of these names, which may have `*` as for `find_doors`.

    Raises:
        UserError: for a name that the network does not have; the message names `option`.
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
        return [first.rstrip(".")]  # refused by `_module`
    return [path for child, _ in children for path in _spread(network, f"{first}{child}{rest}")]


def _module(network: nn.Module, option: str, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        names = [path for path, _ in network.named_modules() if path]
        kind, near = type(network).__name__, _near(name, names)
        raise UserError(f"{option}: {kind} has no {quoted(name)}{near}") from None


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0)
    return f" (the nearest is {close[0]!r})" if close else ""
