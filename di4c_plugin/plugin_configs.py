"""Configs of registered names without a YAML file: the name and its signature's defaults.

Hydra finds them under the search path `SEARCH_PATH` (see `hydra_plugins.di4c`), after all files.
"""

from dataclasses import dataclass
from typing import Any

from di4c_plugin.options import NAMEABLE, parameters
from di4c_plugin.plugins import lookup, names_of
from di4c_plugin.values import PLAIN

SCHEME = "di4c"
SEARCH_PATH = f"{SCHEME}://registered"


@dataclass(frozen=True)
class Group:
    """A config group: the registered kind, and the arguments of a call that are not options."""

    kind: str
    positional: int = 0
    given: tuple[str, ...] = ()


GROUPS = {
    "algo": Group("algorithm", 1),
    "host": Group("host"),
    "latent": Group("latent", 1),
    "sampler": Group("sampler", 3, ("process", "generator", "cond", "callback")),
}
CALLBACK = {"callbacks": {"di4c": {"_target_": "di4c_plugin.programs.callback.Install"}}}
# Options of every sampler (`di4c_plugin.samplers.sampler.ModelOptions`).
OF_MODELS = {"latents": "fixed", "guidance": 0.0, "guidance_ramp": "linear"}
# Options that a text host reads for every sampler, see configs/sampler.
OF_TEXT = {"steps": None, "prefix": None, "known": None}


def names(group: str) -> list[str]:
    """Return the registered names of a config group; raises UserError for a broken plugin."""
    return names_of(GROUPS[group].kind) if group in GROUPS else []


def config_of(group: str, name: str) -> dict[str, Any]:
    """Return the config that configs/GROUP/NAME.yaml would hold.

    An option without a default, or with a default that is not a plain value, is null.
    """
    known = GROUPS[group]
    signature = parameters(lookup(known.kind, name)) or {}
    options = {"name": name} | {
        key: parameter.default if isinstance(parameter.default, PLAIN) else None
        for key, parameter in list(signature.items())[known.positional :]
        if parameter.kind in NAMEABLE and key not in known.given
    }
    if group == "algo":
        inside_a_host = {"optional /di4c_host@_global_": "default"}
        return {"defaults": ["_self_", inside_a_host]} | options
    if group == "sampler":
        return {"sampler": OF_MODELS | options | OF_TEXT, "hydra": CALLBACK}
    return options


def package_of(group: str) -> str | None:
    """Return the Hydra package of such a config; None: that of its group."""
    return "_global_" if group == "sampler" else None
