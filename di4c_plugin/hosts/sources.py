"""Teacher sources: what a user may write behind `teacher=`, and the latents a model file may name.

`scheme:rest` goes to the teacher source registered as `scheme`; anything else is the path of a
model file. Tests: tests/hosts/test_sources.py.
"""

from pathlib import Path

from di4c_plugin.errors import UserError
from di4c_plugin.models import Model, load_model
from di4c_plugin.models.latent import LatentInjector
from di4c_plugin.plugins import lookup


def load_source(source: str | Path) -> Model:
    """Return the model that `source` names: "builtin:digits", "file:PATH" or PATH.

    Raises:
        UserError: for an unknown scheme, or as the source itself says.
    """
    text = str(source)
    scheme, colon, rest = text.partition(":")
    if not colon or Path(text).exists():
        return load_file(text)
    model: Model = lookup("teacher source", scheme)(rest)
    return model


def load_file(path: str | Path) -> Model:
    """Return the model of a file written by `save_model`, its latent found among all plugins.

    Raises:
        UserError: as `load_model`.
    """
    return load_model(path, find_latent=find_latent)


def find_latent(name: str) -> type[LatentInjector]:
    """Find a latent injector among built-ins and plugins.

    Raises:
        UserError: for an unknown name, or if what a plugin registered is no injector.
    """
    found = lookup("latent", name)
    if not (isinstance(found, type) and issubclass(found, LatentInjector)):
        raise UserError(f"latent {name!r} is not a LatentInjector but {found!r}")
    return found
