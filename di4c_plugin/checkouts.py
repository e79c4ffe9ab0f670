"""The known hosts, and how to recognise their checkouts. Standard library only.

This runs in every Hydra app on the machine, through the search-path plugin, and before torch, so it
looks at file names only. A host is recognised by files that only it has, never by its folder's
name; whether it is the tested commit, without git, by a digest of its code.
"""

import functools
import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# What Python may import by its file's name.
IMPORTABLE = (".py", ".pyc", ".pyd", ".pyw", ".so")


@dataclass(frozen=True)
class Program:
    """A host's program at the commit that we test with. Paths are relative to its root.

    Attributes:
        name, url, commit: of the repository.
        marks: files by which a checkout is recognised.
        script: the program that the user starts.
        configs: the folder of its Hydra configs; None without Hydra.
        others: programs outside the script's folder.
        digest: `digest_of` the commit.
        needs: modules that its programs import at the start, beside torch, lightning, hydra and
            numpy, separated by spaces.
    """

    name: str
    url: str
    commit: str
    marks: tuple[str, ...]
    script: str
    configs: str | None = None
    others: tuple[str, ...] = ()
    digest: str = ""
    needs: str = ""

    @property
    def tested(self) -> str:
        """Name and commit that we test with, such as `mdlm at c112c52`."""
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
    """A checkout of a known host; `commit` is None if git does not know it."""

    host: Program
    root: Path
    commit: str | None

    @functools.cached_property
    def as_tested(self) -> bool:
        """Whether its code is that of the tested commit, by its digest."""
        return self.host.is_as_tested(self.root)

    @property
    def title(self) -> str:
        """Name and commit, such as `mdlm at c112c52`."""
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


HOSTS = (
    Program(
        name="mdlm",
        url="https://github.com/kuleshov-group/mdlm.git",
        commit="c112c526d193436838c98d81455ee51f90309470",
        marks=("main.py", "diffusion.py", "noise_schedule.py", "models/dimamba.py"),
        script="main.py",
        configs="configs",
        digest="cd91f518ac8083e699fdbc57f6ac6b3e2eb23519dd8824229e96f76a9d8eb7d4",
        needs="causal_conv1d datasets einops flash_attn fsspec huggingface_hub mamba_ssm "
        "requests rich timm tokenizers torchmetrics transformers",
    ),
    Program(
        name="sdtt",
        url="https://github.com/jdeschena/sdtt.git",
        commit="9172b86500126d4ca93bd5e204395c5062fdc7fd",
        marks=("src/sdtt/main.py", "src/sdtt/core/distill/multi_round_sdtt.py"),
        script="src/sdtt/main.py",
        configs="src/sdtt/configs",
        digest="b633cc8fe26c9b3f969cae4a8f4568a55c1c1dc971225bedf41ebe8fabf7c46f",
        needs="datasets einops flash_attn fsspec huggingface_hub loguru mauve pandas "
        "requests safetensors timm torchdata tqdm transformers",
    ),
    Program(
        name="duo",
        url="https://github.com/s-sahoo/duo.git",
        commit="7c9b498f5b717de064d6fad7e2509c866e6cb620",
        marks=("main.py", "algo.py", "trainer_base.py", "configs/algo/duo_base.yaml"),
        script="main.py",
        configs="configs",
        digest="12c096adc416dbfa94209c23b1881d072fdf74e4595161a760fa4c2b1754b88b",
        needs="datasets einops flash_attn fsspec huggingface_hub requests rich scipy "
        "timm tokenizers torchmetrics torchvision tqdm transformers",
    ),
    Program(
        name="maskgit",  # the archived first generation: branch v1.0
        url="https://github.com/valeoai/Maskgit-pytorch.git",
        commit="674ef1d934963b7550ad9068015e705a525ceecb",
        marks=("main.py", "Trainer/vit.py", "Network/Taming/models/vqgan.py"),
        script="main.py",
        digest="87083ac752b327ba6ee3d0c2627a5db0a39a44ee4c7f04a8535b990fb2074daa",
        needs="PIL clip einops requests scipy sklearn tensorboard torchmetrics "
        "torchvision tqdm webdataset",
    ),
    Program(
        name="halton_maskgit",
        url="https://github.com/valeoai/Halton-MaskGIT.git",
        commit="f61b0a1314717004dc7487531fd16a8bb71e1888",
        marks=("main.py", "Trainer/cls_trainer.py", "Sampler/halton_sampler.py"),
        script="main.py",
        digest="fb372ab98f2d66f75971357027a95365dbdb2cd948befc1026d3073363759143",
        needs="PIL cleanfid einops matplotlib scipy sklearn tensorboard torch_fidelity "
        "torchmetrics torchvision tqdm webdataset",
    ),
    Program(
        name="tauldr",
        url="https://github.com/andrew-cr/tauLDR.git",
        commit="5128d4a5cce07f707780ccb03e8de2b48950aafa",
        marks=("train.py", "lib/models/models.py", "lib/sampling/sampling.py"),
        script="train.py",
        others=("scripts/sample.py",),
        digest="f81c7715ecc490f9e4de13d61c0e7a262ad398b45e11698420be0936337d7843",
        needs="PIL matplotlib ml_collections scipy tensorboard tkinter torchvision tqdm",
    ),
)
HYDRA_HOSTS = tuple(host for host in HOSTS if host.configs)


def host_named(name: str) -> Program:
    """Return the known host of that name; KeyError if there is none."""
    return {host.name: host for host in HOSTS}[name]


def host_of_configs(path: str) -> Program | None:
    """Return the host whose config folder is `path`, an entry of Hydra's search path.

    Args:
        path: a folder, plain or as `file://…`; for other schemes the result is None.
    """
    folder = Path(path.removeprefix("file://"))
    return next((host for host in HOSTS if host.has_configs_at(folder)), None)


def find(script: str | Path, hosts: Iterable[Program] = HOSTS) -> Checkout | None:
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
