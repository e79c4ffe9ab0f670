"""The settings of a run, saved in its checkpoints and compared on resuming."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from di4c_plugin.announce import announce
from di4c_plugin.errors import UserError

# The parts of a host's config that determine an update.
PARTS = {"T", "data", "loader", "lr_scheduler", "model", "noise", "optim", "parameterization"}
PARTS |= {"seed", "time_conditioning", "trainer", "training"}
IDLE = {"num_workers", "persistent_workers", "pin_memory"}
SHOWN = 6


def settings_of(module: Any) -> dict[str, str]:
    """Return the settings of a run of a `TextStudent` by dotted name, as text; no paths."""
    config = OmegaConf.to_container(module.config, resolve=True)
    assert isinstance(config, dict)
    distillation = module.plan.distillation
    method = {"algo": distillation.algo, "rounds": module.engine.rounds}
    settings = leaves({k: v for k, v in config.items() if k in PARTS} | method)
    return {
        name: str(value)
        for name, value in settings
        if "/" not in str(value) and name.rpartition(".")[2] not in IDLE
    }


def compare(before: Mapping[str, str] | None, now: Mapping[str, str]) -> None:
    """Announce in one line the settings that differ in a resumed run.

    Args:
        before: the recorded settings; None for a checkpoint of an earlier version without them.
        now: from `settings_of`.

    Raises:
        UserError: if the method differs.
    """
    if before is None:
        return
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    changes = [f"{name} was {before.get(name)}, and is {now.get(name)} now" for name in names]
    if len(changes) > SHOWN:
        changes[SHOWN:] = [f"and {len(changes) - SHOWN} more"]
    method = [name for name in names if name.partition(".")[0] in ("algo", "rounds")]
    if method:
        raise UserError(
            f"the run to resume is of another method: {'; '.join(changes)}; a new folder and "
            "student=CHECKPOINT go on from its student"
        )
    if changes:
        announce(f"warning: resumed with other settings: {'; '.join(changes)}")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings and lists by dotted name."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value
