import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.training.recorded import as_text, compare


def test_settings_have_dotted_names_and_no_paths() -> None:
    settings = {"a": {"b": (1, 2), "c": {}}, "data": {"root": "/x/y", "num_workers": 3}, "d": None}
    assert as_text(settings) == {"a.b": "[1, 2]", "a.c": "{}", "d": "None"}


def test_one_line_names_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    compare(None, {"a": "1"})
    compare({"a": "1"}, {"a": "1"})
    assert capsys.readouterr().err == ""
    compare({"a": "1", "b": "2"}, {"a": "3", "c": "4"})
    assert capsys.readouterr().err == (
        "di4c: warning: resumed with other settings: a was 1, and is 3 now; "
        "b was 2, and is None now; c was None, and is 4 now\n"
    )
    compare({}, {f"x{i}": "1" for i in range(9)})
    assert capsys.readouterr().err.endswith("x5 was None, and is 1 now; and 3 more\n")


@pytest.mark.parametrize("name", ["algo.delta", "algo.weights.distil", "latent.std", "rounds"])
def test_another_method_is_another_run(name: str) -> None:
    with pytest.raises(UserError, match=f"another method: {name} was 1, and is 2 now; a new folde"):
        compare({name: "1"}, {name: "2"})


def test_another_methods_name_comes_first() -> None:
    before, now = (
        {"algo.name": name} | {f"algo.{name}{i}": "1" for i in range(9)} for name in "ab"
    )
    with pytest.raises(UserError, match="method: algo.name was a, and is b now; algo.a0 was 1"):
        compare(before, now)


def test_a_program_says_how_its_students_are_named() -> None:
    with pytest.raises(UserError, match="; a new folder and X go on from its student$"):
        compare({"rounds": "1"}, {"rounds": "2"}, "X")
