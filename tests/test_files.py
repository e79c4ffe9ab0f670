from pathlib import Path

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.files import (
    atomic_write,
    configs_dir,
    free_name,
    is_plain,
    named_file,
    new_file,
    unfinished,
    user_path,
)


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


def test_a_path_knows_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    assert user_path(Path("~/a")) == tmp_path / "a"
    assert user_path("a~/é(1)=2") == Path("a~/é(1)=2")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * 256, "is a name of more than 255 bytes"),
        ("a/" + "é" * 128 + "/b", "is a name of more than 255 bytes"),
        ("a/" * 3000, "is not a valid file name"),
        ("a\0b", "is not a valid file name"),
        ("~nobody-here/x", "is no path here: Could not determine home directory"),
        ("", "a path is text, not ''"),
        (3, "a path is text, not 3"),
        (None, "a path is text, not None"),
    ],
)
def test_what_is_no_path_is_told(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        user_path(value)


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert unfinished(path) == [temporary]
    assert path.read_text() == "new"


def test_a_new_file_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.png"
    assert new_file(path) == path
    assert not path.parent.exists()
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(UserError, match="x.png is there already: name another file, or add --over"):
        new_file(path)
    assert new_file(path, overwrite=True) == path
    assert free_name(path) == tmp_path / "a" / "x-1.png"
    for bad in (path / "y.png", path.parent):
        with pytest.raises(UserError, match=f"^cannot write {bad}: "):
            new_file(bad, overwrite=True)
