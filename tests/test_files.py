from pathlib import Path

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write, configs_dir, is_plain, named_file, unfinished


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


def test_what_a_killed_process_leaves_is_found(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with atomic_write(path) as temporary:
        temporary.touch()
        (tmp_path / ".report.json").touch()
        (tmp_path / f".report.{'g' * 32}.json").touch()
        (tmp_path / f".report.{'0' * 32}.json").mkdir()
        (tmp_path / f".other.{'0' * 32}.json").touch()
        assert unfinished(path) == [temporary]
    assert unfinished(path) == []
    assert unfinished(tmp_path / "nowhere" / "report.json") == []


def test_plain_files_are_neither_folders_nor_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert is_plain(tmp_path / "file")
    assert not any(map(is_plain, (tmp_path, tmp_path / "link", tmp_path / "none")))


def test_files_are_found_by_whatever_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a:b.x"
    file.touch()
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (file, str(file), "a:b.x", f"file:{file}", "link", "~/link", "scheme:link"):
        assert named_file(value) == file
    others: list[object] = [
        None,
        7,
        "",
        ":",
        "none",
        tmp_path,
        "x" * 5000,
        "a\0b",
        "~nobody-here/x",
    ]
    assert [named_file(value) for value in others] == [None] * len(others)
