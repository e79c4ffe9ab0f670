"""Imports a host's modules from its checkout, by the names they have there.

MaskGIT and Halton-MaskGIT both have a `Network.transformer`, and tauLDR's package is `lib`: so the
modules of each checkout are kept apart, and none of these names stays importable. In a host's own
program, where its root is on the path, they are the program's modules.

Which code runs is the user's choice, or ours: no file decides it, and a folder that the user did
not name must hold the code that we test with.
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
from di4c_plugin.checkouts import Program
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup

EXTERNAL = Path(__file__).resolve().parents[2] / "external"
# The folder with checkouts, by their names here.
VARIABLE = "DI4C_EXTERNAL"
# By root: what was imported from it.
_kept: dict[Path, dict[str, ModuleType]] = {}


def checkout(host: str, root: str | Path | None = None) -> Path:
    """Return the root of a host's checkout.

    In this order: `root`; the working folder, in the host's own program; the folder <host> in the
    one that the environment variable DI4C_EXTERNAL names; the working folder or `external/<host>`
    below it (where `di4c doctor` looks), if it holds the code that we test with; the submodule
    external/<host> of our own repository.

    Raises:
        UserError: if there is none, or one that the user did not name holds other code.
    """
    program: Program = lookup("program", host)
    if root is not None:
        folder = Path(root).resolve()
        if not program.is_at(folder):
            raise UserError(f"no checkout of {host} in {folder}")
        return folder
    for folder in _named(host):
        if program.is_at(folder):
            return folder
    submodule = (EXTERNAL / host).resolve()
    for folder in (Path.cwd(), (Path("external") / host).resolve()):
        if program.is_at(folder) and folder != submodule:
            _check_tested(program, folder)
            announce_once(f"the code of {host} is that of {_shown(folder)}")
            return folder
    if program.is_at(submodule):
        return submodule
    raise UserError(
        f"no checkout of {host}: git submodule update --init external/{host}, or git clone "
        f"{program.url} and {_option('FOLDER')} (or {VARIABLE}: the folder around it)"
    )


def _named(host: str) -> Iterator[Path]:
    """Yield the folders that the user names."""
    working_folder = Path.cwd()
    if str(working_folder) in sys.path:
        yield working_folder
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE]).resolve() / host


def _check_tested(host: Program, folder: Path) -> None:
    """Refuse a checkout whose code differs from the tested one; raises UserError."""
    if not host.is_as_tested(folder):
        shown = _shown(folder)
        raise UserError(
            f"{shown} is not {host.tested} as tested (its files differ): {_option(shown)} runs "
            "its code all the same"
        )


def _option(folder: object) -> str:
    return f"host.root={folder} (evaluate, sample: --host-option root={folder})"


def _shown(path: Path) -> Path:
    """Return a path as the user would type it."""
    working_folder = Path.cwd()
    return path.relative_to(working_folder) if working_folder in path.parents else path


def host_module(host: str, name: str, root: str | Path | None = None) -> ModuleType:
    """Return the module `name` of a host, such as "Network.transformer".

    Raises:
        UserError: if the checkout is missing, or a package that the module imports.
    """
    folder = checkout(host, root)
    with torch.device("cpu"):  # for tensors that a module creates when it is imported
        return _imported(host, name, folder)


def _imported(host: str, name: str, folder: Path) -> ModuleType:
    try:
        if str(folder) in sys.path:
            module = importlib.import_module(name)
            if _lies_in(module, folder):
                return module
        with _only_of(folder):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _top_level_names(folder):
            raise
        raise UserError(
            f"{host} needs the package {error.name}: pip install 'di4c_plugin[hosts]'"
        ) from error


def _lies_in(module: ModuleType, folder: Path) -> bool:
    return folder in Path(module.__file__ or "/").resolve().parents


@contextmanager
def _only_of(folder: Path) -> Iterator[None]:
    """Make the checkout's modules importable, in place of others with the same names."""
    names = _top_level_names(folder)
    displaced = _take(names)
    sys.modules.update(_kept.setdefault(folder, {}))
    hook = _sources_of(folder)
    sys.path.insert(0, str(folder))
    sys.path_hooks.insert(0, hook)
    _forget_finders(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path_hooks.remove(hook)
        _forget_finders(folder)
        sys.path.remove(str(folder))
        _kept[folder] |= _take(names)
        sys.modules.update(displaced)


class _Source(SourceFileLoader):
    """Loads a module from its source; the bytecode beside it is not trusted."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _sources_of(folder: Path) -> Callable[[str], PathEntryFinder]:
    """Return an entry of `sys.path_hooks` that finds only the sources of a checkout."""
    finder = FileFinder.path_hook((_Source, [".py"]))

    def hook(path: str) -> PathEntryFinder:
        if folder not in (Path(path), *Path(path).parents):
            raise ImportError
        return finder(path)

    return hook


def _forget_finders(folder: Path) -> None:
    for path in list(sys.path_importer_cache):
        if folder in (Path(path), *Path(path).parents):
            del sys.path_importer_cache[path]


def _take(names: set[str]) -> dict[str, ModuleType]:
    """Remove the modules below these top-level names from sys.modules, and return them."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in loaded}


def _top_level_names(folder: Path) -> set[str]:
    return {p.stem for p in folder.iterdir() if p.is_dir() or p.suffix == ".py"}
