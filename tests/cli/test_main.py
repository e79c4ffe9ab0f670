import argparse
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from di4c_plugin.cli import plugins
from di4c_plugin.cli.main import main
from di4c_plugin.errors import UserError


@pytest.mark.parametrize("value", ["5", "true", "[1]", "2024,1"])
def test_what_a_teacher_starts_from_is_a_path(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-teacher", f"start={value}", f"out={tmp_path}/r"]) == 2
    assert capsys.readouterr().err.startswith("di4c: error: no such model file: ")


@pytest.mark.parametrize(
    "option", ["process=uniform", "process.name=uniform", "network.patch=[1,1]"]
)
def test_a_teacher_trained_further_keeps_network_and_process(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-teacher", "start=builtin:digits", option, f"out={tmp_path}/r"]
    assert main(arguments) == 2
    name = option.partition("=")[0]
    assert f"{name} is as in builtin:digits: leave it out" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"{version('di4c_plugin')}\n"


def test_the_package_is_the_program_too() -> None:
    program = [sys.executable, "-m", "di4c_plugin"]
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{version('di4c_plugin')}\n"
    done = subprocess.run([*program, "bnech"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bench"], "the following arguments are required: what; see di4c bench --help"),
        (["plugins", "x"], "unrecognized arguments: x; see di4c plugins --help"),
    ],
)
def test_wrong_arguments_give_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err == f"di4c: error: {message}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such teacher"), 2, "error: no such teacher"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "error: not enough memory: MemoryError"),
        (RuntimeError("out of memory\nhere"), 2, "error: not enough memory: out of memory"),
    ],
)
def test_a_command_that_stops_gives_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(plugins, "run", run)
    assert main(["plugins"]) == code
    assert capsys.readouterr() == ("", f"di4c: {line}\n")


def test_a_torchvision_of_another_build_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise RuntimeError(message)

    monkeypatch.setattr(plugins, "run", run)
    message = "operator torchvision::nms does not exist"  # torch's, whatever imports torchvision
    assert main(["plugins"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("di4c: error: the installed torchvision is not built for torch ")
    message = "something of our own"
    with pytest.raises(RuntimeError, match=message):
        main(["plugins"])


def test_help_of_all_commands_loads_nothing_heavy() -> None:
    source = (
        "import sys; from di4c_plugin.cli.main import make_parser; make_parser().format_help(); "
        "print({'hydra', 'lightning', 'matplotlib', 'numpy', 'sklearn', 'torch'} & {*sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=True)
    assert loaded.stdout == b"set()\n"


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error() -> None:
    program = "import sys; from di4c_plugin.cli.main import main; sys.exit(main(['plugins']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (141, b"")


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise PermissionError(13, "Permission denied", "a\x1b[31m")

    monkeypatch.setattr(plugins, "run", run)
    assert main(["plugins"]) == 2
    assert capsys.readouterr().err == "di4c: error: a\\x1b[31m: Permission denied\n"


PROGRAM = """
import os, signal, sys
from di4c_plugin.cli import plugins
from di4c_plugin.cli.main import main

def run(args):
    {body}

plugins.run = run
sys.argv = ["di4c", "plugins"]
sys.exit(main())
"""
PRESS = "os.kill(os.getpid(), signal.SIGINT)"
INTERRUPTED = {
    "plainly": PRESS,
    "in an import of C code": f"""
    try:
        {PRESS}
    except KeyboardInterrupt:
        raise ImportError("multiarray failed to import") from None
""",
    "twice": f"""
    import atexit
    atexit.register(lambda: {PRESS})
    {PRESS}
""",
    "in a library that answers otherwise": f"""
    try:
        {PRESS}
    except KeyboardInterrupt:
        raise SystemError("initialization failed") from None
""",
}


@pytest.mark.parametrize("body", INTERRUPTED)
def test_ctrl_c_is_one_line(body: str) -> None:
    program = PROGRAM.format(body=INTERRUPTED[body].strip())
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        # A shell starts what runs in the background with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "di4c: interrupted\n")


def test_a_terminal_without_greek() -> None:
    body = 'print("λ é", "\\udc80"); raise UserError("λ")'
    program = PROGRAM.format(body="from di4c_plugin.errors import UserError; " + body)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == "\\u03bb \\xe9 \\udc80\n"
    assert done.stderr == "di4c: error: \\u03bb\n"
