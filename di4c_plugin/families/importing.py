"""Imports a host's modules from its checkout, by the names they have there.

MaskGIT and Halton-MaskGIT both call theirs `Network.transformer`, and tauLDR's package is `lib`: so
the modules of one checkout are kept apart from those of all others, and none of these names stays
importable. In a host's own program, where its root is on the path, they are the program's modules.

Whose code is run is the user's choice, or ours: no file names it, and a folder that merely lies
where we look must hold what we test with.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import PathEntryFinder
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Program, host_named
from di4c_plugin.errors import UserError

EXTERNAL = Path(__file__).resolve().parents[2] / "external"
# The folder with checkouts, by their names here.
VARIABLE = "DI4C_EXTERNAL"
# By root: what was imported from it.
_kept: dict[Path, dict[str, ModuleType]] = {}


def checkout(host: str, root: str | Path | None = None) -> Path:
    """Return the root of a host's checkout.

    That is `root`; or else what the user has named in another way: the working folder, in the
    host's own program, or the folder <host> in the one that the environment variable DI4C_EXTERNAL
    names; or else what is found, and holds the code that we test with: the working folder, or
    `external/<host>` below it (where `di4c doctor` looks); or the submodule external/<host> of our
    own repository, if we are used out of it.

    Raises:
        UserError: if it is none, or holds other code and nobody has named it.
    """
    known = host_named(host)
    if root is not None:
        place = Path(root).resolve()
        if not known.is_at(place):
            raise UserError(f"no checkout of {host} in {place}")
        return place
    for place in _named(host):
        if known.is_at(place):
            return place
    own = (EXTERNAL / host).resolve()
    for place in (Path.cwd(), (Path("external") / host).resolve()):
        if known.is_at(place) and place != own:
            _check_tested(known, place)
            announce_once(f"the code of {host} is that of {_shown(place)}")
            return place
    if known.is_at(own):
        return own
    raise UserError(
        f"no checkout of {host}: git submodule update --init external/{host}, or git clone "
        f"{known.url} and {_option('FOLDER')} (or {VARIABLE}: the folder around it)"
    )


def _named(host: str) -> Iterator[Path]:
    """Yield where the user says that a checkout is."""
    here = Path.cwd()
    if str(here) in sys.path:
        yield here
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE]).resolve() / host


def _check_tested(host: Program, place: Path) -> None:
    """Refuse a checkout with other code than we test with; raises UserError."""
    if not host.is_as_tested(place):
        shown = _shown(place)
        raise UserError(
            f"{shown} is not {host.tested} as tested (its files differ): {_option(shown)} runs "
            "its code all the same"
        )


def _option(folder: object) -> str:
    return f"host.root={folder} (evaluate, sample: --host-option root={folder})"


def _shown(place: Path) -> Path:
    """Return a path as the user would type it."""
    here = Path.cwd()
    return place.relative_to(here) if here in place.parents else place


def host_module(host: str, name: str, root: str | Path | None = None) -> ModuleType:
    """Return the module `name` of a host, such as "Network.transformer".

    Raises:
        UserError: if the checkout is missing, or a package that the module imports.
    """
    place = checkout(host, root)
    with torch.device("cpu"):  # what a module makes when it is imported, wherever it is called
        return _imported(host, name, place)


def _imported(host: str, name: str, place: Path) -> ModuleType:
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
    hook = _sources_of(place)
    sys.path.insert(0, str(place))
    sys.path_hooks.insert(0, hook)
    _forget_finders(place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path_hooks.remove(hook)
        _forget_finders(place)
        sys.path.remove(str(place))
        _kept[place] |= _take(names)
        sys.modules.update(others)


class _Source(SourceFileLoader):
    """Loads a module from its source; bytecode beside it may be of anything."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _sources_of(place: Path) -> Callable[[str], PathEntryFinder]:
    """Return an entry of `sys.path_hooks` that finds sources, and nothing else, in a checkout."""
    finder = FileFinder.path_hook((_Source, [".py"]))

    def hook(path: str) -> PathEntryFinder:
        if place not in (Path(path), *Path(path).parents):
            raise ImportError
        return finder(path)

    return hook


def _forget_finders(place: Path) -> None:
    for path in list(sys.path_importer_cache):
        if place in (Path(path), *Path(path).parents):
            del sys.path_importer_cache[path]


def _take(names: set[str]) -> dict[str, ModuleType]:
    """Take the modules below these top-level names out of sys.modules."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}


def _own_names(place: Path) -> set[str]:
    return {p.stem for p in place.iterdir() if p.is_dir() or p.suffix == ".py"}
