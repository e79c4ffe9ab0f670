"""Where the shipped configs lie, files that are never seen half-written, and what paths mean."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from di4c_plugin.errors import UserError


def configs_dir() -> Path:
    """Return the folder of the Hydra configs: inside an installed wheel, beside an editable one."""
    package = Path(__file__).resolve().parent
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parent / "configs"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only if the block succeeds.

    The temporary file lies in the same folder, which is made if need be, and keeps the suffix, by
    which some writers choose their format. If the block fails it is removed and an earlier `path`
    stays as it was.

    Raises:
        UserError: when the system refuses (no permission, disk full, a folder in the way).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
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
    name = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{32}}{re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    return [file for file in path.parent.iterdir() if name.fullmatch(file.name) and is_plain(file)]


def is_plain(path: Path) -> bool:
    """Return whether there is a regular file at `path` itself, not at the end of a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def named_file(value: object) -> Path | None:
    """Return the absolute path of the file that `value` names, None if it names none.

    Args:
        value: a path, perhaps behind a scheme ("file:PATH"); anything else names no file.
    """
    if not isinstance(value, str | os.PathLike):
        return None
    text = os.fspath(value)
    for part in (text, text.partition(":")[2]):
        # Any text may stand here: it may be too long for a path, or name a strange home.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            path = Path(part).expanduser()
            if path.is_file():
                return path.resolve()
    return None
