"""The packages that the hosts import, and what to do where one is missing. Standard library only.

Some have a stand-in: they are hard to install (flash-attn is compiled for one GPU and one torch) or
the host imports them for a part that few runs use. A stand-in is a real folder behind everything
else on sys.path: it never shadows a real package that works, and the processes that multiprocessing
starts find it too. The rest is one line that says what to install.
"""

import contextlib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

from di4c_plugin.checkouts import host_named
from di4c_plugin.errors import UserError

STAND_INS = Path(__file__).parent / "stand_ins"

DISTRIBUTIONS = {  # where pip knows a module by another name
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "mauve": "mauve-text",
    "ml_collections": "ml-collections",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
}
PARTS = {"tkinter": "_tkinter"}  # what a package that is there may lack: Python built without Tk
SEEN_BY_OTHERS = {"torch_fidelity", "torchvision"}  # torchmetrics and transformers look for them


def is_missing(package: str) -> bool:
    """Tell whether the real `package` cannot be imported; a stand-in does not count."""
    return not _is_present(package) or _is_broken(package)


def _is_present(package: str) -> bool:
    spec = find_spec(package)
    if spec is None:
        return False
    return spec.origin is None or STAND_INS not in Path(spec.origin).parents


def _is_broken(package: str) -> bool:
    return package in PARTS and find_spec(PARTS[package]) is None


def has_stand_in(package: str) -> bool:
    """Tell whether we have a stand-in for `package`."""
    return (STAND_INS / package).is_dir()


def missing(host: str, needs: str | None = None) -> list[str]:
    """Return the packages that the named host needs and that are not installed.

    `needs` are those of a host that is none of `HOSTS`.
    """
    needs = host_named(host).needs if needs is None else needs
    return [package for package in needs.split() if is_missing(package)]


def pip_line(packages: list[str]) -> str:
    """Return the command that installs `packages`."""
    return " ".join(["pip install", *(DISTRIBUTIONS.get(name, name) for name in packages)])


def provide(host: str, needs: str | None = None) -> list[str]:
    """Make everything importable that the named host imports; return what got a stand-in.

    Raises:
        UserError: packages are missing for which there is no stand-in.
    """
    absent = missing(host, needs)
    unavailable = [package for package in absent if not has_stand_in(package)]
    if unavailable:
        raise UserError(f"{host} needs {', '.join(unavailable)}: {pip_line(unavailable)}")
    for package in absent:
        add(package)
    return absent


def add(package: str) -> None:
    """Put the stand-in for `package` behind everything else on sys.path.

    Only one that is there but cannot be imported gets it before itself.
    """
    if package in SEEN_BY_OTHERS:
        _let_others_look_first()
    folder = str(STAND_INS / package)
    if folder not in sys.path:
        sys.path.insert(0 if _is_present(package) else len(sys.path), folder)


def _let_others_look_first() -> None:
    # Both would take the stand-ins and import more from them; they remember what they saw.
    with contextlib.suppress(ImportError):
        importlib.import_module("torchmetrics")
    with contextlib.suppress(ImportError):
        importlib.import_module("transformers.utils").is_torchvision_available()
