"""The settings of a run in a host's program, saved in its checkpoints and compared on resuming."""

from collections.abc import Iterator, Mapping
from typing import Any

from di4c_plugin.announce import announce
from di4c_plugin.errors import UserError

METHOD = ("algo", "latent", "rounds")
IDLE = {"num_workers", "persistent_workers", "pin_memory"}
SHOWN = 6


def as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings by dotted name, as text; no paths, and nothing that moves no update.

    Args:
        settings: those of the method under the names in `METHOD`, beside parts of a host's config.
    """
    return {
        name: str(value)
        for name, value in leaves(settings)
        if "/" not in str(value) and name.rpartition(".")[2] not in IDLE
    }


def compare(
    before: Mapping[str, str] | None, now: Mapping[str, str], student: str = "student=CHECKPOINT"
) -> None:
    """Announce in one line the settings that differ in a resumed run.

    Args:
        before: the recorded settings; None for a checkpoint of an earlier version without them.
        now: from `as_text`.
        student: how a user of the program names the student to start from.

    Raises:
        UserError: if the method differs.
    """
    if before is None:
        return
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    names.sort(key=lambda name: name != "algo.name")  # another method has other options too
    changes = [f"{name} was {before.get(name)}, and is {now.get(name)} now" for name in names]
    if len(changes) > SHOWN:
        changes[SHOWN:] = [f"and {len(changes) - SHOWN} more"]
    if any(name.partition(".")[0] in METHOD for name in names):
        raise UserError(
            f"the run to resume is of another method: {'; '.join(changes)}; a new folder and "
            f"{student} go on from its student"
        )
    if changes:
        announce(f"warning: resumed with other settings: {'; '.join(changes)}")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings by dotted name; tuples as lists."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value
