"""Weights and config from tauLDR's runs: moving averages under the names of the U-Net."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.naming import bare
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError
from di4c_plugin.families.files import weights_of
from di4c_plugin.plain_files import read_yaml

AVERAGES = "ema_shadow_params"


def run_weights(content: Content, *, ema: bool = True) -> Weights:
    """Return the weights in a checkpoint of tauLDR or of the official Di4C, on the CPU.

    They have the U-Net's names (`input_conv.weight`), and are the moving averages where there are
    some; `config` is that of ../config/config_001.yaml, where the host writes it, or empty;
    `latent` is {"name": "unet"} for a student.

    Raises:
        UserError: if the averages do not fit, or the config cannot be read.
    """
    tensors = unet_tensors(content.state, content.origin, ema)
    weights = weights_of(tensors, content.origin, size=content.size)
    latent = {"name": "unet"} if "tlam_mix.weight" in weights.tensors else None
    return replace(weights, latent=latent, config=config_of_run(content.path))


def unet_tensors(state: Mapping[str, Any], origin: str, ema: bool) -> dict[str, Tensor]:
    """Return a model's tensors, or their averages, which a file lists in the order of its tensors.

    Raises:
        UserError: if the averages do not match the tensors.
    """
    tensors = {bare(str(k)): v for k, v in state.items() if isinstance(v, Tensor)}
    tensors = {name.removeprefix("net."): value for name, value in tensors.items()}
    # A method's own averages are not the host's, and are not averaged again.
    tensors = {k: v for k, v in tensors.items() if not k.startswith("di4c_averages.")}
    averages = list(state.get(AVERAGES) or ())
    if not ema or not averages:
        return of_student(tensors)
    shapes = [getattr(average, "shape", None) for average in averages]
    if shapes != [tensor.shape for tensor in tensors.values()]:
        raise UserError(
            f"{origin}: its {len(averages)} averages are not of its {len(tensors)} weights"
        )
    return of_student(dict(zip(tensors, averages, strict=True)))


def of_student(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the other networks that a method has trained beside the student."""
    return {name: value for name, value in tensors.items() if not name.startswith("di4c_")}


def config_of_run(path: Path) -> dict[str, Any]:
    """Return the config that the host wrote beside the folder of a checkpoint; {} if none.

    Raises:
        UserError: if it cannot be read.
    """
    file = path.resolve().parent.parent / "config" / "config_001.yaml"
    return read_config(file) if file.is_file() else {}


def read_config(file: Path) -> dict[str, Any]:
    """Return the host's config in a file; raises UserError if it cannot be read."""
    if not file.is_file():
        raise UserError(f"no such config: {file}")
    config = read_yaml(file)
    return config if isinstance(config, dict) else {}
