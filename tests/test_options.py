"""Options against the annotations of classes and functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.options import fitted, typed
from di4c_plugin.values import Choices, Count, Range, Share

if TYPE_CHECKING:
    from di4c_plugin.api import LoadedModel


class Peer:
    """What no plain value is."""


def method(  # type: ignore[no-untyped-def]  # `free`, as a third party may write it
    process: Any,
    *,
    count: Count = 1,
    number: float = 0.5,
    maybe: float | None = None,
    switch: bool = False,
    pair: tuple[float, float] = (0.1, 0.2),
    grid: tuple[int, int] | None = None,
    weights: Mapping[str, Annotated[float, Range(0)]] | None = None,
    way: Annotated[str, Choices("fast", "slow")] = "fast",
    other: Literal["a", 3] = "a",
    share: Share = 0.5,
    below: Annotated[float, Range(0, below=1)] = 0.0,
    path: Path | None = None,
    text: str = "",
    names: Sequence[str] = (),
    each: list[int] | None = None,
    call: Callable[[int], None] | None = None,
    peer: Peer | None = None,
    model: "LoadedModel | None" = None,
    anything: Any = None,
    free=None,
) -> None:
    """A method."""


def fit(**options: Any) -> dict[str, Any]:
    return fitted(method, options, "method 'm'", positional=1)


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("count", 2.0, 2),
        ("count", np.int64(3), 3),
        ("number", 1, 1.0),
        ("number", np.float32(0.5), 0.5),
        ("maybe", None, None),
        ("pair", [0, 1], (0.0, 1.0)),
        ("grid", [2, 3.0], (2, 3)),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("below", 0, 0.0),
        ("path", "x", Path("x")),
        ("names", ("a",), ["a"]),
        ("each", (1, 2), [1, 2]),
        ("each", torch.tensor([1, 2]), [1, 2]),
        ("each", range(2), [0, 1]),
        ("pair", np.array([1, 2]), (1.0, 2.0)),
        ("call", len, len),
        ("other", 3, 3),
        ("free", object, object),
        ("model", 3, 3),  # its type is known to type checkers only
    ],
)
def test_what_fits_comes_as_the_annotation_says(option: str, value: Any, found: Any) -> None:
    got = fit(**{option: value})[option]
    assert (got, type(got)) == (found, type(found))


def test_a_path_knows_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fit(path="~/x") == {"path": tmp_path / "x"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("count", 0, "count must be at least 1, not 0"),
        ("count", 1.5, "count must be a whole number, not 1.5"),
        ("count", True, "count must be a whole number, not True"),
        ("count", "3", "count must be a whole number, not '3'"),
        ("count", math.nan, "count must be a whole number, not nan"),
        ("count", math.inf, "count must be a whole number, not inf"),
        ("count", 2**63, "count must be at most 9223372036854775807, not 9223372036854775808"),
        ("number", "abc", "number must be a number, not 'abc'"),
        ("number", math.nan, "number must be a finite number, not nan"),
        ("number", torch.zeros(()), "number must be a number, not tensor(0.)"),
        ("maybe", "x", "maybe must be a number, not 'x'"),
        ("switch", 1, "switch must be true or false, not 1"),
        ("pair", "linear", "pair must be two numbers, not 'linear'"),
        ("pair", [1], "pair must be two numbers, not [1]"),
        ("pair", [1, "x"], "pair[1] must be a number, not 'x'"),
        ("grid", [1, 1.5], "grid[1] must be a whole number, not 1.5"),
        ("weights", 3, "weights must be a mapping of options, not 3"),
        ("weights", {"a": -1}, "weights['a'] must be at least 0, not -1.0"),
        ("way", "fats", "unknown way 'fats' (did you mean 'fast'?); there are fast, slow"),
        ("way", [], "unknown way []; there are fast, slow"),
        ("other", True, "unknown other True; there are a, 3"),
        ("share", 1.5, "share must be in [0, 1], not 1.5"),
        ("below", 1, "below must be in [0, 1), not 1.0"),
        ("below", math.nan, "below must be in [0, 1), not nan"),
        ("path", 3, "path must be a path, not 3"),
        ("text", 3, "text must be text, not 3"),
        ("names", "ab", "names must be a list of texts, not 'ab'"),
        ("each", [[]], "each[0] must be a whole number, not []"),
        ("each", len, "each must be a list of whole numbers, not <built-in function len>"),
        ("each", NotImplemented, "each must be a list of whole numbers, not NotImplemented"),
        ("each", torch.tensor(1), "each must be a list of whole numbers, not tensor(1)"),
        ("each", np.array(["a"]), "each[0] must be a whole number, not 'a'"),
        ("each", {2, 1}, "each must be a list of whole numbers, not {1, 2}"),
        ("pair", NotImplemented, "pair must be two numbers, not NotImplemented"),
        ("pair", np.zeros(3), "pair must be two numbers, not array([0., 0., 0.])"),
        ("call", 3, "call must be something to call, not 3"),
        ("peer", {}, "peer must be a Peer, not {}"),
    ],
)
def test_what_does_not_is_told(option: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        fit(**{option: value})
    assert str(caught.value) == f"method 'm': {message}"


def test_a_number_that_python_does_not_write_out() -> None:
    with pytest.raises(UserError, match="^method 'm': number must be .*, not a very large int$"):
        fit(number=10**5000)


def test_unknown_and_missing_names_are_told_with_the_nearest() -> None:
    def short(process: Any, *, strength: float) -> None:
        """A method."""

    for options, message in (
        (
            {"strenght": 1},
            "got an unexpected keyword argument 'strenght' (did you mean 'strength'?)",
        ),
        ({}, "missing a required argument: 'strength'"),
        ({"process": 1, "strength": 1}, "got an unexpected keyword argument 'process'"),
    ):
        with pytest.raises(UserError) as caught:
            fitted(short, options, "x", positional=1)
        assert str(caught.value) == f"x: {message}; it takes strength"
    with pytest.raises(UserError, match="^x: names of options are text, not 3$"):
        fitted(short, {3: 1}, "x", positional=1)  # type: ignore[dict-item]


def test_a_typed_function_checks_its_arguments() -> None:
    @typed
    def double(n: int, *, by: Count = 2, **rest: Any) -> int:
        assert rest in ({}, {"x": "y"})
        return n * by

    assert double(2.0, x="y") == 4  # type: ignore[arg-type]
    with pytest.raises(UserError, match="^n must be a whole number, not '2'$"):
        double("2")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="^by must be at least 1, not 0$"):
        double(2, by=0)
    with pytest.raises(TypeError, match="missing a required argument: 'n'"):
        double()  # type: ignore[call-arg]
