"""Recipes: what a method needs on the networks and data of a host, configs/recipe/HOST/METHOD.yaml.

    # @package _global_
    algo: {delta: 0.05}             # options of the method, in place of its class's defaults
    training: {steps: 2000}         # options of the training, likewise
    recipe: {latent: {name: token}} # the latent where the user names none; else it is the host's

`di4c train` composes them by Hydra, where they rank below experiments and the command line; Python
reads the same files here. Plugins ship theirs under their own config paths.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.plugins import get_manager

ROOT = "/recipe/"
SECTIONS = ("algo", "training", "recipe")
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Recipe:
    """The options of a recipe; a caller's go over them.

    Attributes:
        algo: options of the method.
        latent: name and options of the latent where the caller names none; None: the host's.
        training: options of `TrainingConfig`.
    """

    algo: Mapping[str, Any] = field(default_factory=dict)
    latent: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def algo_with(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return the method's options with the caller's over them."""
        return merged(self.algo, said)

    def latent_with(self, said: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return the latent with the caller's options over it; who names a latent gets just it."""
        if said is not None and (self.latent is None or "name" in said):
            return dict(said)
        return None if self.latent is None else dict(self.latent) | dict(said or {})


def recipe(host: str, algo: str) -> Recipe:
    """Return the recipe of a method on a host, an empty one where there is none.

    Args:
        host: a registered name.
        algo: a registered name.

    Raises:
        UserError: for a file that cannot be read, or holds something else than a recipe.
    """
    if not (NAME.fullmatch(host) and NAME.fullmatch(algo)):
        return Recipe()
    found = _read(f"{host}/{algo}") or {}
    own: Mapping[str, Any] = found.get("recipe") or {}
    return Recipe(found.get("algo") or {}, own.get("latent"), found.get("training") or {})


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `above` over `below`; mappings in both are merged likewise."""
    values = dict(below)
    for key, value in above.items():
        old = values.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        values[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return values


def _read(name: str) -> dict[str, Any] | None:
    """Return the content of a recipe with that of the recipes in its defaults; None without."""
    place = next((f for folder in _folders() if (f := folder / f"{name}.yaml").is_file()), None)
    if place is None:
        return None
    try:
        loaded = OmegaConf.create(place.read_text())
        content: Any = OmegaConf.to_container(loaded, resolve=True)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{place} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{place} is no recipe: it holds no options")
    defaults = content.pop("defaults", [])
    unknown = [str(key) for key in content if key not in SECTIONS]
    unknown += [f"recipe.{key}" for key in content.get("recipe") or {} if key != "latent"]
    if unknown:
        raise UserError(f"{place}: a recipe has algo, training and recipe.latent, not {unknown[0]}")
    values: dict[str, Any] = {}
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if entry == "_self_":
            part: dict[str, Any] | None = content
        elif isinstance(entry, str) and entry.startswith(ROOT):
            part = _read(entry.removeprefix(ROOT))
        else:
            raise UserError(f"{place}: its defaults may name recipes, {ROOT}HOST/METHOD: {entry}")
        if part is None:
            raise UserError(f"{place}: there is no recipe {entry}")
        values = merged(values, part)
    return values


def _folders() -> Iterator[Any]:
    """Yield the folders of recipes in the order of Hydra's search path: ours, then plugins'."""
    yield configs_dir() / "recipe"
    for path in get_manager().config_paths():
        scheme, colon, rest = path.partition("://")
        if not colon or scheme == "file":
            yield Path(rest or path) / "recipe"
        elif scheme == "pkg":
            try:
                package = importlib.import_module(rest.replace("/", "."))
            except ModuleNotFoundError:
                continue
            yield files(package) / "recipe"
