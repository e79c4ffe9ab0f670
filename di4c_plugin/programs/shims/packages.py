"""The packages that the hosts import, and stand-ins for missing ones. Standard library only.

A package has a stand-in if it is hard to install (flash-attn is compiled for one GPU and one torch)
or the host imports it for a part that few runs use. A stand-in is a folder at the end of sys.path:
it never shadows a working package, and processes of multiprocessing find it too. For other packages
one line says what to install.
"""

import contextlib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

from di4c_plugin.checkouts import Program
from di4c_plugin.errors import UserError

STAND_INS = Path(__file__).parent / "stand_ins"

DISTRIBUTIONS = {  # pip's names of modules, if they differ
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "mauve": "mauve-text",
    "ml_collections": "ml-collections",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
}
PARTS = {"tkinter": "_tkinter"}  # submodules that may be missing: Python built without Tk
SEEN_BY_OTHERS = {"torch_fidelity", "torchvision"}  # torchmetrics and transformers look for them


def is_missing(package: str) -> bool:
    """Return whether the real `package` cannot be imported; a stand-in does not count."""
    return not _is_present(package) or _is_broken(package)


def _is_present(package: str) -> bool:
    spec = find_spec(package)
    if spec is None:
        return False
    return spec.origin is None or STAND_INS not in Path(spec.origin).parents


def _is_broken(package: str) -> bool:
    return package in PARTS and find_spec(PARTS[package]) is None


def has_stand_in(package: str) -> bool:
    """Return whether we have a stand-in for `package`."""
    return (STAND_INS / package).is_dir()


def missing(program: Program) -> list[str]:
    """Return the packages that a program needs and that are not installed."""
    return [package for package in program.needs.split() if is_missing(package)]


def pip_line(packages: list[str]) -> str:
    """Return the command that installs `packages`."""
    return " ".join(["pip install", *(DISTRIBUTIONS.get(name, name) for name in packages)])


def provide(program: Program) -> list[str]:
    """Make all packages of a program importable; return those that got a stand-in.

    Raises:
        UserError: if packages without a stand-in are missing.
    """
    absent = missing(program)
    unavailable = [package for package in absent if not has_stand_in(package)]
    if unavailable:
        raise UserError(f"{program.name} needs {', '.join(unavailable)}: {pip_line(unavailable)}")
    for package in absent:
        add(package)
    return absent


def add(package: str) -> None:
    """Put the stand-in for `package` at the end of sys.path, or first if the package is broken."""
    if package in SEEN_BY_OTHERS:
        _let_others_look_first()
    folder = str(STAND_INS / package)
    if folder not in sys.path:
        sys.path.insert(0 if _is_present(package) else len(sys.path), folder)


def _let_others_look_first() -> None:
    # Both cache whether the packages exist, and would import more from the stand-ins.
    with contextlib.suppress(ImportError):
        importlib.import_module("torchmetrics")
    with contextlib.suppress(ImportError):
        importlib.import_module("transformers.utils").is_torchvision_available()
