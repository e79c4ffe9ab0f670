"""The settings of a run in a text host, see `di4c_plugin.training.recorded`."""

from typing import Any

from omegaconf import OmegaConf

from di4c_plugin.training.recorded import as_text

# In MDLM and its kin; see `TextNetworks.parts`.
PARTS = frozenset(
    {"T", "data", "loader", "lr_scheduler", "model", "noise", "optim", "parameterization"}
    | {"seed", "time_conditioning", "trainer", "training"}
)


def settings_of(module: Any) -> dict[str, str]:
    """Return the settings of a run of a `TextStudent` by dotted name, as text; no paths."""
    config: Any = OmegaConf.to_container(module.config, resolve=True)
    method = {"algo": module.plan.distillation.algo, "rounds": module.engine.rounds}
    return as_text({k: v for k, v in config.items() if k in module.parts} | method)
