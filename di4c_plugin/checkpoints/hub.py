"""Files from the Hugging Face hub, with its errors in one line.

`HF_ENDPOINT`, the cache and offline mode are huggingface_hub's own.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from di4c_plugin.errors import UserError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_FILES = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")


def looks_like_id(source: str) -> bool:
    """Return whether `source` may be owner/name or owner/name@revision of a repository."""
    return bool(_ID.fullmatch(source)) and not source.endswith(_FILES)


def fetch_any(source: str, names: Sequence[str]) -> tuple[Path, str]:
    """Return the first of the files `names` that the repository has, and its commit.

    Raises:
        UserError: if there is no such repository or revision, none of the files, or no connection.
    """
    for name in names:
        path = fetch(source, name)
        if path is not None:
            # The hub keeps a file under the folder of its commit: further files come from there.
            return path, _commit(path, name)
    weights = [name for name in names if not name.endswith(".json")]  # no index of them
    raise UserError(f"hub repository {source} holds neither {' nor '.join(weights)}")


def _commit(path: Path, name: str) -> str:
    return path.parents[len(Path(name).parts) - 1].name


def fetch(source: str, name: str, commit: str | None = None) -> Path | None:
    """Return the local copy of a file of the repository; None if it has no such file.

    Args:
        source: owner/name or owner/name@revision.
        name: path of the file in the repository.
        commit: taken in place of the revision.

    Raises:
        UserError: if there is no such repository or revision, or no connection.
    """
    # Slow to import: only when needed.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=commit or revision or "main"))
    except LocalEntryNotFoundError as error:
        raise _unreachable(source, error) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # httpx, requests and the hub's own, by version
        raise _explain(source, error) from error


def _unreachable(source: str, error: Exception) -> UserError:
    return UserError(
        f"no file or folder {source}, and as a hub repository it is neither in the cache nor can "
        f"the hub be reached ({_first_line(error.__cause__ or error)})"
    )


def _explain(source: str, error: Exception) -> UserError:
    from huggingface_hub import errors

    repository, _, revision = source.partition("@")
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"hub repository {repository} is gated: ask for access and log in")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"no file, folder or hub repository {repository} (a private one: log in)")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"hub repository {repository} has no revision {revision or 'main'!r}")
    return UserError(f"cannot get {source} from the hub: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
