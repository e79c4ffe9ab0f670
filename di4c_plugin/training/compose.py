"""Composes the configs of `di4c train` with Hydra, and turns each of its errors into one line.

It uses `hydra.compose`, not `hydra.main`: Lightning starts the other processes of a distributed run
with the command line of the first, which must mean the same to all of them.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from di4c_plugin.errors import STRANGE, UserError, reason
from di4c_plugin.files import configs_dir, user_path
from di4c_plugin.options import parameters
from di4c_plugin.overrides import readable
from di4c_plugin.plugin_configs import SEARCH_PATH
from di4c_plugin.plugins import get_manager, lookup, names_of
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.folder import ADAPTER, STUDENT
from di4c_plugin.training.recipes import checked
from di4c_plugin.values import nearest, shown


@dataclass(frozen=True)
class RunConfig:
    """The parsed command line of `di4c train` or `di4c train-teacher`.

    Attributes:
        training: the options under `training`.
        out, resume, overwrite: as for `di4c_plugin.training.run.train`.
        info: all other keys of configs/train*.yaml, as plain values.
    """

    training: TrainingConfig
    out: Path
    resume: bool
    overwrite: bool
    info: dict[str, Any]

    @property
    def result(self) -> Path:
        """Where the student of `di4c train` goes."""
        return self.out / (STUDENT if self.training.adapter is None else ADAPTER)


def compose_run(name: str, overrides: Sequence[str]) -> RunConfig:
    """Return the run that configs/`name`.yaml and `overrides` describe.

    Raises:
        UserError: as `compose_config` and `training_config`, for `algo` or `latent` that is no
            mapping, and if `out` is missing.
    """
    info = compose_config(name, overrides)
    training = training_config(info.pop("training"))
    for key in ("algo", "latent"):
        checked(info.get(key), key)
    out, resume, overwrite = (info.pop(key) for key in ("out", "resume", "overwrite"))
    if out is None:
        raise UserError("name the folder of the run: out=FOLDER")
    for key in ("teacher", "student", "start"):
        if not isinstance(info.get(key), str | None):
            raise UserError(f"{key} must be text, not {shown(info[key])}")
    for key, value in {"resume": resume, "overwrite": overwrite}.items():
        if not isinstance(value, bool):
            raise UserError(f"{key} must be true or false, not {value!r}")
    return RunConfig(training, user_path(out), resume, overwrite, info)


def compose_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return configs/`name`.yaml with `overrides` (Hydra's grammar) as plain values.

    Groups and their options come from our configs and from those of plugins.

    Raises:
        UserError: for an override that cannot be parsed, an unknown key or an unknown option of a
            group; the message lists the valid ones.
    """
    # Hydra parses a JSON list of strings.
    path = f"hydra.searchpath={json.dumps([*get_manager().config_paths(), SEARCH_PATH])}"
    with initialize_config_dir(str(configs_dir()), version_base="1.3", job_name="di4c"):
        known = compose(name, [path]).keys()
        try:
            config = compose(name, [path, *readable(overrides, named_by_text())])
            values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        except (HydraException, OmegaConfBaseException, *STRANGE) as error:
            raise UserError(_explain(error)) from error
    if not any(override.lstrip("+~").startswith("recipe.") for override in overrides):
        # `distill` reads the recipe's latent itself, and uses it if the user named none.
        recipe = checked(values.pop("recipe", None), "recipe")
        checked(recipe.get("latent"), "recipe.latent")
        if recipe.keys() - {"latent"}:
            raise UserError("a recipe begins with the line # @package _global_")
    unknown = values.keys() - known
    if unknown:
        raise UserError(_unknown_keys(unknown, known, overrides))
    return values


def named_by_text() -> set[str]:
    """Return the keys whose values are always text, mostly file names."""
    keys = {"teacher", "student", "start", "out"}
    for host in names_of("host"):
        for name, parameter in (parameters(lookup("host", host)) or {}).items():
            keys |= {f"host.{name}"} if parameter.annotation in (str, str | None) else set()
    return keys


def training_config(options: Mapping[str, Any]) -> TrainingConfig:
    """Return the options under `training`.

    Raises:
        UserError: for an unknown option, and for a value of the wrong type or out of range.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"training must be a mapping of options, not {shown(options)}")
    known = [field.name for field in fields(TrainingConfig)]
    unknown = [str(name) for name in options if name not in known]
    if unknown:
        raise UserError(
            f"unknown option {_listed(unknown)} of training; there are {_listed(known)}"
            f"{nearest(unknown[0], known)}"
        )
    return TrainingConfig(**options)


def _unknown_keys(unknown: set[str], known: Iterable[object], overrides: Sequence[str]) -> str:
    """Return the message for unknown keys, from `overrides` or from a file that they choose."""
    typed = unknown & {re.split(r"[.=]", override.lstrip("+"))[0] for override in overrides}
    chosen = next((override for override in overrides if override.startswith("experiment=")), None)
    if typed or chosen is None:
        names = sorted(typed or unknown)
        near = nearest(names[0], known)
        return f"unknown option {_listed(map(repr, names))}; there are {_listed(known)}{near}"
    return (
        f"{chosen}: unknown here are {_listed(unknown)}; if it is for a text host's program: "
        f"di4c run PROGRAM +{chosen}"
    )


def _explain(error: Exception) -> str:
    if isinstance(error, MissingConfigException):
        return f"unknown {_group(error)}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        siblings = [str(key) for key in cause.parent_node if key != "hydra"]
        near = nearest(str(cause.full_key).rpartition(".")[2], siblings)
        return f"unknown option {cause.full_key!r}; there are {_listed(siblings)}{near}"
    return reason(error)


def _group(error: MissingConfigException) -> str:
    """Return "GROUP 'option'; there are …"."""
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = [str(name) for name in error.options or []]
    return f"{group} {option!r}; there are {_listed(options)}{nearest(option, options)}"


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
