from types import SimpleNamespace
from typing import Any

from di4c_plugin.programs.text.recorded import settings_of
from tests.stand_ins.text import stand_in


def test_settings_are_what_an_update_depends_on() -> None:
    values: dict[str, Any] = {
        "loader": {"batch_size": 8, "num_workers": 3},
        "data": {"cache_dir": "/a/b", "name": "text8"},
        "wandb": {"name": "x"},
    }
    student: Any = stand_in.student()
    known = {name: getattr(student, name) for name in ("plan", "engine", "parts")}
    found = settings_of(SimpleNamespace(config=stand_in.config(**values), **known))
    assert found["loader.batch_size"] == "8"
    assert found["data.name"] == "text8"
    assert found["algo.delta"] == "0.2"
    assert found["algo.delta_t"] == "[0.1, 0.1]"
    assert found["rounds"] == "1"
    assert not {"loader.num_workers", "data.cache_dir", "wandb.name"} & found.keys()
