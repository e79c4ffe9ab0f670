import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from di4c_plugin.programs.text.peers import LostPeer, is_lost_peer

GLOO = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    "exception",
    [
        GLOO,
        RuntimeError("[Rank 0]: Timed out waiting 1800000ms for recv operation"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, remote process exited"),
        RuntimeError("Read error: Connection reset by peer"),
    ],
)
def test_what_a_lost_process_looks_like(exception: BaseException) -> None:
    assert is_lost_peer(exception)


@pytest.mark.parametrize(
    "exception",
    [RuntimeError("shapes do not match"), ValueError("connection reset"), KeyboardInterrupt()],
)
def test_what_it_does_not_look_like(exception: BaseException) -> None:
    assert not is_lost_peer(exception)


def happen(exception: BaseException, world_size: int) -> None:
    trainer: Any = SimpleNamespace(world_size=world_size, global_rank=1, global_step=7)
    module: Any = None
    LostPeer().on_exception(trainer, module, exception)


def test_the_others_end_with_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stop:
        happen(GLOO, 2)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "process 1 of 2 lost another process of the run after 7 updates" in error
    assert error.count("\n") == 1


def test_other_exceptions_and_single_processes_are_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    happen(GLOO, 1)
    happen(RuntimeError("shapes do not match"), 2)
    assert capsys.readouterr().err == ""


FORKS_AND_DIES = """
import os, signal, time
from di4c_plugin.programs.text.peers import children_die_with_us
children_die_with_us()
if os.fork() == 0:
    time.sleep(60)
else:
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is of Linux")
def test_what_a_killed_process_forked_dies_with_it() -> None:
    """The child holds the pipe that is read here: it ends when both are gone."""
    subprocess.run([sys.executable, "-c", FORKS_AND_DIES], capture_output=True, timeout=45)
