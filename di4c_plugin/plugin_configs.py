"""Configs of what is registered and has no YAML: its name, and the defaults of its signature.

Hydra finds them under the search path `SEARCH_PATH` (see `hydra_plugins.di4c`), behind all files.
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
    """A group of configs: the kind that is registered, and what a call is given beside options."""

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
# What a text host reads of every sampler, see configs/sampler.
OF_TEXT = {"steps": None, "prefix": None, "known": None}


def names(group: str) -> list[str]:
    """Return what is registered for a group of configs; raises UserError for a broken plugin."""
    return names_of(GROUPS[group].kind) if group in GROUPS else []


def config_of(group: str, name: str) -> dict[str, Any]:
    """Return the content of the file configs/GROUP/NAME.yaml that a plugin did not write.

    An option without a default, or with one that is no plain value, is null.
    """
    known = GROUPS[group]
    found = parameters(lookup(known.kind, name)) or {}
    options = {"name": name} | {
        key: parameter.default if isinstance(parameter.default, PLAIN) else None
        for key, parameter in list(found.items())[known.positional :]
        if parameter.kind in NAMEABLE and key not in known.given
    }
    if group == "algo":
        inside_a_host = {"optional /di4c_host@_global_": "default"}
        return {"defaults": ["_self_", inside_a_host]} | options
    if group == "sampler":
        return {"sampler": OF_MODELS | options | OF_TEXT, "hydra": CALLBACK}
    return options


def package_of(group: str) -> str | None:
    """Return where Hydra puts such a config: None is its group."""
    return "_global_" if group == "sampler" else None
