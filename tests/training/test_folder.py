import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.training.folder import NAMES, RunFolder, add_names, check_free, recorded

DESCRIPTION = {"algo": {"name": "a", "n": 4}, "training": {"lr": 0.1, "log_every": 10}}
STUDENT = "student.safetensors"
WRITTEN = {"run.json", "config.yaml", "last.ckpt", "previous.ckpt", STUDENT}
HEX = "0123456789abcdef" * 2


def folder(path: Path, description: dict[str, Any] = DESCRIPTION, **more: Any) -> RunFolder:
    return RunFolder(path, description, **({"model": STUDENT} | more))


def names(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


def record(path: Path, *files: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text(json.dumps({"di4c_run": 1, "files": files}))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A folder with a run that can be resumed."""
    made = folder(tmp_path / "run")
    made.claim(resume=False)
    torch.save({"step": torch.tensor(1)}, made.checkpoint)
    return made


def test_another_run_is_refused_unless_told(run: RunFolder) -> None:
    with pytest.raises(UserError, match="run holds another run"):
        run.check(resume=False, overwrite=False)
    run.check(resume=False, overwrite=True)
    run.check(resume=True, overwrite=False)
    with pytest.raises(UserError, match="exclude each other"):
        run.check(resume=True, overwrite=True)


def test_overwriting_removes_the_run_and_nothing_else(run: RunFolder) -> None:
    users = {"notes.txt", "mine.safetensors", "teacher.safetensors", "report.json", ".x.ckpt"}
    for name in {STUDENT, *users}:
        (run.path / name).touch()
    run.check(resume=False, overwrite=True)
    run.claim(resume=False)
    assert names(run.path) == {"run.json", "config.yaml"} | users


def test_a_run_of_another_kind_is_replaced_too(run: RunFolder) -> None:
    (run.path / STUDENT).touch()
    add_names(run.path, ["report.json"])
    (run.path / "report.json").touch()
    other = folder(run.path, model="teacher.safetensors")
    other.check(resume=False, overwrite=True)
    other.claim(resume=False)
    assert names(run.path) == {"run.json", "config.yaml"}
    assert recorded(run.path) == WRITTEN - {STUDENT} | {"teacher.safetensors"}


def test_what_a_run_writes_is_recorded_before_it_is_there(tmp_path: Path) -> None:
    made = folder(tmp_path)
    made.claim(resume=False)
    assert names(tmp_path) == {"run.json", "config.yaml"}
    assert recorded(tmp_path) == WRITTEN
    add_names(tmp_path, ["report.json"])
    made.claim(resume=True)
    assert recorded(tmp_path) == WRITTEN | {"report.json"}


# ---- files of the user


@pytest.mark.parametrize("name", sorted(WRITTEN))
@pytest.mark.parametrize("how", ["file", "folder", "link", "dangling"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_no_run_wrote_is_never_replaced(
    tmp_path: Path, name: str, how: str, options: dict[str, bool]
) -> None:
    path = tmp_path / name
    if how == "file":
        path.write_text("{}")
    elif how == "folder":
        path.mkdir()
    else:
        if how == "link":
            (tmp_path / "target").touch()
        path.symlink_to(tmp_path / "target")
    before = names(tmp_path)
    with pytest.raises(UserError, match=f"^{path} is in the way, and no run wrote it: move it, or"):
        folder(tmp_path).check(**({"resume": False, "overwrite": False} | options))
    assert names(tmp_path) == before


def test_other_files_are_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("teacher.safetensors", "report.json", "model.safetensors", "notes"):
        (tmp_path / name).touch()
    folder(tmp_path).check(resume=False, overwrite=False)
    folder(tmp_path).claim(resume=False)
    folder(tmp_path).release()
    assert names(tmp_path) == {"teacher.safetensors", "report.json", "model.safetensors", "notes"}


def test_a_link_in_the_place_of_a_file_is_left_alone(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (run.path / STUDENT).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="student.safetensors is in the way"):
        run.check(resume=False, overwrite=True)
    run.claim(resume=False)
    assert (tmp_path / "precious").exists()
    assert (run.path / STUDENT).is_symlink()


# ---- files that the run reads


@pytest.mark.parametrize("how", ["plain", "scheme", "link", "relative", "through", "info", "list"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_a_run_reads_is_never_replaced(
    run: RunFolder,
    tmp_path: Path,
    how: str,
    options: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = run.path / STUDENT
    file.touch()
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "same").symlink_to(run.path)
    monkeypatch.chdir(run.path)
    given: dict[str, object] = {
        "plain": file,
        "scheme": f"file:{file}",
        "link": str(tmp_path / "link"),
        "relative": STUDENT,
        "through": str(tmp_path / "same" / STUDENT),
        "info": None,
        "list": None,
    }
    path = tmp_path / "same" if how == "plain" else run.path
    host = {"name": "x", "data": [str(file)] if how == "list" else str(file)}
    more = {"host": host} if how in ("info", "list") else {}
    again = folder(path, DESCRIPTION | more, inputs=(None, 7, given[how], "x" * 5000, "a\0b"))
    with pytest.raises(UserError, match=f"^{path / STUDENT} is what this run reads, and it would"):
        again.check(**({"resume": False, "overwrite": False} | options))


def test_what_a_run_reads_may_lie_beside_it(run: RunFolder) -> None:
    (run.path / "mine.safetensors").touch()
    again = folder(run.path, inputs=(run.path / "mine.safetensors", run.path))
    again.check(resume=False, overwrite=True)


# ---- records that anybody may have written


@pytest.mark.parametrize(
    "files",
    [
        ["../precious", "run/../../precious", "notes", "logs", "sub/student.safetensors", ".", ""],
        ["PRECIOUS", None, 7, ["student.safetensors"], {"a": 1}],
    ],
)
def test_a_record_opens_no_way_to_other_files(tmp_path: Path, files: list[Any]) -> None:
    precious = tmp_path / "precious"
    path = tmp_path / "run"
    record(path, *files, str(precious), "config.yaml", "report.json")
    (path / "sub").mkdir()
    for each in (precious, path / "notes", path / "logs", path / "sub" / STUDENT):
        each.write_text("mine")
    (path / "report.json").touch()
    assert recorded(path) == {"run.json", "config.yaml", "report.json"}
    folder(path).check(resume=False, overwrite=True)
    folder(path).claim(resume=False)
    assert names(path) == {"run.json", "config.yaml", "notes", "logs", "sub"}
    assert precious.exists()
    assert (path / "sub" / STUDENT).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b"[]",
        b"7",
        b'{"files": ["student.safetensors"]}',
        b'{"di4c_run": 2, "files": ["student.safetensors"]}',
        b'{"di4c_run": 1, "files": "student.safetensors"}',
        b'{"di4c_run": 1, "files": ["student.safetensors"], "x": "' + b"x" * 100_000 + b'"}',
    ],
)
def test_something_else_is_no_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    (tmp_path / STUDENT).touch()
    assert recorded(tmp_path) == frozenset()
    with pytest.raises(UserError, match="run.json is in the way"):
        folder(tmp_path).check(resume=False, overwrite=True)


def test_a_record_is_a_file(tmp_path: Path) -> None:
    record(tmp_path, STUDENT)
    (tmp_path / "run.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "run.json").symlink_to(tmp_path / "elsewhere.json")
    assert recorded(tmp_path) == frozenset()
    (tmp_path / "run.json").unlink()
    os.mkfifo(tmp_path / "run.json")
    assert recorded(tmp_path) == frozenset()


def test_records_hold_names_of_ours_only(tmp_path: Path) -> None:
    record(tmp_path, *NAMES, "x")
    assert recorded(tmp_path) == NAMES


# ---- folders of versions without a record

EARLIER = {
    "algo": {"name": "di4c"},
    "student": {"network": {}, "process": {}, "latent": None},
    "training": {"steps": 1, "batch_size": 2, "accumulate": 1, "lr": 0.1, "log_every": 10},
}


@pytest.mark.parametrize(
    ("algo", "model", "other"),
    [
        ("di4c", STUDENT, "teacher.safetensors"),
        ("denoising", "teacher.safetensors", STUDENT),
    ],
)
def test_a_run_of_an_earlier_version_is_known_by_its_config(
    tmp_path: Path, algo: str, model: str, other: str
) -> None:
    description = EARLIER | {"algo": {"name": algo}}
    OmegaConf.save(OmegaConf.create(description), tmp_path / "config.yaml")
    for name in ("last.ckpt", model, other, "report.json"):
        (tmp_path / name).touch()
    run = folder(tmp_path, description, model=model)
    with pytest.raises(UserError, match="holds another run"):
        run.check(resume=False, overwrite=False)
    run.check(resume=False, overwrite=True)
    torch.save({}, tmp_path / "last.ckpt")
    run.check(resume=True, overwrite=False)
    run.claim(resume=False)
    assert names(tmp_path) == {"run.json", "config.yaml", other, "report.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        "",
        "- a",
        "text",
        ": :",
        "\xff",
        "[" * 50_000,
        "training: {steps: 1}\nstudent: {size: 3}",
        "training: 1\nstudent: 2",
        "training: {steps: 1, batch_size: 2, accumulate: 1}\nstudent: big",
    ],
)
def test_another_config_is_the_users(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content, encoding="latin-1")
    (tmp_path / STUDENT).touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="config.yaml is in the way, and no run wrote it"):
            folder(tmp_path).check(resume=False, overwrite=overwrite)
    assert names(tmp_path) == {"config.yaml", STUDENT}


# ---- what killed runs leave


def test_half_written_files_of_a_killed_run_go_at_the_next_start(run: RunFolder) -> None:
    add_names(run.path, ["quality.png"])
    ours = [f".last.{HEX}.ckpt", f".run.{HEX}.json", f".student.{HEX}.safetensors"]
    ours.append(f".quality.{HEX}.png")
    others = [f".last.{HEX}.txt", f".notes.{HEX}.ckpt", ".last.0.ckpt", f"last.{HEX}.ckpt"]
    others += [f".last.{HEX.upper()}.ckpt", f".report.{HEX}.json"]
    for name in (*ours, *others):
        (run.path / name).touch()
    run.claim(resume=True)
    assert names(run.path) == {"run.json", "config.yaml", "last.ckpt", *others}


def test_after_a_failure_nothing_is_left_of_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.claim(resume=False)
    run.release()
    assert names(tmp_path) == set()
    run.claim(resume=False)
    add_names(tmp_path, ["report.json"])
    (tmp_path / "report.json").touch()
    run.release()
    assert names(tmp_path) == {"run.json", "report.json"}
    run.check(resume=False, overwrite=True)


# ---- resuming


def test_only_the_same_run_is_resumed(run: RunFolder) -> None:
    other = {"algo": {"name": "a", "n": 5}, "training": {"lr": 0.1, "log_every": 10}}
    with pytest.raises(UserError, match=r"is another run: algo.n was 4, and is 5 now$"):
        folder(run.path, other).check(resume=True, overwrite=False)


def test_models_may_move_where_digests_tell_them_apart(tmp_path: Path) -> None:
    weights = {"teacher": "sha256 1"}
    run = folder(tmp_path, DESCRIPTION | {"teacher": "a.ckpt", "weights": weights})
    run.claim(resume=False)
    folder(tmp_path, DESCRIPTION | {"teacher": "b/a.ckpt", "weights": weights}).check(
        resume=True, overwrite=False
    )
    for changed, message in (
        ({"teacher": "a.ckpt", "weights": {"teacher": "sha256 2"}}, "weights.teacher was"),
        ({"teacher": "b.ckpt", "start": "c", "weights": weights}, "start was None, and is 'c' now"),
    ):
        with pytest.raises(UserError, match=message):
            folder(tmp_path, DESCRIPTION | changed).check(resume=True, overwrite=False)
    run = folder(tmp_path, DESCRIPTION | {"teacher": "a.ckpt"})  # of an earlier version
    run.claim(resume=False)
    with pytest.raises(UserError, match=r"teacher was 'a.ckpt', and is 'b.ckpt' now"):
        folder(tmp_path, DESCRIPTION | {"teacher": "b.ckpt"}).check(resume=True, overwrite=False)


def test_how_often_to_log_may_change(run: RunFolder) -> None:
    other = {"algo": {"name": "a", "n": 4}, "training": {"lr": 0.1, "log_every": 50}}
    folder(run.path, other).check(resume=True, overwrite=False)


def test_a_run_that_was_killed_before_its_first_checkpoint_is_resumed(run: RunFolder) -> None:
    run.checkpoint.unlink()
    run.check(resume=True, overwrite=False)
    other = {"algo": {"name": "a", "n": 5}, "training": {"lr": 0.1, "log_every": 10}}
    with pytest.raises(UserError, match="is another run: algo.n was 4"):
        folder(run.path, other).check(resume=True, overwrite=False)
    run.config.unlink()
    run.check(resume=True, overwrite=False)
    run.check(resume=False, overwrite=False)


def test_where_nothing_is_a_run_begins(tmp_path: Path) -> None:
    folder(tmp_path).check(resume=True, overwrite=False)
    folder(tmp_path / "new").check(resume=True, overwrite=False)


@pytest.mark.parametrize("config", [True, False])
def test_a_finished_run_is_not_made_anew_for_want_of_its_checkpoint(
    run: RunFolder, config: bool
) -> None:
    run.checkpoint.unlink()
    (run.path / STUDENT).touch()
    if not config:
        run.config.unlink()
    with pytest.raises(UserError, match="holds a finished run without its last.ckpt"):
        run.check(resume=True, overwrite=False)


def test_a_checkpoint_without_a_config_is_not_resumed(run: RunFolder) -> None:
    run.config.unlink()
    with pytest.raises(UserError, match="nothing to resume: there is no .*config.yaml"):
        run.check(resume=True, overwrite=False)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(run: RunFolder, content: bytes) -> None:
    run.checkpoint.write_bytes(content)
    with pytest.raises(UserError, match="last.ckpt is damaged"):
        run.check(resume=True, overwrite=False)


def test_the_checkpoint_before_serves_where_the_last_is_damaged_or_gone(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    torch.save({"global_step": 7}, run.previous)
    whole = run.previous.read_bytes()
    assert run.start() == run.checkpoint
    for fault in ("damaged", "missing"):
        run.previous.write_bytes(whole)
        if fault == "damaged":
            run.checkpoint.write_bytes(b"junk")
        else:
            run.checkpoint.unlink()
        run.check(resume=True, overwrite=False)
        run.claim(resume=True)
        line = f"di4c: {run.checkpoint} is {fault}: going on from previous.ckpt, update 7\n"
        assert capsys.readouterr().err == line
        assert run.checkpoint.read_bytes() == whole
        assert not run.previous.exists()
    run.previous.write_bytes(b"junk")
    run.checkpoint.write_bytes(b"junk")
    with pytest.raises(UserError, match="last.ckpt is damaged, and no other .* is intact; start"):
        run.check(resume=True, overwrite=False)


def test_a_truncated_checkpoint_is_damaged(run: RunFolder) -> None:
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-100])
    with pytest.raises(UserError, match="last.ckpt is damaged"):
        run.check(resume=True, overwrite=False)


@pytest.mark.parametrize("content", [b": :", b"[", b"\xff", b"- a"])
def test_a_damaged_config_is_named(run: RunFolder, content: bytes) -> None:
    run.config.write_bytes(content)
    with pytest.raises(UserError, match="config.yaml is damaged; start again with overwrite"):
        run.check(resume=True, overwrite=False)
    run.check(resume=False, overwrite=True)


# ---- further files


def test_further_names_are_recorded_and_their_old_files_removed(run: RunFolder) -> None:
    add_names(run.path, ["report.json"])
    (run.path / "report.json").touch()
    add_names(run.path, ["report.json"])
    assert names(run.path) == {"run.json", "config.yaml", "last.ckpt"}
    assert recorded(run.path) == WRITTEN | {"report.json"}


def test_further_names_replace_nothing_of_the_user(run: RunFolder) -> None:
    (run.path / "report.json").touch()
    for refuse in (check_free, add_names):
        with pytest.raises(UserError, match="report.json is in the way"):
            refuse(run.path, ["report.json"])
    assert (run.path / "report.json").exists()
