"""What README.md shows is what happens.

Python blocks run one after the other, in one namespace and one empty folder; so do the commands of
a block that follows the comment `<!-- test: run -->`, made short by `SHORT`. Every other `di4c`
command is parsed.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.cli.main import make_parser
from tests.conftest import Run

BLOCK = re.compile(r"(<!-- test: run -->\s*)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = {
    "train-teacher": ["training.steps=2"],
    "train": ["training.steps=2"],
    "evaluate": ["--samples", "20"],
}
README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, whether its commands are to be run."""

    language: str
    text: str
    run: bool

    def commands(self) -> Iterator[list[str]]:
        """Yield the arguments of every `di4c` command; a prompt, pipes and comments fall away."""
        if self.language in ("bash", "console", "sh"):
            for line in self.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\||;", line.removeprefix("$ ")):
                    words = shlex.split(part, comments=True)
                    if words[:1] == ["di4c"]:
                        yield words[1:]


BLOCKS = [Block(name, text, bool(run)) for run, name, text in BLOCK.findall(README.read_text())]
COMMANDS = [command for block in BLOCKS for command in block.commands()]


def test_there_is_something_to_test() -> None:
    assert any(block.language == "python" for block in BLOCKS)
    assert COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=shlex.join)
def test_every_command_is_one(command: list[str]) -> None:
    make_parser().parse_args(command)


@pytest.mark.slow
def test_the_examples_run(di4c: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        if block.language == "python":
            exec(compile(block.text, "README.md", "exec"), names)
        elif block.run:
            for command in block.commands():
                run = di4c(*command, *SHORT.get(command[0], []))
                assert run.returncode == 0, f"di4c {shlex.join(command)}: {run.stderr}"
