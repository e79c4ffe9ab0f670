"""One run at a time per folder: a lock that is released, at the latest, with its process."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError, reason

LOCK = ".di4c-run.lock"
# Errors of file systems without locks.
CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder` while the block runs; the same thread may enter again.

    The folder is made if needed, and removed again if the block leaves it empty. If the file system
    cannot lock, a line on stderr says so, and the block runs without a lock.

    Raises:
        UserError: if another run has the folder, or it cannot be made.
    """
    try:
        blocking = [p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()]
    except (OSError, ValueError) as error:  # not a valid path
        raise UserError(f"cannot write {str(folder)[:200]}: {reason(error)[:100]}") from error
    if blocking:
        raise UserError(f"{blocking[0]} is not a folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True, fallback_to_soft=False)
    try:
        _acquire(lock, folder)
        yield
    finally:
        if lock.is_locked and lock.lock_counter == 1:
            # After the release the file may be another run's.
            _remove(folder / LOCK)
        lock.release()
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder} is in use by another run") from None
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
        _remove(folder / LOCK)
        announce_once(f"{folder} cannot be locked: start no other run in it meanwhile")


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
