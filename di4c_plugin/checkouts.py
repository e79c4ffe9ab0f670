"""The program of a host: what we know of it, and how to recognise its checkouts.

This runs in every Hydra app on the machine, through the search-path plugin, and before torch, so it
is standard library only and looks at file names only. A host is recognised by files that only it
has, never by its folder's name; whether it is the tested commit, without git, by a digest of its
code.
"""

import functools
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]

# What Python may import by its file's name.
IMPORTABLE = (".py", ".pyc", ".pyd", ".pyw", ".so")


@dataclass(frozen=True)
class Remedy:
    """A small repair of a program or of its libraries.

    Attributes:
        module: whose import it waits for; `patch` is called with it.
        when, what: texts for `di4c doctor`.
        only_without_gpu: whether a GPU makes it needless.
    """

    module: str
    patch: Patch
    when: str
    what: str
    only_without_gpu: bool = False


@dataclass(frozen=True)
class Program:
    """A host's program at the commit that we test with, and how we enter it.

    Paths are relative to its root.

    Attributes:
        name, url, commit: of the repository.
        marks: files by which a checkout is recognised.
        script: the program that the user starts.
        others: programs outside the script's folder.
        digest: `digest_of` the commit.
        needs: modules that its programs import at the start, beside torch, lightning, hydra and
            numpy, separated by spaces.
        remedies: what it needs to run with current libraries, on any machine.
        configs: the folder of its Hydra configs; None without Hydra. For a program with Hydra:
        adapter: "package.module:function", imported when a job starts and called with the job's
            config as plain values. It replaces the classes that the host looks up, and returns the
            run's `di4c_plugin.programs.text.student.Plan`. It raises UserError.
        groups: a Hydra search path that goes before the program's own configs; "": none.
        files: keys of its config that name files to read, such as "eval.checkpoint_path". The
            adapter gets them as absolute paths.
        patches: for a program without Hydra: `(root, flags) -> {module: patch}`, each called with
            the module after its import. `flags` is the `SamplerFlags` of
            `di4c_plugin.programs.images.program`, None if the user selects no sampler of ours.
        own_samplers: the values of such a program's own --sampler, and our equivalents. The
            program's are used, unless the user also gives a student or options.

    Raises:
        TypeError, ValueError: for what would fail later, in every Hydra app of the environment.
    """

    name: str
    url: str
    commit: str
    marks: tuple[str, ...]
    script: str
    others: tuple[str, ...] = ()
    digest: str = ""
    needs: str = ""
    remedies: tuple[Remedy, ...] = ()
    configs: str | None = None
    adapter: str = ""
    groups: str = ""
    files: tuple[str, ...] = ()
    patches: Callable[[Path, Any], Mapping[str, Patch]] = field(default=lambda root, flags: {})
    own_samplers: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("marks", "others", "remedies", "files"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(f"{name} of a Program must be a tuple")
        texts: list[object] = [self.name, self.url, self.commit, self.script, self.digest]
        texts += [self.needs, self.configs or "", self.adapter, self.groups]
        texts += [*self.marks, *self.others, *self.files]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("names, paths and keys of a Program must be texts")
        if not self.marks:
            raise ValueError("a Program needs marks: without them every folder is its checkout")
        if (self.configs is None) != (not self.adapter):
            raise ValueError("a Program with configs needs an adapter, and no other has one")

    @property
    def tested(self) -> str:
        """Name and commit that we test with, such as `NAME at c112c52`."""
        return f"{self.name} at {self.commit[:7]}"

    def is_at(self, root: Path) -> bool:
        """Return whether `root` has this host's marks."""
        return all((root / mark).is_file() for mark in self.marks)

    def is_as_tested(self, root: Path) -> bool:
        """Return whether all code in `root` is that of `commit`, by its digest."""
        try:
            return self.is_at(root) and digest_of(root) == self.digest
        except OSError:
            return False

    def root_of_program(self, folder: Path) -> Path | None:
        """Return the host's root if `folder` holds programs of it, else None."""
        for program in (self.script, *self.others):
            below = PurePosixPath(program).parent.parts
            if below and folder.parts[-len(below) :] != below:
                continue
            root = folder.parents[len(below) - 1] if below else folder
            if self.is_at(root):
                return root
        return None

    def has_configs_at(self, folder: Path) -> bool:
        """Return whether `folder` is the folder of its Hydra configs."""
        if self.configs is None or folder.name != PurePosixPath(self.configs).name:
            return False
        return self.root_of_program(folder.parent) is not None


@dataclass(frozen=True)
class Checkout:
    """A checkout of a host; `commit` is None if git does not know it."""

    host: Program
    root: Path
    commit: str | None

    @functools.cached_property
    def as_tested(self) -> bool:
        """Whether its code is that of the tested commit, by its digest."""
        return self.host.is_as_tested(self.root)

    @property
    def title(self) -> str:
        """Name and commit, such as `NAME at c112c52`."""
        known = self.host.tested if self.as_tested else f"{self.host.name} at an unknown commit"
        return f"{self.host.name} at {self.commit[:7]}" if self.commit else known

    @property
    def warning(self) -> str | None:
        """One line if this is not the tested code."""
        if self.as_tested:
            return None
        if self.commit == self.host.commit:
            changed = f"{self.title} with changed files; tested without these changes only"
            return changed if self.host.is_at(self.root) else None
        return f"{self.title}; tested with {self.host.commit[:7]} only"


def host_of_configs(path: str, hosts: Iterable[Program]) -> Program | None:
    """Return the one of these hosts whose config folder is `path`.

    Args:
        path: an entry of Hydra's search path: a folder, plain or as `file://…`; for other schemes
            the result is None.
        hosts: see `di4c_plugin.plugins.programs`.
    """
    folder = Path(path.removeprefix("file://"))
    return next((host for host in hosts if host.has_configs_at(folder)), None)


def find(script: str | Path, hosts: Iterable[Program]) -> Checkout | None:
    """Return the checkout of one of these hosts that the program `script` belongs to."""
    folder = Path(script).resolve().parent
    roots = ((host, host.root_of_program(folder)) for host in hosts)
    return next((Checkout(host, root, commit_of(root)) for host, root in roots if root), None)


def commit_of(root: Path) -> str | None:
    """Return the commit that is checked out in `root`; None if git is missing or fails.

    A folder without its own repository (a copy, an empty submodule) has none, although git would
    return that of the enclosing repository.
    """
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = answer.stdout.split("\n")[:2]
    return commit if Path(top).resolve() == root.resolve() else None


def digest_of(root: Path) -> str:
    """Return a sha256 over names and contents of all that Python could import from a folder.

    Line ends are normalised. Hidden folders and __pycache__ are left out: names with a dot cannot
    be imported, and the importer checks cached bytecode against the sources. Links are not
    followed.

    Raises:
        OSError: for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(_importable(root), key=lambda path: path.relative_to(root).as_posix()):
        content = b"a link or a device"
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes().replace(b"\r\n", b"\n")
        name = os.fsencode(path.relative_to(root).as_posix())
        digest.update(name + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _importable(root: Path) -> Iterator[Path]:
    """Yield the files below `root` that Python could import, and links to folders."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, below, files in os.walk(root, onerror=refuse):
        below[:] = [name for name in below if name[0] != "." and name != "__pycache__"]
        yield from (path for name in below if (path := Path(folder, name)).is_symlink())
        yield from (Path(folder, name) for name in files if _may_be_imported(name))


def _may_be_imported(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(IMPORTABLE)
