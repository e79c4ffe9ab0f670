"""The checkpoint in a host's run folder from which a run resumes, and the paths of new ones."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.files import is_plain
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.training.checkpoint import CheckpointFiles
from di4c_plugin.training.checkpoint_file import first_intact, read_checkpoint, write_checkpoint

VERSIONS = re.compile(r"last(-v\d+)?\.ckpt")
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}\.ckpt")
PATHS = ("best_model_path", "last_model_path", "kth_best_model_path")
ADVICE = "name another one, or a new folder for the run"


class HostFiles(CheckpointFiles):
    """Writes a host's checkpoints with a digest, and reads the newest intact one.

    last-v1.ckpt may be newer than last.ckpt: Lightning writes it after the folder was moved.
    """

    loaded: Path | None = None

    @one_line
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        write_checkpoint(checkpoint, Path(path))

    @one_line
    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        path = newest_version(Path(path))
        others = (file for file in path.parent.glob("*.ckpt") if file != path)
        by_age = sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)
        self.loaded, content = first_intact(path, by_age, ADVICE)
        return content


def newest_version(path: Path) -> Path:
    """Return the newest of the versions that Lightning may have written of a last.ckpt."""
    if not VERSIONS.fullmatch(path.name):
        return path
    files = [file for file in path.parent.glob("last*.ckpt") if VERSIONS.fullmatch(file.name)]
    updates = {file: updates_of(file) for file in files} if len(files) > 1 else {}
    newest = max(updates, key=updates.__getitem__, default=path)
    if updates and updates[newest] > updates.get(path, -1) >= 0:
        announce_once(
            f"{path} is of update {updates[path]}, {newest.name} of update {updates[newest]}: "
            "going on from that"
        )
        return newest
    return path


def updates_of(file: Path) -> int:
    """Return the number of updates of a checkpoint, -1 if it is damaged."""
    try:
        return int(read_checkpoint(file, mmap=True)["global_step"])
    except (UserError, KeyError):
        return -1


def use_files(trainer: Trainer) -> HostFiles | None:
    """Make a trainer use `HostFiles`, and remove temporary files in its folders.

    Returns:
        None if the folders are not local, or the user has a checkpoint plugin.
    """
    folders = [str(callback.dirpath) for callback in savers(trainer) if callback.dirpath]
    plugin = type(trainer.strategy.checkpoint_io)
    is_users = plugin.__name__ != "TorchCheckpointIO" and not issubclass(plugin, HostFiles)
    if is_users or any("://" in folder for folder in folders):
        return None
    if trainer.is_global_zero:
        for folder in map(Path, folders):
            remove_unfinished(folder)
    files = HostFiles()
    trainer.strategy.checkpoint_io = files
    return files


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed runs."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if UNFINISHED.fullmatch(file.name) and is_plain(file):
            file.unlink(missing_ok=True)


def savers(trainer: Trainer) -> list[ModelCheckpoint]:
    """Return the callbacks that write checkpoints."""
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]


def settle(checkpoint: Mapping[str, Any], callbacks: Iterable[ModelCheckpoint], file: Path) -> None:
    """Make callbacks continue in the folder of the resumed checkpoint, even if it was moved.

    Lightning forgets its files if the folder has another name, and writes last-v1.ckpt beside an
    old last.ckpt.

    Args:
        checkpoint: its entry "callbacks" is changed.
        callbacks: of the trainer.
        file: the checkpoint's path.
    """
    for callback in callbacks:
        state, folder = checkpoint["callbacks"].get(callback.state_key), callback.dirpath
        if state is None or not folder or Path(folder).resolve() != file.resolve().parent:
            continue
        before = str(state.get("dirpath") or folder)
        for key in PATHS:
            state[key] = moved(state.get(key), before, str(folder))
        best = {moved(k, before, str(folder)): v for k, v in state["best_k_models"].items()}
        state["best_k_models"] = {path: score for path, score in best.items() if path}
        state["dirpath"] = folder
        last = Path(folder) / f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
        if callback.save_last and is_plain(last):
            state["last_model_path"] = str(last)


def moved(path: str | None, before: str, now: str) -> str:
    """Return the path of a file after its folder moved from `before` to `now`, "" if missing."""
    if not path:
        return ""
    file = Path(now) / Path(path).relative_to(before) if path.startswith(before) else Path(path)
    return str(file) if file.exists() else ""
