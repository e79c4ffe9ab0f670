import random
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.training.checkpoint_file import read_checkpoint, write_checkpoint
from tests.training import toy

CONTENT: dict[str, Any] = {"global_step": 3, "state_dict": {"w": torch.arange(2000.0)}}


def same(one: Any, other: Any) -> bool:
    weights, others = one["state_dict"], other["state_dict"]
    return one["global_step"] == other["global_step"] and toy.same(weights, others)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path, before = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    write_checkpoint(CONTENT, path, previous=before)
    found = read_checkpoint(path)
    assert found.keys() == CONTENT.keys()
    assert same(found, CONTENT)
    assert not before.exists()
    write_checkpoint(CONTENT | {"global_step": 4}, path, previous=before)
    assert (read_checkpoint(path)["global_step"], read_checkpoint(before)["global_step"]) == (4, 3)
    write_checkpoint(CONTENT | {"global_step": 5}, path)
    assert read_checkpoint(before)["global_step"] == 3
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(CONTENT, path)
    assert same(read_checkpoint(path), CONTENT)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(2000.0).numpy().tobytes()[400:440])] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="^.*last.ckpt is damaged$"):
        read_checkpoint(path)


def test_what_was_damaged_in_writing_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    save = torch.save

    def flip(content: Any, file: Path) -> None:
        save(content, file)
        data = bytearray(file.read_bytes())
        data[data.index(torch.arange(2000.0).numpy().tobytes()[400:440])] ^= 1
        file.write_bytes(data)

    def full(content: Any, file: Path) -> None:
        raise RuntimeError("unexpected pos 64 vs 0\n more")

    for broken, message in ((flip, "it was damaged in writing"), (full, "unexpected pos 64 vs 0")):
        monkeypatch.setattr(torch, "save", broken)
        with pytest.raises(UserError, match=f"^cannot write .*last.ckpt: {message}$"):
            write_checkpoint(CONTENT | {"global_step": 9}, path, previous=tmp_path / "previous")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(path)["global_step"] == 3


def changed(whole: bytes, draw: random.Random) -> bytes:
    """The bytes with a flip, a cut, a gap, a repeated or an overwritten part."""
    data, at = bytearray(whole), draw.randrange(len(whole))
    kind, length = draw.randrange(5), draw.choice([1, 2, 8, 64])
    if kind == 0:
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = data[at : at + length]
    else:
        data[at : at + length] = draw.randbytes(length)
    return bytes(data)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.campaign)])
def test_a_changed_checkpoint_is_refused_or_means_the_same(tmp_path: Path, count: int) -> None:
    """Some bytes of the archive mean nothing: those that fill it up, and dates."""
    path, draw = tmp_path / "last.ckpt", random.Random(0)
    write_checkpoint(CONTENT, path)
    whole, refused = path.read_bytes(), 0
    for _ in range(count):
        path.write_bytes(changed(whole, draw))
        try:
            found = read_checkpoint(path)
        except UserError:
            refused += 1
            continue
        assert same(found, CONTENT)
    assert refused > count / 2
    path.write_bytes(b"")
    with pytest.raises(UserError, match=f"^{path} is damaged$"):
        read_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]
