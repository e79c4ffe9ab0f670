"""Runs an unmodified host program with its shims: `python -m di4c_plugin.programs.launch SCRIPT …`.

The program becomes `__main__`, and finds its folder, arguments and Hydra's config folder as if
Python had started it. Only `__main__.__spec__` names this module, with which Lightning starts the
other processes of a run (lightning/fabric/strategies/launchers/subprocess_script.py), so that they
get the shims too; an environment variable names their script. Our flags among the arguments
(`images.program`) are removed, and select our sampler. Standard library only at module level.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from di4c_plugin import checkouts
from di4c_plugin.announce import announce_once, plain_streams
from di4c_plugin.errors import UserError
from di4c_plugin.files import user_path
from di4c_plugin.overrides import elements, readable
from di4c_plugin.plugins import programs
from di4c_plugin.programs import shims
from di4c_plugin.programs.images.program import refuse_flags, take_flags
from di4c_plugin.programs.shims.after_import import after_import

SCRIPT = "DI4C_HOST_SCRIPT"  # the program that processes started by Lightning run
FILES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
SWEEPING = {"--multirun", "-m", "hydra.mode=MULTIRUN"}
MODULE = "di4c_plugin.programs.launch"


def launch(script: str, arguments: Sequence[str]) -> None:
    """Run a host's program in this process, with shims.

    Args:
        script: path of the program, which lies in a checkout of its host.
        arguments: its own arguments, and flags of ours.

    Raises:
        UserError: if there is no such file, it is not a program of a known host, packages are
            missing, or our flags do not fit.
        SystemExit: as the program.
    """
    checkout = _checkout(script)
    patches: Mapping[str, checkouts.Patch] = {}
    if checkout.host.configs is not None:
        refuse_flags(checkout.host.name, arguments)
        arguments = readable(arguments)
        check_files(arguments)
    else:
        arguments, flags = take_flags(arguments, checkout.host.own_samplers)
        patches = checkout.host.patches(checkout.root, flags)
    done = shims.install(checkout)
    for module, patch in patches.items():
        after_import(module, patch)
    if checkout.warning:
        announce_once(f"warning: {checkout.warning}")
    announce_once(f"{checkout.title}: {'; '.join(done) or 'no shims needed'}")
    os.environ[SCRIPT] = str(Path(script).resolve())
    _execute(Path(script), arguments)


def check_files(arguments: Sequence[str]) -> None:
    """Refuse a missing model file before the slow imports of a program; each one of a sweep.

    Args:
        arguments: a program's, `readable`.

    Raises:
        UserError: with its path.
    """
    sweeps = not SWEEPING.isdisjoint(arguments)
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if equals and key in ("teacher", "student", "sampler.teacher"):
            for source in elements(argument) if sweeps else [value.strip("'\"")]:
                if isinstance(source, str):
                    check_model_file(key, source)


def check_model_file(option: str, source: str) -> None:
    """Refuse the source of a model that is a path and not there; raises UserError."""
    path = source.removeprefix("file:")
    is_file = path.endswith(FILES) or path.startswith(("./", "../", "/", "~"))
    if is_file and not user_path(path).exists():
        raise UserError(f"no such model file: {option}={path}")


def _checkout(script: str) -> checkouts.Checkout:
    if not Path(script).is_file():
        raise UserError(f"no such program: {script}")
    hosts = programs()
    checkout = checkouts.find(script, hosts)
    if checkout is None:
        names = ", ".join(host.name for host in hosts)
        raise UserError(f"{script} is not a program of a known host ({names}); see di4c doctor")
    return checkout


def _execute(script: Path, arguments: Sequence[str]) -> None:
    path = script.absolute()
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(MODULE, None, origin=str(path))
    main.__file__ = str(path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules["__main__"] = main
    exec(compile(path.read_bytes(), path, "exec"), main.__dict__)


def _main() -> None:
    plain_streams()
    arguments = [os.environ[SCRIPT]] if SCRIPT in os.environ else []
    script, *rest = [*arguments, *sys.argv[1:]] or [""]
    try:
        launch(script, rest)
    except UserError as error:
        announce_once(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    _main()
