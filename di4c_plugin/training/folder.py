"""The folder of a run: one run per folder, resumed only with the same config.

It holds run.json, config.yaml, last.ckpt, logs/ and, at the end, the model; until then also
previous.ckpt, and shards/ for the checkpoints of a sharded run. run.json lists the files that the
run writes beside its logs: no other file is ever replaced or removed. Folders of earlier versions,
which kept no list, are recognised by their config.yaml.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from di4c_plugin.checkpoints import adapter
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write, is_plain, named_file, unfinished
from di4c_plugin.plain_files import read_yaml
from di4c_plugin.training import shards
from di4c_plugin.training.checkpoint_file import first_intact, read_checkpoint
from di4c_plugin.training.recorded import leaves

RECORD, CONFIG = "run.json", "config.yaml"
CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
STUDENT, TEACHER = "student.safetensors", "teacher.safetensors"
ADAPTER = adapter.WEIGHTS  # a student that is an adapter; adapter.CONFIG lies beside it
REPORTS = ("report.json", "quality.png", "samples.png", "progress.png")  # of the demo
# All that runs may write: a forged run.json cannot name any other file.
NAMES = frozenset(
    {RECORD, CONFIG, CHECKPOINT, PREVIOUS, shards.FOLDER}
    | {STUDENT, TEACHER, ADAPTER, adapter.CONFIG, *REPORTS}
)
DIGESTS = "weights"  # the entry of the description with those of the weights that the run reads
FORMAT = 1
LARGEST = 65536  # bytes of a record

# Options that may differ when a run is resumed: they change no update.
FREE = {f"training.{name}" for name in ("checkpoint_every", "log_every", "logger")}


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run and its files.

    Attributes:
        path: the folder.
        description: the plain values that define the run.
        model: the name of the model file.
        inputs: values that may name files which the run reads, like those in `description`.
    """

    path: Path
    description: Mapping[str, Any]
    model: str
    inputs: tuple[object, ...] = ()

    @property
    def config(self) -> Path:
        """The description."""
        return self.path / CONFIG

    @property
    def checkpoint(self) -> Path:
        """The state from which the run resumes."""
        return self.path / CHECKPOINT

    @property
    def previous(self) -> Path:
        """The state before `checkpoint`, used if that is damaged; removed at the end."""
        return self.path / PREVIOUS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files that the run writes."""
        beside = (adapter.CONFIG,) if self.model == ADAPTER else ()
        sharded = (shards.FOLDER,) if shards.are_in(flat(self.description)) else ()
        return RECORD, CONFIG, CHECKPOINT, PREVIOUS, *sharded, self.model, *beside

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, intact or not."""
        return is_plain(self.checkpoint) or is_plain(self.previous)

    def start(self) -> Path | None:
        """Return the newest intact checkpoint; None if the run left none.

        Raises:
            UserError: if all are damaged.
        """
        if not self.begun:
            return None
        return first_intact(self.checkpoint, [self.previous], "start again with overwrite")[0]

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Check that the run may use the folder; change nothing.

        Raises:
            UserError: if the folder holds another run and the user asks neither to resume nor to
                overwrite it, if the run to resume is damaged or differs, or if this run would
                replace a file that it reads or that no run wrote.
        """
        if resume and overwrite:
            raise UserError("resume and overwrite exclude each other")
        written = recorded(self.path)
        self._check_inputs(written)
        check_free(self.path, self.names)
        if resume:
            self._check_same()
        elif not overwrite and any(is_plain(self.path / name) for name in written - {RECORD}):
            raise UserError(
                f"{self.path} holds another run; choose another folder, resume it or overwrite it"
            )

    def claim(self, *, resume: bool) -> None:
        """Remove an earlier run's files, unless it is resumed; write run.json and config.yaml.

        If the newest checkpoint is damaged, the previous one replaces it.

        Raises:
            UserError: if the system refuses, or no checkpoint is intact.
        """
        written = recorded(self.path)
        if resume and self.start() == self.previous:
            self.previous.replace(self.checkpoint)
        for name in written.union(self.names):
            _remove(*unfinished(self.path / name))
        if not resume:
            _remove(*(self.path / name for name in written))
        self._clear_shards(written)
        _write_record(self.path, written.union(self.names) if resume else self.names)
        with atomic_write(self.config) as temporary:
            OmegaConf.save(OmegaConf.create(dict(self.description)), temporary)

    def release(self) -> None:
        """Clean the folder after a failure, unless there is a checkpoint to resume from."""
        if self.begun:
            return
        _remove(self.config)
        self._clear_shards()
        # A resumed run may have left more.
        if not any(is_plain(self.path / name) for name in recorded(self.path) - {RECORD}):
            _remove(self.path / RECORD)

    def finish(self) -> None:
        """Remove the files that only an unfinished run needs."""
        _remove(self.previous)
        self._clear_shards()

    def _clear_shards(self, written: Iterable[str] = ()) -> None:
        """Remove the shards that belong to no existing checkpoint."""
        if shards.FOLDER not in {*written, *self.names}:
            return
        paths = [path for path in (self.checkpoint, self.previous) if is_plain(path)]
        entries = [read_checkpoint(path, with_shards=False).get(shards.KEY) for path in paths]
        shards.clear(self.path, {entry["folder"] for entry in entries if entry})

    def _check_inputs(self, written: Iterable[str]) -> None:
        files = (named_file(value) for value in _leaves((self.inputs, self.description)))
        inputs = {path for path in files if path is not None}
        for name in sorted({*written, *self.names}):
            path = self.path / name
            if is_plain(path) and any(path.samefile(file) for file in inputs):
                raise UserError(
                    f"{path} is what this run reads, and it would be replaced: "
                    "choose another folder for the run"
                )

    def _check_same(self) -> None:
        """Refuse to resume another run; a run without a checkpoint starts again."""
        if is_plain(self.config):
            self._compare()
        elif self.begun:
            raise UserError(f"nothing to resume: there is no {self.config}")
        if self.start() is None and is_plain(self.path / self.model):
            raise UserError(
                f"nothing to resume: {self.path} holds a finished run without its {CHECKPOINT}"
            )

    def _compare(self) -> None:
        config = read_config(self.config)
        if config is None:
            raise UserError(f"{self.config} is damaged; start again with overwrite")
        # In earlier versions without digests of the weights that a run reads.
        digests = {DIGESTS: self.description.get(DIGESTS, {})}
        before, now = flat(digests | config), flat({**digests, **self.description})
        # Weights are told apart by their digests: their files may have moved.
        recorded = flat(config)
        moved = {name for name in before if f"{DIGESTS}.{name}" in recorded}
        for name in sorted((before.keys() | now.keys()) - FREE - moved - shards.free(before, now)):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise UserError(
                    f"{self.path} is another run: {name} was {old!r}, and is {new!r} now"
                )


def recorded(folder: Path) -> frozenset[str]:
    """Return the names that runs in `folder` have recorded; the files may not exist."""
    return _listed(folder / RECORD) or _of_earlier_versions(folder / CONFIG)


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Refuse to replace files that no run wrote.

    Raises:
        UserError: naming the first one.
    """
    written = recorded(folder)
    for name in names:
        path = folder / name
        right_kind = shards.is_folder(path) if name == shards.FOLDER else is_plain(path)
        if os.path.lexists(path) and not (name in written and right_kind):
            raise UserError(
                f"{path} is in the way, and no run wrote it: move it, or choose another folder"
            )


