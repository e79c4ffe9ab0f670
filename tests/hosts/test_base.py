"""What a user may say of a host, by the annotations of its data and its family."""

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.families.transformer import TransformerNetworks
from di4c_plugin.hosts import Host, HostData


class Shaded(HostData):
    """Data with an option that has a type, and one that has none."""

    def __init__(self, shade: float = 0.5, anything=None) -> None:  # type: ignore[no-untyped-def]
        self.shade, self.anything = shade, anything


HOST = Host("shaded", TransformerNetworks(), Shaded)


def test_options_have_the_types_of_the_data() -> None:
    host = HOST(shade=1, anything=[3])
    assert host.options == {"shade": 1.0, "anything": [3]}
    with pytest.raises(UserError, match="host 'shaded': shade must be a number, not 'dark'"):
        HOST(shade="dark")
    with pytest.raises(UserError, match="'shad'.*did you mean 'shade'"):
        HOST(shad=1)


def test_none_is_what_an_option_is_by_default() -> None:
    assert HOST(shade=None).options["shade"] == 0.5
    assert HOST.options == {"shade": 0.5, "anything": None}
