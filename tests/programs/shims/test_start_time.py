import sys
import time
from datetime import datetime

import pytest

from di4c_plugin.programs.shims import start_time


class Store(dict[str, bytes]):
    """A store that all processes see."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key]


def test_all_processes_of_an_attempt_have_the_time_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.25, 200.5])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    store = Store()
    assert [start_time.agreed(store, rank, "0") for rank in (0, 1, 2)] == [100.25] * 3
    assert [start_time.agreed(store, rank, "1") for rank in (0, 1)] == [200.5] * 2


def test_the_clock_stands_still() -> None:
    stopped = start_time.stopped_clock(1e9)
    assert stopped.now() == stopped.now() == datetime.fromtimestamp(1e9)
    assert stopped.now().strftime("%Y") == "2001"


def test_without_torchrun_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    finders = list(sys.meta_path)
    start_time.install()
    assert sys.meta_path == finders
