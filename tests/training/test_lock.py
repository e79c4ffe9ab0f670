import contextlib
import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from di4c_plugin.errors import UserError
from di4c_plugin.training.lock import LOCK, held

HOLDER = """
import sys, time
from pathlib import Path
from di4c_plugin.training.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_process_holds_a_folder_until_it_dies(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "link"):
        with pytest.raises(UserError, match=f"^{path} is in use by another run$"), held(path):
            raise AssertionError
    with held(tmp_path / "other"):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with held(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_thread_may_enter_again_and_no_other(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with held(tmp_path):
                raise AssertionError
        except UserError as error:
            refused.append(str(error))

    with held(tmp_path):
        for _ in range(2):
            with held(tmp_path):
                assert (tmp_path / LOCK).exists()
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert (tmp_path / LOCK).exists()
    assert refused == [f"{tmp_path} is in use by another run"] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_nothing_came_to_be_goes_again(tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    with contextlib.suppress(ZeroDivisionError), held(new):
        assert new.is_dir()
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with held(new):
        (new / "file").touch()
    assert list(new.iterdir()) == [new / "file"]
    (tmp_path / "empty").mkdir()
    with held(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"^{tmp_path / 'file'} is not a folder$"), held(path):
            raise AssertionError


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_line_says_so(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(lock: FileLock, **options: object) -> None:
        (tmp_path / "run" / LOCK).touch()
        raise OSError(code, "no locks")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    run = tmp_path / "run"
    with held(run), held(run):
        pass
    line = f"di4c: {run} cannot be locked: start no other run in it meanwhile\n"
    assert capsys.readouterr().err == line
    assert not run.exists()


def test_what_the_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: FileLock, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(UserError, match="run: Permission denied$"), held(tmp_path / "run"):
        raise AssertionError
    assert not (tmp_path / "run").exists()


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="^cannot write "), held(tmp_path):
        raise AssertionError
    assert not (tmp_path / "elsewhere").exists()
