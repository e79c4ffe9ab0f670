"""Which pictures a folder holds, class by sub-folder, and what of it is left out."""

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
class Found:
    """Pictures of a folder.

    Attributes:
        folder: what the names are relative to.
        classes: names of sub-folders in their order; () for pictures without classes.
        files: names of files, by class, sorted within each.
        counts: how many of `files` each class has.
        left: what was left out, and how many of it.
    """

    folder: Path
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    left: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        shown = ", ".join((*self.classes[:3], "…")[: len(self.classes)])
        kinds = f"{len(self.classes)} classes ({shown})" if self.classes else "no classes"
        return f"{self.folder}: {len(self.files)} pictures in {kinds}{without(self.left)}"


def without(left: Counter[str]) -> str:
    """Return "; left out: …", or "" if nothing was."""
    told = ", ".join(f"{count} {what}" for what, count in sorted(left.items()))
    return f"; left out: {told}" if told else ""


def find_pictures(folder: Path) -> Found:
    """Return the pictures of a folder: a class for each sub-folder, or none in sub-folders.

    Raises:
        UserError: if there is no such folder, no picture in it, some lie beside sub-folders with
            pictures, a sub-folder has none, or `train` may be a class as well as a split.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    place, left = training_part(folder)
    loose: list[str] = []
    kinds: list[str] = []
    for entry in entries(place, left):
        if entry.is_dir():
            kinds.append(entry.name)
        elif taken(entry, left):
            loose.append(entry.name)
    kinds.sort()
    found = [pictures_below(place, kind, left) for kind in kinds]
    if not loose and not any(found):
        known = ", ".join(SUFFIXES)
        raise UserError(f"no pictures in {place} (nor codes){without(left)}; known are {known}")
    if not any(found):
        return Found(place, files=tuple(sorted(loose)), left=left)
    if loose:
        raise UserError(f"{place} has pictures beside its folders of classes, such as {loose[0]}")
    for kind, names in zip(kinds, found, strict=True):
        if not names:  # leaving it out would move all labels behind it
            raise UserError(
                f"no pictures in {place / kind}, which counts as a class{without(left)}"
            )
    files = tuple(name for names in found for name in names)
    return Found(place, tuple(kinds), files, tuple(map(len, found)), left)


def training_part(folder: Path) -> tuple[Path, Counter[str]]:
    """Return `folder/train`, where that is a split and no class, or else the folder.

    It is a split where no other sub-folder holds pictures, but those of other splits.

    Raises:
        UserError: if it may be either.
    """
    left: Counter[str] = Counter()
    split = next((folder / name for name in TRAINING if (folder / name).is_dir()), None)
    if split is None:
        return folder, left
    beside, inside = list(entries(folder, Counter())), list(entries(split, Counter()))
    names = sorted(e.name for e in beside if e.is_dir() and e.name != split.name)
    held_out = [name for name in names if name.lower() in HELD_OUT]
    others = [n for n in names if n not in held_out and any(walk(folder, n, Counter()))]
    if not others:
        left.update(f"folder {name}" for name in held_out)
        left["pictures beside it"] += sum(e.is_file() and is_picture(e.name) for e in beside)
        return split, +left
    if any(e.is_file() and is_picture(e.name) for e in inside):
        return folder, left  # as a class has them
    raise UserError(
        f"{split} is the training split, or a class beside {', '.join(others[:3])}: name the "
        "folder of classes itself, or rename one"
    )


def pictures_below(top: Path, name: str, left: Counter[str]) -> list[str]:
    """Return the pictures wherever below a sub-folder, relative to `top`, sorted."""
    return sorted(walk(top, name, left))


def walk(top: Path, name: str, left: Counter[str]) -> Iterator[str]:
    """Yield the pictures below a sub-folder, "" for all, in any order, each folder once.

    Raises:
        UserError: for a folder that cannot be read.
    """
    seen = {identity(top)} if name else set()  # a link to the top would lead to all other classes
    waiting = [name]
    while waiting:
        folder = waiting.pop()
        if (place := identity(top / folder)) in seen:
            left["links back to folders"] += 1
            continue
        seen.add(place)
        for entry in entries(top / folder, left):
            if entry.is_dir():
                waiting.append(os.path.join(folder, entry.name))  # noqa: PTH118
            elif taken(entry, left):
                yield os.path.join(folder, entry.name)  # noqa: PTH118


def identity(folder: Path) -> tuple[int, int]:
    """Return what is the same for all links to a folder."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def entries(folder: Path, left: Counter[str]) -> Iterator["os.DirEntry[str]"]:
    """Yield the files and folders in a folder that are not hidden; raises UserError."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if is_hidden(entry.name):
                    left["hidden"] += 1
                elif is_there(entry):
                    yield entry
                else:
                    left["links to nothing, or no files"] += 1
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or reason(error)}") from error


def is_there(entry: "os.DirEntry[str]") -> bool:
    """Tell whether an entry is, or links to, a file or a folder."""
    try:
        return entry.is_dir() or entry.is_file()
    except OSError:  # a link to itself
        return False


def taken(entry: "os.DirEntry[str]", left: Counter[str]) -> bool:
    """Tell whether a file is a picture by its name; others are counted by what they are."""
    if is_picture(entry.name):
        return True
    suffix = Path(entry.name).suffix.lower()
    left[suffix[:20] or "without a suffix"] += 1
    return False
