"""Imports a host's modules from its checkout, by the names they have there.

MaskGIT and Halton-MaskGIT both call theirs `Network.transformer`, and tauLDR's package is `lib`: so
the modules of one checkout are kept apart from those of all others, and none of these names stays
importable. In a host's own program, where its root is on the path, they are the program's modules.
Tests: tests/hosts/images/test_importing.py.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from di4c_plugin.errors import UserError
from di4c_plugin.hosts.detect import host_named

EXTERNAL = Path(__file__).resolve().parents[3] / "external"
# The folder with checkouts, by their names here.
VARIABLE = "DI4C_EXTERNAL"
# By root: what was imported from it.
_kept: dict[Path, dict[str, ModuleType]] = {}


def checkout(host: str, root: str | Path | None = None) -> Path:
    """Return the root of a host's checkout.

    That is `root`; or else the working folder; the folder <host> in the one that the environment
    variable DI4C_EXTERNAL names, or in `external` below the working folder (where `di4c doctor`
    looks); the submodule external/<host> of our own repository, if we are used out of it.

    Raises:
        UserError: if it is none.
    """
    if root is not None:
        places = [Path(root).resolve()]
    else:
        named = [Path(os.environ[VARIABLE]).resolve() / host] if VARIABLE in os.environ else []
        places = [Path.cwd(), *named, Path.cwd() / "external" / host, EXTERNAL / host]
    for place in places:
        if host_named(host).is_at(place):
            return place
    if root is not None:
        raise UserError(f"no checkout of {host} in {places[0]}")
    url = host_named(host).url
    raise UserError(
        f"no checkout of {host}: git submodule update --init external/{host}, or git clone {url} "
        f"and host.root=FOLDER (or {VARIABLE}: the folder around it)"
    )


def host_module(host: str, name: str, root: str | Path | None = None) -> ModuleType:
    """Return the module `name` of a host, such as "Network.transformer".

    Raises:
        UserError: if the checkout is missing, or a package that the module imports.
    """
    place = checkout(host, root)
    try:
        if str(place) in sys.path:
            module = importlib.import_module(name)
            if _lies_in(module, place):
                return module
        with _only_of(place):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _own_names(place):
            raise
        raise UserError(
            f"{host} needs the package {error.name}: pip install 'di4c_plugin[hosts]'"
        ) from error


def _lies_in(module: ModuleType, place: Path) -> bool:
    return place in Path(module.__file__ or "/").resolve().parents


@contextmanager
def _only_of(place: Path) -> Iterator[None]:
    """Have the names of the checkout, and no others of the same names, be importable."""
    names = _own_names(place)
    others = _take(names)
    sys.modules.update(_kept.setdefault(place, {}))
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(place))
        _kept[place] |= _take(names)
        sys.modules.update(others)


def _take(names: set[str]) -> dict[str, ModuleType]:
    """Take the modules below these top-level names out of sys.modules."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}


def _own_names(place: Path) -> set[str]:
    return {p.stem for p in place.iterdir() if p.is_dir() or p.suffix == ".py"}
