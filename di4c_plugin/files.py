"""Where the shipped configs lie, and files that are never seen half-written."""

import contextlib
import os
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
