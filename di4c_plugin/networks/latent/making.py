"""Builds an injector from the options of a latent, for built-ins and plugins."""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.errors import UserError, refusing
from di4c_plugin.networks.latent.base import KnownSizes, LatentInjector, Sizes
from di4c_plugin.options import fitted, with_defaults
from di4c_plugin.plugins import lookup, names_of


def new_injector(network: Sizes, options: Mapping[str, Any]) -> LatentInjector:
    """Return the injector that `options` names.

    Args:
        network: sizes of its network.
        options: "name" of the injector; "blocks", the number of last blocks it enters, None for
            all; "doors", see `di4c_plugin.networks.doors`; the others are the injector's.

    Raises:
        UserError: for an unknown latent or option, or blocks that it cannot enter.
    """
    arguments = {k: v for k, v in options.items() if k != "doors"}
    name, blocks = arguments.pop("name", None), arguments.pop("blocks", None)
    if name is None:
        raise UserError(f"a latent needs a name beside its options {arguments}")
    kind = find_latent(name)
    sizes = network if blocks is None else last_blocks(network, blocks)
    if blocks is not None and is_for_embeddings(kind) and not is_stream_of_embeddings(network):
        raise UserError(
            f"{name} enters at the embedding of each position, and the blocks of this network hold "
            "no embeddings but patches or another width: leave out latent.blocks"
        )
    what = f"latent {name!r} cannot be made"
    arguments = fitted(kind, arguments, what, positional=1)
    with refusing(what):
        injector = kind(sizes, **arguments)
    injector.blocks = blocks
    return injector


def find_latent(name: str) -> type[LatentInjector]:
    """Find a latent injector among built-ins and plugins.

    Raises:
        UserError: for an unknown name, and for a latent of another kind, such as tauLDR's 'unet'.
    """
    kind = lookup("latent", name)
    if not (isinstance(kind, type) and issubclass(kind, LatentInjector)):
        raise UserError(
            f"latent {name!r} does not enter this network: it is no LatentInjector but {kind!r}"
        )
    return kind


def last_blocks(network: Sizes, blocks: Any) -> KnownSizes:
    """Return the sizes of the last `blocks` blocks of a network.

    Raises:
        UserError: if `blocks` is below 1, or the network has fewer.
    """
    n = (network.num_norms - 1) // 2
    if not isinstance(blocks, int) or isinstance(blocks, bool) or not 1 <= blocks <= n:
        raise UserError(f"latent.blocks is {blocks!r}: this network has 1 to {n}, null is all")
    return KnownSizes(
        network.hidden_size,
        network.embedding_size,
        network.embedding_std,
        network.positions,
        network.length,
        2 * blocks + 1,
    )


def is_for_embeddings(kind: type[LatentInjector]) -> bool:
    """Return whether injectors of this class change the embeddings of positions."""
    return getattr(kind, "on_embedding", None) is not LatentInjector.on_embedding


def is_stream_of_embeddings(network: Sizes) -> bool:
    """Return whether the stream has one row for each position, as wide as its embedding."""
    return (network.length, network.hidden_size) == (network.positions, network.embedding_size)


def same_options(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Return whether two latents are equal, with the defaults of the latent's class."""
    if one is None or other is None:
        return one is other
    return _with_defaults(one) == _with_defaults(other)


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    full: dict[str, Any] = {"blocks": None, "doors": None}
    name = options.get("name")
    if name in names_of("latent"):
        full |= with_defaults(lookup("latent", str(name)), {})
    return full | dict(options)
