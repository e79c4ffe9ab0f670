"""The families of networks that teachers come from; each registered host has one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Process
from di4c_plugin.families.base import Family
from di4c_plugin.families.registry import family_named, family_of

__all__ = ["Family", "family_named", "family_of", "load_model", "new_model", "student_of"]


def new_model(
    network: Any,
    process: Process,
    latent: Mapping[str, Any] | None = None,
    *,
    info: dict[str, Any] | None = None,
    role: str | None = None,
) -> Model:
    """Return a model with random weights, of the family whose sizes `network` are; `Family.new`."""
    family = family_named(network.kind, "this model")
    return family.new(network, process, latent, info=info, role=role)


def student_of(teacher: Model, latent: Mapping[str, Any] | None) -> Model:
    """Return a student that starts from the teacher's weights; see `Family.student_of`."""
    family = teacher.family or family_named(teacher.network.kind, "the teacher")
    student: Model = family.student_of(teacher, latent)
    return student


def load_model(path: str | Path) -> Model:
    """Return the model in a file; see `Family.load`.

    Raises:
        UserError: if the file is missing, damaged or of a newer format, if its network is unknown,
            or its weights do not fit.
    """
    content = read_content(Path(path))
    family = family_of(content)
    return family.load(family.read(content))
