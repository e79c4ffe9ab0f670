"""The folder of a run: one run to a folder, resumed only as what it was.

It holds run.json, config.yaml, last.ckpt, logs/ and, in the end, the model; until then also
previous.ckpt; and shards/, what checkpoints of a sharded run are of. run.json is the record of what
a run writes beside its logs: nothing else is ever replaced or removed. Folders of versions that
kept no record are known by their config.yaml.
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
from di4c_plugin.training.checkpoint_file import first_whole, read_checkpoint

RECORD, CONFIG = "run.json", "config.yaml"
CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
STUDENT, TEACHER = "student.safetensors", "teacher.safetensors"
ADAPTER = adapter.WEIGHTS  # a student that is one, and beside it adapter.CONFIG
REPORTS = ("report.json", "quality.png", "samples.png", "progress.png")  # of the demo
# All that runs write: a record, which anybody can write, opens no way to other files.
NAMES = frozenset(
    {RECORD, CONFIG, CHECKPOINT, PREVIOUS, shards.FOLDER}
    | {STUDENT, TEACHER, ADAPTER, adapter.CONFIG, *REPORTS}
)
FORMAT = 1
LARGEST = 65536  # bytes of a record

# What may differ between a run and its continuation: these change no update.
FREE = {f"training.{name}" for name in ("checkpoint_every", "log_every", "logger")}


@dataclass(frozen=True)
class RunFolder:
    """Where a run leaves its files.

    Attributes:
        path: the folder.
        description: the plain values that define the run.
        model: the name of the model file.
        inputs: values that may name files which the run reads; those in `description` may too.
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
        """The state before, from which it resumes if the other is damaged; gone in the end."""
        return self.path / PREVIOUS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files that the run writes."""
        beside = (adapter.CONFIG,) if self.model == ADAPTER else ()
        sharded = (shards.FOLDER,) if shards.are_in(flat(self.description)) else ()
        return RECORD, CONFIG, CHECKPOINT, PREVIOUS, *sharded, self.model, *beside

    @property
    def begun(self) -> bool:
        """Whether there is something to resume from, whole or not."""
        return is_plain(self.checkpoint) or is_plain(self.previous)

    def start(self) -> Path | None:
        """Return the newest checkpoint that is whole, None where the run left none.

        Raises:
            UserError: if all are damaged.
        """
        if not self.begun:
            return None
        advice = "start again with overwrite"
        return first_whole(self.checkpoint, [self.previous], advice)[0]

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Look whether the run may have the folder, and change nothing.

        Raises:
            UserError: if the folder holds another run and neither is asked for, if what is to be
                resumed is damaged or another run, or if the run would replace or remove a file
                that it reads or that no run wrote.
        """
        if resume and overwrite:
            raise UserError("resume and overwrite exclude each other")
        ours = recorded(self.path)
        self._check_inputs(ours)
        check_free(self.path, self.names)
        if resume:
            self._check_same()
        elif not overwrite and any(is_plain(self.path / name) for name in ours - {RECORD}):
            raise UserError(
                f"{self.path} holds another run; choose another folder, resume it or overwrite it"
            )

    def claim(self, *, resume: bool) -> None:
        """Remove what an earlier run left here, unless it is resumed; write record and description.

        Where the newest checkpoint is damaged, the one before takes its place.

        Raises:
            UserError: when the system refuses, or no checkpoint is whole.
        """
        ours = recorded(self.path)
        if resume and self.start() == self.previous:
            self.previous.replace(self.checkpoint)
        for name in ours.union(self.names):
            _remove(*unfinished(self.path / name))
        if not resume:
            _remove(*(self.path / name for name in ours))
        self._clear_shards(ours)
        _write_record(self.path, ours.union(self.names) if resume else self.names)
        with atomic_write(self.config) as temporary:
            OmegaConf.save(OmegaConf.create(dict(self.description)), temporary)

    def release(self) -> None:
        """Give the folder up after a failure, unless there is something to resume from."""
        if self.begun:
            return
        _remove(self.config)
        self._clear_shards()
        # A resumed run may have left more.
        if not any(is_plain(self.path / name) for name in recorded(self.path) - {RECORD}):
            _remove(self.path / RECORD)

    def finish(self) -> None:
        """Remove what only a run that is not finished needs."""
        _remove(self.previous)
        self._clear_shards()

    def _clear_shards(self, ours: Iterable[str] = ()) -> None:
        """Remove shards of no checkpoint that there is."""
        if shards.FOLDER not in {*ours, *self.names}:
            return
        there = [path for path in (self.checkpoint, self.previous) if is_plain(path)]
        kept = [read_checkpoint(path, with_shards=False).get(shards.KEY) for path in there]
        shards.clear(self.path, {each["folder"] for each in kept if each})

    def _check_inputs(self, ours: Iterable[str]) -> None:
        given = (named_file(value) for value in _leaves((self.inputs, self.description)))
        inputs = {path for path in given if path is not None}
        for name in sorted({*ours, *self.names}):
            path = self.path / name
            if is_plain(path) and any(path.samefile(each) for each in inputs):
                raise UserError(
                    f"{path} is what this run reads, and it would be replaced: "
                    "choose another folder for the run"
                )

    def _check_same(self) -> None:
        """Refuse to go on with another run; a run that left no checkpoint begins anew."""
        if is_plain(self.config):
            self._compare()
        elif self.begun:
            raise UserError(f"nothing to resume: there is no {self.config}")
        if self.start() is None and is_plain(self.path / self.model):
            raise UserError(
                f"nothing to resume: {self.path} holds a finished run without its {CHECKPOINT}"
            )

    def _compare(self) -> None:
        kept = read_config(self.config)
        if kept is None:
            raise UserError(f"{self.config} is damaged; start again with overwrite")
        then, now = flat(kept), flat(self.description)
        for name in sorted((then.keys() | now.keys()) - FREE - shards.free(then, now)):
            old, new = then.get(name), now.get(name)
            if old != new:
                raise UserError(
                    f"{self.path} is another run: {name} was {old!r}, and is {new!r} now"
                )


