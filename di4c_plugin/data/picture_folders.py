"""Finds the pictures of a folder, class by sub-folder, and counts skipped files."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from di4c_plugin.data.picture_files import SUFFIXES, is_hidden, is_picture
from di4c_plugin.errors import UserError, reason

TRAINING = ("Train", "train")
HELD_OUT = ("dev", "eval", "test", "val", "valid", "validation")


@dataclass
class PictureFolder:
    """Pictures of a folder.

    Attributes:
        folder: that names are relative to.
        classes: names of sub-folders, in order; () for pictures without classes.
        files: names of files, by class, sorted within each.
        counts: number of `files` in each class.
        skipped: kinds of skipped files, with counts.
    """

    folder: Path
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        shown = ", ".join((*self.classes[:3], "…")[: len(self.classes)])
        kinds = f"{len(self.classes)} classes ({shown})" if self.classes else "no classes"
        return f"{self.folder}: {len(self.files)} pictures in {kinds}{without(self.skipped)}"


def without(skipped: Counter[str]) -> str:
    """Return "; left out: …", or "" if nothing was skipped."""
    listed = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
    return f"; left out: {listed}" if listed else ""


def find_pictures(folder: Path) -> PictureFolder:
    """Return the pictures of a folder: a class for each sub-folder, or none in sub-folders.

    Raises:
        UserError: if the folder is missing or has no pictures, pictures lie beside sub-folders with
            pictures, a sub-folder has none, or `train` may be a class as well as a split.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    root, skipped = training_part(folder)
    loose: list[str] = []
    kinds: list[str] = []
    for entry in entries(root, skipped):
        if entry.is_dir():
            kinds.append(entry.name)
        elif taken(entry, skipped):
            loose.append(entry.name)
    kinds.sort()
    by_class = [pictures_below(root, kind, skipped) for kind in kinds]
    if not loose and not any(by_class):
        suffixes = ", ".join(SUFFIXES)
        raise UserError(
            f"no pictures in {root} (nor codes){without(skipped)}; known are {suffixes}"
        )
    if not any(by_class):
        return PictureFolder(root, files=tuple(sorted(loose)), skipped=skipped)
    if loose:
        raise UserError(f"{root} has pictures beside its folders of classes, such as {loose[0]}")
    for kind, names in zip(kinds, by_class, strict=True):
        if not names:  # skipping it would shift all later labels
            raise UserError(
                f"no pictures in {root / kind}, which counts as a class{without(skipped)}"
            )
    files = tuple(name for names in by_class for name in names)
    return PictureFolder(root, tuple(kinds), files, tuple(map(len, by_class)), skipped)


def training_part(folder: Path) -> tuple[Path, Counter[str]]:
    """Return `folder/train` if that is a split and not a class, or else the folder.

    It is a split if no sub-folders hold pictures, except those of other splits.

    Raises:
        UserError: if it may be either.
    """
    skipped: Counter[str] = Counter()
    split = next((folder / name for name in TRAINING if (folder / name).is_dir()), None)
    if split is None:
        return folder, skipped
    siblings, members = list(entries(folder, Counter())), list(entries(split, Counter()))
    names = sorted(e.name for e in siblings if e.is_dir() and e.name != split.name)
    held_out = [name for name in names if name.lower() in HELD_OUT]
    others = [n for n in names if n not in held_out and any(walk(folder, n, Counter()))]
    if not others:
        skipped.update(f"folder {name}" for name in held_out)
        skipped["pictures beside it"] += sum(e.is_file() and is_picture(e.name) for e in siblings)
        return split, +skipped
    if any(e.is_file() and is_picture(e.name) for e in members):
        return folder, skipped  # as a class has them
    raise UserError(
        f"{split} is the training split, or a class beside {', '.join(others[:3])}: name the "
        "folder of classes itself, or rename one"
    )


def pictures_below(top: Path, name: str, skipped: Counter[str]) -> list[str]:
    """Return the pictures at any depth below a sub-folder, relative to `top`, sorted."""
    return sorted(walk(top, name, skipped))


def walk(top: Path, name: str, skipped: Counter[str]) -> Iterator[str]:
    """Yield the pictures below a sub-folder, "" for all, in any order, each folder once.

    Raises:
        UserError: for a folder that cannot be read.
    """
    visited = (
        {identity(top)} if name else set()
    )  # a link to the top would lead to all other classes
    waiting = [name]
    while waiting:
        folder = waiting.pop()
        if (key := identity(top / folder)) in visited:
            skipped["links back to folders"] += 1
            continue
        visited.add(key)
        for entry in entries(top / folder, skipped):
            if entry.is_dir():
                waiting.append(os.path.join(folder, entry.name))  # noqa: PTH118
            elif taken(entry, skipped):
                yield os.path.join(folder, entry.name)  # noqa: PTH118


def identity(folder: Path) -> tuple[int, int]:
    """Return a key that is equal for all links to a folder."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def entries(folder: Path, skipped: Counter[str]) -> Iterator["os.DirEntry[str]"]:
    """Yield the files and folders in a folder that are not hidden; raises UserError."""
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if is_hidden(entry.name):
                    skipped["hidden"] += 1
                elif is_there(entry):
                    yield entry
                else:
                    skipped["links to nothing, or no files"] += 1
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or reason(error)}") from error


def is_there(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is, or links to, a file or a folder."""
    try:
        return entry.is_dir() or entry.is_file()
    except OSError:  # a link to itself
        return False


def taken(entry: "os.DirEntry[str]", skipped: Counter[str]) -> bool:
    """Return whether a file is a picture by its name; others are counted by suffix."""
    if is_picture(entry.name):
        return True
    suffix = Path(entry.name).suffix.lower()
    skipped[suffix[:20] or "without a suffix"] += 1
    return False
