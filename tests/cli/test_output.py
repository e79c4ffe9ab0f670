"""What all commands have alike: help with an example, advice, --quiet, --json, no terminal."""

import argparse
import io
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from di4c_plugin.announce import QUIET, announce, on_terminal
from di4c_plugin.cli import demo, doctor, plugins
from di4c_plugin.cli.bench import WHAT
from di4c_plugin.cli.main import COMMANDS, main, make_parser
from di4c_plugin.cli.output import print_fields, print_table

NAMES = [name.replace("_", "-") for name in COMMANDS]


def words(example: str) -> list[str]:
    """The arguments of a `di4c` command, without where its output goes."""
    found = shlex.split(example.partition(">")[0])
    assert found[0] == "di4c"
    return found[1:]


@pytest.mark.parametrize("command", [*NAMES, *(f"bench {what}" for what in WHAT)])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main([*command.split(), "--help"])
    _, found, example = capsys.readouterr().out.partition("\nExample:\n  ")
    assert found
    assert example.count("\n") == 1  # to be copied as it is
    assert words(example)[0] == command.split()[0]
    assert callable(make_parser().parse_args(words(example)).run)


def test_what_the_demo_says_to_type_next_is_a_command() -> None:
    assert make_parser().parse_args(words(demo.NEXT)).overrides[0] == "experiment=mdlm_dmmd"


def test_the_demo_says_how_to_draw_more_digits() -> None:
    draw = words(demo.draw_more(Path("a demo")))
    args = make_parser().parse_args(draw)
    assert (draw[0], args.model, args.steps) == ("sample", "a demo/student.safetensors", 2)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"\n    {name}" in told for name in NAMES)


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("trian", "(did you mean 'train'?); see di4c --help"),
        ("bench los", "(did you mean 'loss'?); see di4c bench --help"),
        ("completion fsh", "(did you mean 'fish'?); see di4c completion --help"),
        ("evaluate --metrics fd", "--metrics (did you mean '--metric'?); see di4c evaluate --help"),
        ("sample m --tempreature=1 --stepz=2", "'--steps'?); see di4c sample --help"),
        ("demo --overwritten", "(did you mean '--overwrite'?); see di4c demo --help"),
        ("bench loss --vocb 3", "--vocb 3 (did you mean '--vocab'?); see di4c bench loss --help"),
        ("train --colour", "unrecognized arguments: --colour; see di4c train --help"),
        ("train trainig.steps=3 out=x", "(did you mean 'training'?)"),
        ("train training.stepz=3 out=x", "(did you mean 'steps'?)"),
        ("train algo=dmdm out=x", "(did you mean 'dmmd'?)"),
        ("train experiment=digitz out=x", "(did you mean 'digits'?)"),
        ("train-teacher network.hiden_size=3 out=x", "(did you mean 'hidden_size'?)"),
        ("sample builtin:digits --sampler ancestrl", "(did you mean 'ancestral'?)"),
        ("sample builtin:digits --option guidence=1", "(did you mean 'guidance'?)"),
        ("sample builtin:digits --host builtn", "(did you mean 'builtin'?)"),
        ("evaluate builtin:digits --metric gen_pl", "(did you mean 'gen_ppl'?)"),
        ("bench update --algo di4d", "(did you mean 'di4c'?)"),
    ],
)
def test_the_nearest_name_is_suggested(
    typed: str, advice: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [f"out={tmp_path}" if word == "out=x" else word for word in typed.split()]
    assert main(out) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert advice in error


def test_quiet_silences_remarks_for_the_time_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        announce("a remark")
        seen.append(os.environ.get(QUIET))
        return 0

    seen: list[str | None] = []
    monkeypatch.delenv(QUIET, raising=False)
    monkeypatch.setattr(plugins, "run", run)
    assert main(["plugins"]) == main(["plugins", "--quiet"]) == 0
    assert capsys.readouterr().err == "di4c: a remark\n"
    assert seen == [None, "1"]
    assert QUIET not in os.environ
    monkeypatch.setenv(QUIET, "0")
    assert main(["plugins", "--quiet"]) == 0
    assert os.environ[QUIET] == "0"


@pytest.mark.parametrize(
    ("tty", "term", "quiet", "expected"),
    [
        (True, "xterm", "", True),
        (False, "xterm", "", False),
        (True, "dumb", "", False),
        (True, "xterm", "1", False),
    ],
)
def test_lines_are_written_over_on_terminals_only(
    tty: bool, term: str, quiet: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: tty)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv(QUIET, quiet)
    assert on_terminal() == expected


def test_a_table_is_drawn_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    table = ["name", "value"], [["a", "1"], ["b", "2"]]
    print_table(*table)
    assert capsys.readouterr().out == "name\tvalue\na\t1\nb\t2\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(*table)
    drawn = capsys.readouterr().out
    assert "│ a    │ 1     │" in drawn
    assert "\x1b[3" not in drawn.replace("\x1b[3m", "")  # italics are no colour


def test_a_growing_table_has_columns_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_fields("steps", 2, "459 ±7.5")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_fields("steps", 2, "459 ±7.5")
    assert capsys.readouterr().out == f"steps\t2\t459 ±7.5\nsteps{' ' * 11}2{' ' * 15}459 ±7.5\n"


@pytest.mark.parametrize(
    ("command", "header"), [("plugins", plugins.HEADER), ("doctor", doctor.HEADER)]
)
def test_json_has_the_rows_that_are_printed(
    command: str, header: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "rows.json"
    assert main([command, "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert tuple(lines[0]) == header
    assert [list(row.values()) for row in json.loads(path.read_text())["rows"]] == lines[1:]
    assert f"di4c: wrote {path}" in err


def test_json_that_cannot_be_written_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugins, "run", lambda args: pytest.fail("ran"))
    assert main(["plugins", "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"di4c: error: cannot write {tmp_path}: it is a folder\n"


@pytest.mark.parametrize(
    "command",
    [
        "sample FILE",
        "sample other --out FILE",
        "sample other --prompts FILE",
        "sample other --host-option data=FILE",
        "evaluate other FILE",
        "train teacher=FILE out=r",
        "train 'teacher=\"FILE\"' out=r",
        "train-teacher start=./FILE out=r",
        "bench update --teacher FILE",
    ],
)
def test_json_replaces_no_other_file_of_the_command(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.npy").write_text("mine")
    arguments = shlex.split(command.replace("FILE", "mine.npy"))
    assert main([*arguments, "--json", f"{tmp_path}/mine.npy", "--overwrite"]) == 2
    wanted = f"di4c: error: --json {tmp_path}/mine.npy is another file of this command\n"
    assert capsys.readouterr().err == wanted
    assert Path("mine.npy").read_text() == "mine"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in [*NAMES, "overwrite", "temperatures", "vocab"])


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "di4c").write_text(capsys.readouterr().out)
    program = """source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p di4c | sed 's/.*-F \\([^ ]*\\) .*/\\1/') di4c "${@: -1}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""

    def completed(*typed: str) -> set[str]:
        arguments = ["bash", "-c", program, "bash", str(tmp_path / "di4c"), "di4c", *typed]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert completed("tra") == {"train", "train-teacher"}
    assert completed("demo", "--qui") == {"--quick", "--quiet"}
