"""Files of other programs as plain values, or one line that names the file."""

from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.plain_files import read_json, read_yaml

# Each level holds the one before nine times.
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{k + 1}: &a{k + 1} {{<<: [{', '.join([f'*a{k}'] * 9)}]}}\n" for k in range(12)
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "file"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: {b: [1, 2.5, true, null, x]}", {"a": {"b": [1, 2.5, True, None, "x"]}}),
        ("lr: 1e-3\neps: 1.0e-06\n2: yes", {"lr": 1e-3, "eps": 1e-6, "2": True}),
        (
            "hash: 12e4567f\nplus: +1.e+2\nword: e5",
            {"hash": "12e4567f", "plus": 100.0, "word": "e5"},
        ),
        ("day: 2024-01-31\nwrong: 2024-13-77", {"day": "2024-01-31", "wrong": "2024-13-77"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("home: ${oc.env:HOME}\nkey: ${a.b}", {"home": "${oc.env:HOME}", "key": "${a.b}"}),
        ("", None),
    ],
)
def test_plain_values(text: str, expected: Any, tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, text)) == expected


def test_json(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, '{"a": [1, {"b": null}]}')) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: !!python/object/apply:os.system [true]",
        "a: !!python/name:os.system",
        "a: !!set {x, y}",
        "a: !!binary aGk=",
        "a: !!bool maybe",
        "a: !!int ''",
        "a: &a [*a]",
        "&a {x: *a}",
        BOMB,
        MERGES,
        "[" * 5000,
        "- " * 5000,
        "a: " + "x" * 2**20,
        b"\xff\xfe\x00",
        b"a: \x1b[31m",
        "9: " + "9" * 10**5,
    ],
)
def test_one_line_names_the_file(text: str | bytes, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path} is not readable: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, b"\xff", "[" + "1," * 2**19 + "1]"])
def test_json_likewise(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="file is not readable: .") as caught:
        read_json(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="is not readable: "):
            read_yaml(path)
