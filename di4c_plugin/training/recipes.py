"""Recipes: defaults of a method on a host, configs/recipe/HOST/METHOD.yaml.

    # @package _global_
    algo: {delta: 0.05}             # options of the method, over its class's defaults
    training: {steps: 2000}         # options of the training, likewise
    recipe: {latent: {name: token}} # the latent if the user names none; default: the host's

`di4c train` composes them with Hydra, where they rank below experiments and the command line; the
Python API reads the same files here. Below them is `HOST/training.yaml`, for all methods; a host's
own program, which has a training of its own, leaves it out. Plugins ship theirs under their own
config paths.
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
from di4c_plugin.values import shown

ROOT = "/recipe/"
ALL = "training"  # the file of a host that is for all methods
SECTIONS = ("algo", "training", "recipe")
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Recipe:
    """The options of a recipe; the caller's options take precedence.

    Attributes:
        algo: options of the method.
        latent: name and options of the latent if the caller names none; None: the host's.
        training: options of `TrainingConfig`.
    """

    algo: Mapping[str, Any] = field(default_factory=dict)
    latent: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def algo_with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the method's options, overridden by the caller's."""
        return merged(self.algo, options)

    def latent_with(self, options: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return the latent, overridden by the caller's options, or replaced if they name one."""
        if options is not None and (self.latent is None or "name" in options):
            return dict(options)
        return None if self.latent is None else dict(self.latent) | dict(options or {})


def recipe(host: str, algo: str) -> Recipe:
    """Return the recipe of a method on a host; an empty one if there are no files.

    Args:
        host: a registered name.
        algo: a registered name.

    Raises:
        UserError: for a file that cannot be read, or is not a recipe.
    """
    if not (NAME.fullmatch(host) and NAME.fullmatch(algo)):
        return Recipe()
    content = merged(_read(f"{host}/{ALL}") or {}, _read(f"{host}/{algo}") or {})
    section = content.get("recipe") or {}
    return Recipe(content.get("algo") or {}, section.get("latent"), content.get("training") or {})


def checked(options: Any, name: str) -> Mapping[str, Any]:
    """Return options by name, {} for None; raises UserError if they are no mapping."""
    if not isinstance(options, Mapping | None):
        raise UserError(f"{name} must be a mapping of options, not {shown(options)}")
    return options or {}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` updated by `above`, recursively where both have mappings."""
    values = dict(below)
    for key, value in above.items():
        old = values.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        values[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return values


def _read(name: str) -> dict[str, Any] | None:
    """Return the content of a recipe, merged with its defaults; None if there is no file."""
    path = next((f for folder in _folders() if (f := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        return None
    try:
        config = OmegaConf.create(path.read_text())
        content: Any = OmegaConf.to_container(config, resolve=True)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no recipe: it holds no options")
    defaults = content.pop("defaults", [])
    if not isinstance(defaults, list):
        raise UserError(f"{path}: defaults must be a list, not {shown(defaults)}")
    unknown = [str(key) for key in content if key not in SECTIONS]
    sections = {key: checked(content.get(key), f"{path}: {key}") for key in SECTIONS}
    unknown += [f"recipe.{key}" for key in sections["recipe"] if key != "latent"]
    if unknown:
        raise UserError(f"{path}: a recipe has algo, training and recipe.latent, not {unknown[0]}")
    checked(sections["recipe"].get("latent"), f"{path}: recipe.latent")
    values: dict[str, Any] = {}
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if entry == "_self_":
            part: dict[str, Any] | None = content
        elif isinstance(entry, str) and entry.startswith(ROOT):
            part = _read(entry.removeprefix(ROOT))
        else:
            raise UserError(f"{path}: its defaults may name recipes, {ROOT}HOST/METHOD: {entry}")
        if part is None:
            raise UserError(f"{path}: there is no recipe {entry}")
        values = merged(values, part)
    return values


def _folders() -> Iterator[Any]:
    """Yield the recipe folders in the order of Hydra's search path: ours, then the plugins'."""
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
