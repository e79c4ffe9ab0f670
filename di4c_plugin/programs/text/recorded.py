"""The settings of a run in a text host, see `di4c_plugin.training.recorded`."""

from typing import Any

from omegaconf import OmegaConf

from di4c_plugin.training.recorded import as_text

# The parts of a host's config that determine an update.
PARTS = {"T", "data", "loader", "lr_scheduler", "model", "noise", "optim", "parameterization"}
PARTS |= {"seed", "time_conditioning", "trainer", "training"}


def settings_of(module: Any) -> dict[str, str]:
    """Return the settings of a run of a `TextStudent` by dotted name, as text; no paths."""
    config = OmegaConf.to_container(module.config, resolve=True)
    assert isinstance(config, dict)
    method = {"algo": module.plan.distillation.algo, "rounds": module.engine.rounds}
    return as_text({k: v for k, v in config.items() if k in PARTS} | method)