def add_names(folder: Path, names: Iterable[str]) -> None:
    """Add files that a run is about to write to run.json, and remove their old versions.

    Raises:
        UserError: as `check_free`, and if the system refuses.
    """
    names = tuple(names)
    check_free(folder, names)
    _remove(*(folder / name for name in names))
    _write_record(folder, recorded(folder).union(names))


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name, as read back from config.yaml."""
    return dict(leaves(OmegaConf.to_container(OmegaConf.create(dict(config)))))


def read_config(path: Path) -> dict[str, Any] | None:
    """Return the content of a config.yaml; None if it is not a readable mapping."""
    try:
        content = read_yaml(path)
    except UserError:
        return None
    return content if isinstance(content, dict) else None


def _listed(record: Path) -> frozenset[str]:
    """Return the names in a run.json, its own included; none for any other file."""
    if not is_plain(record):
        return frozenset()
    try:
        with record.open("rb") as file:
            content = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return frozenset()
    content = content if isinstance(content, dict) else {}
    files, version = content.get("files"), content.get("di4c_run")
    if not isinstance(files, list) or (type(version), version) != (int, FORMAT):
        return frozenset()
    return NAMES.intersection([RECORD, *(name for name in files if isinstance(name, str))])


def _of_earlier_versions(config: Path) -> frozenset[str]:
    """Return the files of a run without run.json, if config.yaml is that of a run."""
    content = read_config(config) if is_plain(config) else None
    if content is None:
        return frozenset()
    parts = {"student": {"network", "process"}, "training": {"steps", "batch_size", "accumulate"}}
    for name, keys in parts.items():
        if not isinstance(content.get(name), Mapping) or not keys <= content[name].keys():
            return frozenset()
    algo = content.get("algo")
    trains_teacher = isinstance(algo, Mapping) and algo.get("name") == "denoising"
    return frozenset({CONFIG, CHECKPOINT, TEACHER if trains_teacher else STUDENT})


def _write_record(folder: Path, names: Iterable[str]) -> None:
    content = {"di4c_run": FORMAT, "files": sorted(names)}
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _remove(*paths: Path) -> None:
    """Remove the regular files among `paths`; raises UserError."""
    for path in filter(is_plain, paths):
        try:
            path.unlink()
        except OSError as error:
            raise UserError(f"cannot remove {path}: {error.strerror or error}") from error


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
