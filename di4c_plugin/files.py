"""The folder of the configs, atomic writes, and the paths that users type."""

import contextlib
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from di4c_plugin.errors import UserError
from di4c_plugin.values import shown

NAME_BYTES, PATH_BYTES = 255, 4095  # limits of most file systems


def configs_dir() -> Path:
    """Return the folder of the Hydra configs: in the package, or beside an editable install's."""
    package = Path(__file__).resolve().parent
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parent / "configs"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` only if the block succeeds.

    The temporary file lies in the same folder, which is made if needed, and keeps the suffix, by
    which some writers choose their format. If the block fails, it is removed and `path` stays
    unchanged.

    Raises:
        UserError: if the system refuses (no permission, disk full, a folder in the way).
    """
    path = Path(path)
    temporary = path.with_name(f".{_short_stem(path)}.{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def unfinished(path: Path) -> list[Path]:
    """Return the temporary files of `atomic_write(path)` that killed processes left."""
    stem = _short_stem(path)
    name = re.compile(rf"\.{re.escape(stem)}\.[0-9a-f]{{32}}{re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    return [file for file in path.parent.iterdir() if name.fullmatch(file.name) and is_plain(file)]


def _short_stem(path: Path) -> str:
    """Return a file's stem, or its hash if it leaves no room for the temporary name."""
    if len(os.fsencode(path.name)) <= NAME_BYTES - 40:
        return path.stem
    return hashlib.sha256(os.fsencode(path.stem)).hexdigest()[:32]


def is_plain(path: Path) -> bool:
    """Return whether `path` is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def user_path(value: object) -> Path:
    """Return the path that a user typed, with `~` expanded.

    Raises:
        UserError: for values that are not paths, and paths that the system cannot have.
    """
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise UserError(f"a path is text, not {shown(value)}")
    text = os.fspath(value)
    try:
        path = Path(text).expanduser()
        long = next((part for part in path.parts if len(os.fsencode(part)) > NAME_BYTES), None)
    except (RuntimeError, ValueError) as error:  # unknown user after `~`, or no valid name
        raise UserError(f"{shown(value)} is no path here: {error}") from error
    if long is not None or "\0" in text or len(os.fsencode(text)) > PATH_BYTES:
        fault = f"a name of more than {NAME_BYTES} bytes" if long else "not a valid file name"
        raise UserError(f"{shown(value)} is {fault}")
    return path


def new_file(path: Path, *, overwrite: bool = False) -> Path:
    """Return the path of a new file, checked; nothing is written yet.

    Raises:
        UserError: if the file exists and may not be replaced, or cannot be written there.
    """
    path = user_path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} is there already: name another file, or add --overwrite")
    above = next(folder for folder in (*path.parents, Path()) if os.path.lexists(folder))
    if not above.is_dir():
        raise UserError(f"cannot write {path}: {above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: no permission in {above}")
    return path


def free_name(path: Path) -> Path:
    """Return the path, or the first of x-1.png, x-2.png, ... that does not exist."""
    names = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(1))
    return next(name for name in itertools.chain([path], names) if not os.path.lexists(name))


def named_file(value: object) -> Path | None:
    """Return the absolute path of the file that `value` names, None if it names none.

    Args:
        value: a path, perhaps behind a scheme ("file:PATH"); anything else names no file.
    """
    if not isinstance(value, str | os.PathLike):
        return None
    text = os.fspath(value)
    for part in (text, text.partition(":")[2]):
        # The value may be any text: too long for a path, or with an unknown user after `~`.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            path = Path(part).expanduser()
            if path.is_file():
                return path.resolve()
    return None
