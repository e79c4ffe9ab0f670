"""Quotes overrides `key=value` for Hydra's grammar.

The grammar allows no `=`, `(` or `é` outside quotes, but file names have them: Lightning writes
`epoch=3-step=10.ckpt`.
"""

import re
from collections.abc import Collection, Iterable


def readable(overrides: Iterable[str], texts: Collection[str] = ()) -> list[str]:
    """Return overrides, with values quoted that Hydra could not parse or would misread.

    Args:
        overrides: as typed; those without `=` stay as they are.
        texts: keys whose values are always text: `out=2024`, `out=a,b`.
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


def elements(override: str) -> list[object]:
    """Return the values that an override sweeps over under --multirun; else its one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, QuotedString

    read = OverridesParser.create().parse_override(override)
    is_listed = read.is_discrete_sweep() and not isinstance(read.value(), Glob)
    values = read.sweep_iterator() if is_listed else [read.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in values]


def quoted(value: str) -> str:
    """Return a text quoted for Hydra's grammar."""
    inner = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", r"\'")
    return f"'{inner}'"
