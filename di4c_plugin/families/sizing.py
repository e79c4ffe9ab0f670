"""The number of attention heads of a transformer, which its weights do not determine."""

from collections.abc import Mapping

from di4c_plugin.errors import UserError


def known_heads(table: Mapping[tuple[int, int], int], hidden: int, depth: int, origin: str) -> int:
    """Return the number of heads of one of the host's named sizes, by width and depth.

    Raises:
        UserError: for another size.
    """
    if (hidden, depth) in table:
        return table[hidden, depth]
    raise UserError(
        f"{origin} has width {hidden} and {depth} blocks, no size that its host names: say "
        "host.heads="
    )


def check_heads(heads: int, hidden: int, *, divide: bool = True) -> None:
    """Refuse heads that are too many for the width, or do not divide it; raises UserError."""
    if not 1 <= heads <= hidden or (divide and hidden % heads):
        raise UserError(f"{heads} heads do not divide the width {hidden}")
