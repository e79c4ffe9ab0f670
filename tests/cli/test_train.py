import json
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import torch

from di4c_plugin.cli.main import main
from di4c_plugin.families import load_model
from tests.conftest import Run
from tests.training import toy

NETWORK = ["hidden_size=8", "embedding_size=4", "num_blocks=1", "num_heads=2", "patch=[4,4]"]
SMALL = [f"network.{size}" for size in NETWORK]
QUICK = ["training.batch_size=2", "training.accelerator=cpu", "training.log_every=1"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher from `di4c train-teacher`."""
    out = tmp_path_factory.mktemp("teacher")
    assert main(["train-teacher", f"out={out}", "training.steps=2", *SMALL, *QUICK]) == 0
    return out / "teacher.safetensors"


def arguments(teacher: Path, out: Path, *more: str) -> list[str]:
    return ["train", f"teacher={teacher}", f"out={out}", "latent.dim=1", *QUICK, *more]


@pytest.mark.parametrize("latent", ["adaln", "token", "mask_noise"])
def test_a_teacher_is_distilled(
    teacher: Path, tmp_path: Path, latent: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    more = [f"latent={latent}", "training.steps=2", "--json", str(path)]
    assert main([*arguments(teacher, tmp_path), *more]) == 0
    assert json.loads(path.read_text()) == {"files": [str(tmp_path / "student.safetensors")]}
    printed = capfd.readouterr()
    assert printed.out == f"{tmp_path / 'student.safetensors'}\n"
    # One line of progress, and no word of Lightning's.
    wrote = re.escape(f"di4c: wrote {path}")
    assert re.fullmatch(rf"update 2/2  loss \S+  .*0 s left\n{wrote}\n", printed.err)
    student = load_model(tmp_path / "student.safetensors")
    assert student.latent is not None
    assert student.latent["name"] == latent
    assert student.info["teacher"] == str(teacher)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["algo=dic4"], "unknown algo 'dic4'; there are "),
        (["host=x"], "unknown host 'x'; there are builtin"),
        (["latent=x"], "unknown latent 'x'; there are adaln, mask_noise, pyramid_noise, "),
        (["+algo.name2=1"], "algorithm 'di4c': got an unexpected keyword argument 'name2'; it tak"),
        (["training.stesp=1"], "unknown option 'training.stesp'; there are accelerator, accum"),
        (["+training.x=1"], "unknown option x of training; there are accelerator, accumulate"),
        (
            ["foo=1"],
            "unknown option 'foo'; there are algo, host, latent, out, overwrite, phase",
        ),
        (
            ["+foo=1"],
            "unknown option 'foo'; there are algo, host, latent, out, overwrite, phase",
        ),
        (["training.steps=0"], "steps must be at least 1, not 0"),
        (["training.lr=fast"], "lr must be a number, not 'fast'"),
        (["training.betas=[0.9]"], "betas must be two numbers, not [0.9]"),
        (["training.accelerator=gpux"], "You selected an invalid accelerator name"),
        (["resume=perhaps"], "resume must be true or false, not 'perhaps'"),
        (["resume=true", "overwrite=true"], "resume and overwrite exclude each other"),
        (["out=null"], "name the folder of the run: out=FOLDER"),
        (["teacher=nowhere"], "no such model file: nowhere"),
        (["algo"], "Error parsing override 'algo'"),
        (
            ["algo=denoising", "latent=token"],
            "algorithm 'denoising' makes no mixture: leave out the latent",
        ),
    ],
)
def test_mistakes_give_one_line_and_leave_nothing(
    teacher: Path,
    tmp_path: Path,
    more: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert main([*arguments(teacher, out), *more]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"di4c: error: {message}"), printed.err
    assert printed.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["epoch=3-step=10.safetensors", "a(1).pth", "é.pt", "a,b", "2024", "x'y", "[a", "a b"]
)
def test_a_name_is_taken_as_it_is(
    name: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path(name).write_bytes(teacher.read_bytes())
    command = ["train", "out=~/run", "latent.dim=1", *QUICK, "training.steps=1"]
    assert main([*command, f"teacher={name}"]) == 0
    student = load_model(tmp_path / "run" / "student.safetensors")
    assert student.info["teacher"] == name


def test_an_algorithm_that_needs_a_teacher_cannot_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-teacher", f"out={tmp_path / 'x'}", "algo=di4c"]) == 2
    assert capsys.readouterr().err == "di4c: error: algo=di4c needs a teacher: use di4c train\n"


def test_a_teacher_is_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train-teacher", f"out={tmp_path / 'x'}", "training.steps=1", *SMALL, *QUICK]
    assert main([*command, "training.adapter={r: 2}"]) == 2
    line = "training.adapter is for students; this trains a whole network"
    assert capsys.readouterr().err == f"di4c: error: {line}\n"
    assert not (tmp_path / "x").exists()


def test_a_group_without_a_value_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-teacher", f"out={tmp_path / 'x'}", "algo=[]"]) == 2
    assert capsys.readouterr().err == "di4c: error: algo= has no value\n"


def test_sizes_that_are_no_mapping_give_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-teacher", f"out={tmp_path / 'x'}", "network=small"]) == 2
    message = "network is sizes by name, such as network.hidden_size=96, not 'small'"
    assert capsys.readouterr().err == f"di4c: error: {message}\n"


def test_a_teacher_is_trained_further(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own sizes, and never in the place of the file it starts from."""
    start = tmp_path / "teacher.safetensors"
    start.write_bytes(teacher.read_bytes())
    command = ["train-teacher", "training.steps=1", "training.ema=0", *QUICK]
    assert main([*command, f"start={start}", f"out={tmp_path}"]) == 2
    assert start.read_bytes() == teacher.read_bytes()
    assert main([*command, f"start={start}", "training.lr=0", f"out={tmp_path / 'same'}"]) == 0
    assert main([*command, f"start={start}", f"out={tmp_path / 'further'}"]) == 0
    before, same, further = (
        load_model(path / "teacher.safetensors")
        for path in (tmp_path, tmp_path / "same", tmp_path / "further")
    )
    weights = [dict(model.denoiser.named_parameters()) for model in (before, same, further)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert further.network == before.network
    student = tmp_path / "student"
    assert main(arguments(start, student, "training.steps=1")) == 0
    capsys.readouterr()
    out = f"out={tmp_path / 'x'}"
    assert main([*command, f"start={student / 'student.safetensors'}", out]) == 2
    assert "is a student: start from a teacher" in capsys.readouterr().err


def test_a_folder_is_only_overwritten_when_told(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(teacher, tmp_path, "training.steps=1")
    assert main(command) == 0
    before = (tmp_path / "student.safetensors").read_bytes()
    assert main([*command, "training.seed=1"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (tmp_path / "student.safetensors").read_bytes() == before
    assert main([*command, "training.seed=1", "resume=true"]) == 2
    assert "training.seed was 0, and is 1 now" in capsys.readouterr().err
    assert main([*command, "training.seed=1", "overwrite=true"]) == 0
    assert (tmp_path / "student.safetensors").read_bytes() != before


def trained_teacher(out: Path) -> Path:
    """A teacher of `di4c train-teacher`, in a folder to be written to."""
    assert main(["train-teacher", f"out={out}", "training.steps=1", *SMALL, *QUICK]) == 0
    return out / "teacher.safetensors"


def test_a_teacher_in_the_folder_of_the_student_stays(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(teacher.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(arguments(Path(mine.name), Path(), "training.steps=1")) == 0
    assert main(arguments(mine, tmp_path, "training.steps=1", "overwrite=true")) == 0
    assert mine.read_bytes() == teacher.read_bytes()
    assert (tmp_path / "student.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "file:", "link"])
def test_overwriting_never_removes_the_teacher(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = trained_teacher(tmp_path / "r")
    before = {path.name: path.read_bytes() for path in teacher.parent.glob("*.*")}
    (tmp_path / "link").symlink_to(teacher)
    named = {"file:": f"file:{teacher}", "link": str(tmp_path / "link")}.get(how, str(teacher))
    command = arguments(teacher, tmp_path / "r", "training.steps=1")
    command[1] = f"teacher={named}"
    for more in ([], ["overwrite=true"], ["resume=true"]):
        capsys.readouterr()
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"di4c: error: {teacher} is what this run reads, and it would be")
        assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in teacher.parent.glob("*.*")} == before


def test_a_student_is_not_replaced_by_its_own_student(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(teacher, tmp_path, "training.steps=1")) == 0
    student = tmp_path / "student.safetensors"
    before = student.read_bytes()
    assert main(arguments(student, tmp_path, "training.steps=1", "overwrite=true")) == 2
    assert f"{student} is what this run reads" in capsys.readouterr().err
    assert student.read_bytes() == before


@pytest.mark.parametrize("name", ["config.yaml", "last.ckpt", "student.safetensors"])
def test_files_of_the_user_are_in_the_way(
    teacher: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    for more in ([], ["overwrite=true"], ["resume=true"]):
        assert main(arguments(teacher, tmp_path, "training.steps=1", *more)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"di4c: error: {tmp_path / name} is in the way, and no run wrote")
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    teaching = ["train-teacher", f"out={tmp_path}", "training.steps=1", *SMALL, *QUICK]
    expected = 0 if name == "student.safetensors" else 2
    assert main([*teaching, "overwrite=true"]) == expected
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.slow
def test_plugins_bring_configs_and_algorithms(
    di4c: Run, teacher: Path, tmp_path: Path, example_plugin: str
) -> None:
    command = [part for part in arguments(teacher, tmp_path) if not part.startswith("latent")]
    result = di4c(*command, "algo=marginal", "training.steps=1", PYTHONPATH=example_plugin)
    assert result.returncode == 0, result.stderr
    assert "marginal" in result.stderr
    student = load_model(tmp_path / "student.safetensors")
    assert student.is_student
    assert student.latent is None


def start(*command: str) -> "subprocess.Popen[str]":
    program = Path(sysconfig.get_path("scripts")) / "di4c"
    return subprocess.Popen([sys.executable, program, *command], stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]", lines: int = 0) -> None:
    """Wait until `path` exists, with that many lines."""
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_keeps_the_last_checkpoint_and_names_it(
    teacher: Path, tmp_path: Path, devices: int
) -> None:
    more = ["training.steps=100000", f"training.devices={devices}"]
    process = start(*arguments(teacher, tmp_path, *more))
    wait_for(tmp_path / "logs" / "version_0" / "metrics.csv", process, lines=3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = tmp_path / "last.ckpt"
    line = rf"^di4c: interrupted after update (\d+); kept {kept}; resume=true goes on$"
    found = re.search(line, errors, re.MULTILINE)
    assert found, errors
    assert torch.load(kept, weights_only=True)["global_step"] == int(found[1])
    assert not (tmp_path / "student.safetensors").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(teacher: Path, tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        more = ["training.steps=60", "training.batch_size=7", "training.checkpoint_every=4"]
        return arguments(teacher, out, *more)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(*command(broken))
    wait_for(broken / "logs" / "version_0" / "metrics.csv", process, lines=12)
    process.kill()
    process.communicate()
    assert not (broken / "student.safetensors").exists()
    assert main([*command(broken), "resume=true"]) == 0
    assert main(command(whole)) == 0
    assert toy.rows(broken) == toy.rows(whole)
    assert len(toy.rows(whole)) == 60
    one, other = (load_model(out / "student.safetensors") for out in (whole, broken))
    assert toy.same(toy.weights(one), toy.weights(other))


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = arguments(teacher, out, "training.steps=100000", "training.checkpoint_every=1")
    first = start(*command)
    wait_for(out / "last.ckpt", first)
    used = f"di4c: error: {out} is in use by another run\n"
    for more in ([], ["resume=true"], ["overwrite=true"], ["training.seed=1", "overwrite=true"]):
        assert main([*command, *more]) == 2
        assert capsys.readouterr().err == used
    second = start(*command, "resume=true")
    assert second.communicate(timeout=120)[1] == used
    assert second.returncode == 2
    first.kill()
    first.communicate()
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] >= 1
    (out / f".last.{'0' * 32}.ckpt").touch()
    resumed = start(*command, "resume=true")
    wait_for(out / "logs" / "version_1" / "metrics.csv", resumed, lines=2)
    assert main([*command, "resume=true"]) == 2
    assert capsys.readouterr().err == used
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    assert resumed.returncode == 130
    kept = {"last.ckpt", "previous.ckpt"}
    assert {path.name for path in out.iterdir()} == {"run.json", "config.yaml", "logs"} | kept


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_is_requeued(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = arguments(teacher, out, "training.steps=300", "training.checkpoint_every=300")
    first = start(*command, "resume=true")
    wait_for(out / "logs" / "version_0" / "metrics.csv", first, lines=3)
    first.kill()
    _, errors = first.communicate()
    note = f"di4c: nothing to resume in {out}: starting at update 0\n"
    assert note in errors
    assert not (out / "last.ckpt").exists()
    assert main(command) == 2
    assert "holds another run" in capsys.readouterr().err
    assert main([*command, "resume=true"]) == 0
    assert note in capsys.readouterr().err
    assert load_model(out / "student.safetensors").info["training"]["steps"] == 300
