from pathlib import Path

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write, configs_dir


def test_a_finished_file_replaces_the_old_one_and_nothing_else_remains(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_folder_and_suffix(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "plot.png"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        temporary.touch()
    assert path.exists()


@pytest.mark.parametrize("in_the_way", ["file", "folder"])
def test_an_impossible_path_is_the_users_mistake(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "report.json").mkdir(parents=True)
    path = tmp_path / in_the_way / "report.json"
    with pytest.raises(UserError, match=f"cannot write {path}: "), atomic_write(path) as temporary:
        temporary.touch()


def test_the_configs_are_found() -> None:
    assert (configs_dir() / "algo" / "di4c.yaml").is_file()
