import json
import re
import subprocess
from pathlib import Path

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.programs.launch import check_files
from tests.conftest import MakeHost
from tests.stand_ins.fixtures import Launch

PROGRAM = """
import json, sys
import flash_attn, helper
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(config):
    from lightning.fabric.strategies.launchers.subprocess_script import _hydra_subprocess_cmd
    command, cwd = _hydra_subprocess_cmd(local_rank=1)
    with open(sys.argv[-1].split("=")[1], "w") as file:
        json.dump({
            "seed": config.seed, "job": HydraConfig.get().job.name, "file": __file__,
            "argv": sys.argv[:2], "helper": helper.WHO, "command": command, "cwd": cwd,
        }, file)

if __name__ == "__main__":
    main()
"""
RELAUNCHED = """
import os, sys
if __name__ == "__main__":
    import __main__
    print(os.environ.get("LOCAL_RANK", "0"), __main__.__spec__.name, *sys.argv[1:])
"""


@pytest.fixture
def host(make_host: MakeHost) -> Path:
    root = make_host("mdlm")
    (root / "main.py").write_text(PROGRAM)
    (root / "helper.py").write_text("WHO = 'the host'\n")
    return root


@pytest.mark.slow
def test_the_program_runs_as_if_python_had_started_it(host: Path, launch: Launch) -> None:
    (host.parent / "helper.py").write_text("WHO = 'somebody else'\n")
    done = launch("mdlm/main.py", "seed=3", "+out=answer.json")
    assert done.returncode == 0, done.stderr
    answer = json.loads((host.parent / "answer.json").read_text())
    command, cwd = answer.pop("command"), answer.pop("cwd")
    assert answer == {
        **{"seed": 3, "job": "main", "helper": "the host", "argv": ["mdlm/main.py", "seed=3"]},
        "file": str(host / "main.py"),
    }
    assert command[1:4] == ["-m", "di4c_plugin.programs.launch", "seed=3"]
    assert cwd == str(host.parent)
    assert done.stderr.count("di4c: mdlm at an unknown commit: stand-ins for ") == 1
    assert "di4c: warning: mdlm at an unknown commit; tested with c112c52 only" in done.stderr


def test_processes_started_by_lightning_run_the_same_program_in_silence(
    host: Path, launch: Launch
) -> None:
    (host / "main.py").write_text(RELAUNCHED)
    done = launch("seed=3", DI4C_HOST_SCRIPT=str(host / "main.py"), LOCAL_RANK="1")
    assert (done.stdout, done.stderr) == ("1 di4c_plugin.programs.launch seed=3\n", "")


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("nowhere/main.py", "no such program: nowhere/main.py"),
        ("mdlm", "no such program: mdlm"),
        (
            "other.py",
            "other.py is not a program of a known host (mdlm, sdtt, duo, maskgit, halton_maskgit, "
            "tauldr); see di4c doctor",
        ),
    ],
)
def test_a_wrong_program_gives_one_line(script: str, line: str, host: Path, launch: Launch) -> None:
    (host.parent / "other.py").touch()
    done = launch(script)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"di4c: error: {line}\n")


@pytest.mark.slow
def test_a_misspelt_method_is_told_by_hydra_itself(host: Path, launch: Launch) -> None:
    done = launch("mdlm/main.py", "algo=di4d")
    assert done.returncode == 1
    assert "Could not find 'algo/di4d'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_exit_code_of_the_program_is_kept(host: Path, launch: Launch) -> None:
    (host / "main.py").write_text("raise SystemExit(7)")
    assert launch("mdlm/main.py").returncode == 7


def test_workers_that_do_not_fork_find_the_stand_ins(host: Path, launch: Launch) -> None:
    (host / "helper.py").write_text("def where(_):\n    import flash_attn\n    return 'found'\n")
    (host / "main.py").write_text(
        "import multiprocessing, helper\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('forkserver').Pool(1) as pool:\n"
        "        print(pool.map(helper.where, [0]))\n"
    )
    assert launch("mdlm/main.py").stdout == "['found']\n"


def test_the_shims_need_no_torch(host: Path, launch: Launch) -> None:
    (host / "main.py").write_text("import sys\nprint('torch' in sys.modules)")
    done: subprocess.CompletedProcess[str] = launch("mdlm/main.py")
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_teacher_that_is_not_there_is_told_before_the_imports(host: Path, launch: Launch) -> None:
    (host / "helper.py").write_text("raise SystemError('imported')\n")
    for name in ("no/such.ckpt", "./x", "~/none.pth", "epoch=3-step=10.ckpt", "file:x.pt"):
        done = launch("mdlm/main.py", f"teacher={name}")
        plain = name.removeprefix("file:")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"di4c: error: no such model file: teacher={plain}"
    done = launch("mdlm/main.py", "teacher=owner/name")  # the hub is asked later
    assert "imported" in done.stderr


SWEEPS = {
    "teacher=a.ckpt,b.ckpt": "b.ckpt",
    "+student='a.ckpt','b.ckpt'": "b.ckpt",
    "sampler.teacher=choice(a.ckpt,b.ckpt)": "b.ckpt",
    'teacher="a.ckpt","it\'s.ckpt"': "it's.ckpt",
    "teacher=a.ckpt": "a.ckpt",
    "student='epoch=3-step=10.ckpt'": "epoch=3-step=10.ckpt",
}


@pytest.mark.parametrize("argument", SWEEPS)
@pytest.mark.parametrize("flag", ["--multirun", "-m", "hydra.mode=MULTIRUN"])
def test_each_file_of_a_sweep_must_be_there(
    flag: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if (missing := SWEEPS[argument]) != "a.ckpt":
        Path("a.ckpt").touch()
    option = argument.lstrip("+").partition("=")[0]
    with pytest.raises(UserError, match=f"^no such model file: {option}={re.escape(missing)}$"):
        check_files([flag, argument])
    Path(missing).touch()
    check_files([flag, argument, "teacher=owner/one,owner/two", "student=null", "teacher=glob(*)"])


def test_values_that_are_no_sweep_are_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        Path(name).touch()
    for arguments in (["teacher=a.ckpt,b.ckpt"], ["teacher='a.ckpt,b.ckpt'", "-m"]):
        with pytest.raises(UserError, match="^no such model file: teacher=a.ckpt,b.ckpt$"):
            check_files(arguments)


@pytest.mark.slow
def test_names_that_hydra_does_not_read_are_quoted(host: Path, launch: Launch) -> None:
    (host.parent / "epoch=3-step=10.ckpt").touch()
    done = launch("mdlm/main.py", "seed=3", "+teacher=epoch=3-step=10.ckpt", "+out=answer.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((host.parent / "answer.json").read_text())["seed"] == 3
