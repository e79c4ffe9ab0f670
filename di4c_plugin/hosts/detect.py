"""The hosts we know, and how to tell that a folder is one. Standard library only.

This runs in every Hydra app on the machine (the search-path plugin asks it) and before torch, so it
only looks at file names. A host is known by files that only it has, never by its folder's name.
Tests: tests/hosts/test_detect.py.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class KnownHost:
    """A host that we run in, at the commit that we test with.

    `marks`, `configs` (the folder of its Hydra configs) and `script` (the program that the user
    starts) are relative to the root of its checkout.
    """

    name: str
    url: str
    commit: str
    marks: tuple[str, ...]
    configs: str
    script: str

    def is_at(self, root: Path) -> bool:
        """Tell whether `root` bears this host's marks."""
        return all((root / mark).is_file() for mark in self.marks)

    def root_of_program(self, folder: Path) -> Path | None:
        """Return the host's root if `folder` is the one with its script, else None."""
        below = PurePosixPath(self.script).parent.parts
        if below and folder.parts[-len(below) :] != below:
            return None
        root = folder.parents[len(below) - 1] if below else folder
        return root if self.is_at(root) else None


@dataclass(frozen=True)
class Found:
    """A checkout of a known host; `commit` is None where git does not tell."""

    host: KnownHost
    root: Path
    commit: str | None

    @property
    def title(self) -> str:
        """Name and commit, such as `mdlm at c112c52`."""
        return f"{self.host.name} at {self.commit[:7] if self.commit else 'an unknown commit'}"

    @property
    def warning(self) -> str | None:
        """One line if this is not the commit that we test with."""
        if self.commit == self.host.commit:
            return None
        return f"{self.title}; tested with {self.host.commit[:7]} only"


HOSTS = (
    KnownHost(
        name="mdlm",
        url="https://github.com/kuleshov-group/mdlm.git",
        commit="c112c526d193436838c98d81455ee51f90309470",
        marks=("main.py", "diffusion.py", "noise_schedule.py", "models/dimamba.py"),
        configs="configs",
        script="main.py",
    ),
    KnownHost(
        name="sdtt",
        url="https://github.com/jdeschena/sdtt.git",
        commit="9172b86500126d4ca93bd5e204395c5062fdc7fd",
        marks=("src/sdtt/main.py", "src/sdtt/core/distill/multi_round_sdtt.py"),
        configs="src/sdtt/configs",
        script="src/sdtt/main.py",
    ),
    KnownHost(
        name="duo",
        url="https://github.com/s-sahoo/duo.git",
        commit="7c9b498f5b717de064d6fad7e2509c866e6cb620",
        marks=("main.py", "algo.py", "trainer_base.py", "configs/algo/duo_base.yaml"),
        configs="configs",
        script="main.py",
    ),
)


def host_named(name: str) -> KnownHost:
    """Return the known host of that name; KeyError if there is none."""
    return {host.name: host for host in HOSTS}[name]


def host_of_configs(path: str) -> KnownHost | None:
    """Return the host whose config folder is `path`, as Hydra's search path has it.

    Args:
        path: a folder, plain or as `file://…`; other schemes are no host's.
    """
    folder = Path(path.removeprefix("file://"))
    for host in HOSTS:
        if folder.name == PurePosixPath(host.configs).name and host.root_of_program(folder.parent):
            return host
    return None


def host_of_script(script: str | Path) -> KnownHost | None:
    """Return the host that the program `script` belongs to."""
    folder = Path(script).resolve().parent
    return next((host for host in HOSTS if host.root_of_program(folder)), None)


def find(script: str | Path) -> Found | None:
    """Return the checkout that the program `script` belongs to."""
    host = host_of_script(script)
    root = host.root_of_program(Path(script).resolve().parent) if host else None
    return Found(host, root, commit_of(root)) if host and root else None


def commit_of(root: Path) -> str | None:
    """Return the commit that is checked out in `root`; None where git is missing or refuses.

    A folder without a repository of its own (a copy, an empty submodule) has none, although git
    would answer with that of the repository around it.
    """
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = answer.stdout.split("\n")[:2]
    return commit if Path(top).resolve() == root.resolve() else None
