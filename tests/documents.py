"""README files read for the tests: fenced blocks with their marks, commands, links, names.

Above a block stands what becomes of it, as a comment that readers do not see:

- `<!-- test: run -->`: its `di4c` commands are run, made short; so is Python without a mark.
- `<!-- test: parsed: REASON -->`: it cannot be run for this reason; commands are parsed and
  composed, Python is compiled and its imports are made.
- `<!-- test: file: PATH -->`: it is what that file beside the document holds; `part`: some of it.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
ROOMS = ("configs", "di4c_plugin", "tests")
BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SHELLS = ("bash", "console", "sh")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"\b(algo|experiment|host|latent|process|sampler)=([a-z][a-z0-9_]*)\b(?![.=])")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command of a block: its words, and the folder that the block went to before."""

    words: tuple[str, ...]
    folder: str = ""

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def program(self) -> "tuple[PurePosixPath, list[str]] | None":
        """A host's program and its arguments, under `di4c run`, python or torchrun."""
        words = list(self.words)
        if words[0] == "torchrun":
            words = words[words.index("--no-python") + 1 :]
        if words[:2] == ["di4c", "run"]:
            words = words[1:]
        elif words[0] != "python":
            return None
        if len(words) < 2 or not words[1].endswith(".py"):
            return None
        return PurePosixPath(self.folder, words[1]), words[2:]


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text, and the mark above it ("" without one)."""

    language: str
    text: str
    mark: str

    @property
    def kind(self) -> str:
        """`run`, `parsed`, `file`, `part`, or "" for a block that no test is about."""
        if self.language == "python" and not self.mark:
            return "run"
        return self.mark.partition(":")[0]

    @property
    def said(self) -> str:
        """What follows the mark: a reason, or a path."""
        return self.mark.partition(":")[2].strip()

    def commands(self) -> Iterator[Command]:
        """Yield the commands; prompts, comments and `cd` fall away."""
        if self.language not in SHELLS:
            return
        folder = ""
        for line in self.text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\||;", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                if words[:1] == ["cd"]:
                    folder = words[1]
                elif words:
                    yield Command(tuple(words), folder)


@dataclass(frozen=True)
class Document:
    """A file in Markdown."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """The fenced blocks."""
        found = (match.groupdict("") for match in BLOCK.finditer(self.text))
        return [Block(each["language"], each["text"], each["mark"]) for each in found]

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return BLOCK.sub("", self.text)

    @property
    def commands(self) -> list[Command]:
        """The commands of all blocks."""
        return [command for block in self.blocks for command in block.commands()]

    @property
    def links(self) -> list[str]:
        """Where it links to within the repository."""
        found = LINK.findall(self.prose)
        return [link for link in found if not re.match(r"[a-z]+:", link)]

    @property
    def inline(self) -> list[str]:
        """What stands between single backticks."""
        return INLINE.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as the forges make them."""
        heads = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def documents() -> list[Document]:
    """Return every README of the repository, and what contributors read."""
    first = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"]
    rooms = (path for room in ROOMS for path in sorted((ROOT / room).rglob("README.md")))
    return [Document(path) for path in [*first, *rooms]]
