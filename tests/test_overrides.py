import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from di4c_plugin.overrides import quoted, readable

NAMES = [
    "epoch=3-step=10.ckpt",
    "a(1).pth",
    "é.pt",
    "~/x",
    "x'y",
    'x"y',
    "a#b",
    "[a",
    "a\\",
    "a\\'b",
    "日本",
    "a, b",
    "2024",
    "true",
    "1e3",
    "{a}",
    "a,b",
]


def value_of(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_is_taken_as_it_is(name: str) -> None:
    (override,) = readable([f"teacher={name}"], {"teacher"})
    assert value_of(override) == name


@pytest.mark.parametrize(
    "override",
    [
        "a=1",
        "a=[1,2]",
        "a='x=y'",
        "a=x\\=y",
        "~a",
        "+a=b",
        "a=",
        "a",
        "--multirun",
        "a=choice(1,2)",
    ],
)
def test_what_hydra_reads_is_left_to_it(override: str) -> None:
    assert readable([override]) == [override]


def test_null_is_none_for_names_too() -> None:
    assert readable(["teacher=null"], {"teacher"}) == ["teacher=null"]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\n\r$", exclude_categories=["Cc", "Cs"])))
def test_quotes_are_undone_by_hydra(text: str) -> None:
    assert value_of(f"a={quoted(text)}") == text
