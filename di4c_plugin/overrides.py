"""Overrides `key=value` as a user types them, in Hydra's grammar.

That grammar has no `=`, `(` or `é` outside quotes, which names of files have: Lightning's own are
`epoch=3-step=10.ckpt`.
"""

import re
from collections.abc import Collection, Iterable


def readable(overrides: Iterable[str], texts: Collection[str] = ()) -> list[str]:
    """Return overrides with those quoted that Hydra would not read, or read as something else.

    Args:
        overrides: as typed; what has no `=` is left alone.
        texts: keys whose values are names, whatever they look like: `out=2024`, `out=a,b`.
    """
    return [_readable(override, texts) for override in overrides]


def _readable(override: str, texts: Collection[str]) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    key, equals, value = override.partition("=")
    if not equals or key.startswith("-"):
        return override
    try:
        value_read = OverridesParser.create().parse_override(override)._value
    except HydraException:
        return f"{key}={quoted(value)}"
    if value_read is None or isinstance(value_read, str | QuotedString):
        return override
    return f"{key}={quoted(value)}" if key.lstrip("+") in texts else override


def quoted(value: str) -> str:
    """Return a text in quotes of Hydra's grammar."""
    inner = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", r"\'")
    return f"'{inner}'"
