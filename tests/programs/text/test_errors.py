import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.errors import one_line


@one_line
def work(what: str) -> str:
    """Does."""
    if what == "fine":
        return what
    raise {"mistake": UserError, "bug": ValueError}[what](what)


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        work("mistake")
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "di4c: error: mistake\n")


def test_everything_else_passes() -> None:
    assert work("fine") == "fine"
    assert (work.__name__, work.__doc__) == ("work", "Does.")
    with pytest.raises(ValueError, match="bug"):
        work("bug")
