from types import SimpleNamespace
from typing import Any

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.recorded import compare, settings_of
from tests.stand_ins.text import stand_in


def test_settings_are_what_an_update_depends_on() -> None:
    values: dict[str, Any] = {
        "loader": {"batch_size": 8, "num_workers": 3},
        "data": {"cache_dir": "/a/b", "name": "text8"},
        "wandb": {"name": "x"},
    }
    student: Any = stand_in.student()
    module = SimpleNamespace(
        config=stand_in.config(**values), plan=student.plan, engine=student.engine
    )
    found = settings_of(module)
    assert found["loader.batch_size"] == "8"
    assert found["data.name"] == "text8"
    assert found["algo.delta"] == "0.2"
    assert found["algo.delta_t"] == "[0.1, 0.1]"
    assert found["rounds"] == "1"
    assert not {"loader.num_workers", "data.cache_dir", "wandb.name"} & found.keys()


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


@pytest.mark.parametrize("name", ["algo.delta", "algo.weights.distil", "rounds"])
def test_another_method_is_another_run(name: str) -> None:
    with pytest.raises(UserError, match=f"another method: {name} was 1, and is 2 now; a new folde"):
        compare({name: "1"}, {name: "2"})
