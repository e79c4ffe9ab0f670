"""Options of methods that are one word of several."""

from collections.abc import Collection, Mapping

from di4c_plugin.errors import UserError


def check_choices(said: Mapping[str, str], choices: Mapping[str, Collection[str]]) -> None:
    """Refuse the first option that is none of its choices; raises UserError, which lists them."""
    for name, value in said.items():
        if value not in choices[name]:
            known = ", ".join(choices[name])
            raise UserError(f"unknown {name} {value!r}; there are {known}")