def recorded(folder: Path) -> frozenset[str]:
    """Return the names of the files in `folder`, there or not, that are of a run of ours."""
    return _listed(folder / RECORD) or _of_earlier_versions(folder / CONFIG)


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Refuse to write files of these names where there are others.

    Raises:
        UserError: naming the first one that no run wrote.
    """
    ours = recorded(folder)
    for name in names:
        path = folder / name
        own = shards.is_folder(path) if name == shards.FOLDER else is_plain(path)
        if os.path.lexists(path) and not (name in ours and own):
            raise UserError(
                f"{path} is in the way, and no run wrote it: move it, or choose another folder"
            )


def add_names(folder: Path, names: Iterable[str]) -> None:
    """Record that a run is about to write further files, and remove those of an earlier run.

    Raises:
        UserError: as `check_free`, and when the system refuses.
    """
    names = tuple(names)
    check_free(folder, names)
    _remove(*(folder / name for name in names))
    _write_record(folder, recorded(folder).union(names))


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name, as config.yaml gives them back."""

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from leaves(inner, f"{name}.{key}" if name else str(key))
        else:
            yield name, value

    return dict(leaves(OmegaConf.to_container(OmegaConf.create(dict(config))), ""))


def read_config(path: Path) -> dict[str, Any] | None:
    """Return what a config.yaml says; None if it is not readable, or something else."""
    try:
        content = read_yaml(path)
    except UserError:
        return None
    return content if isinstance(content, dict) else None


def _listed(record: Path) -> frozenset[str]:
    """Return the names in a record, which are then its own name too; none for any other file."""
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
    """Return what a run left that kept no record, if that is what wrote config.yaml."""
    content = read_config(config) if is_plain(config) else None
    if content is None:
        return frozenset()
    parts = {"student": {"network", "process"}, "training": {"steps", "batch_size", "accumulate"}}
    for name, keys in parts.items():
        if not isinstance(content.get(name), Mapping) or not keys <= content[name].keys():
            return frozenset()
    algo = content.get("algo")
    made = isinstance(algo, Mapping) and algo.get("name") == "denoising"
    return frozenset({CONFIG, CHECKPOINT, TEACHER if made else STUDENT})


def _write_record(folder: Path, names: Iterable[str]) -> None:
    content = {"di4c_run": FORMAT, "files": sorted(names)}
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _remove(*paths: Path) -> None:
    """Remove those that are regular files; raises UserError."""
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
