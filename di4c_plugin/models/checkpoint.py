"""A model file: safetensors weights, and in their metadata the JSON that rebuilds the model.

Nothing is unpickled, keys must match exactly, and a file replaces an older one only when complete.
Tests: tests/models/test_checkpoint.py.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from di4c_plugin.diffusion import Process, build_process
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write
from di4c_plugin.models.denoiser import NetworkDenoiser
from di4c_plugin.models.latent import LATENTS, LatentInjector
from di4c_plugin.models.transformer import Transformer, TransformerConfig

FORMAT = 1
FindLatent = Callable[[str], type[LatentInjector]]


@dataclass(frozen=True)
class Model:
    """A denoiser, and what rebuilds it.

    Attributes:
        denoiser: teacher (product model) or student (mixture).
        network: sizes of the transformer.
        latent: name and options of the latent injector; None for a teacher.
        info: free JSON values: what made the model, from which teacher.
    """

    denoiser: NetworkDenoiser
    network: TransformerConfig
    latent: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        """The forward process the denoiser is for."""
        return self.denoiser.process

    @property
    def is_student(self) -> bool:
        """Whether the denoiser is a mixture over a latent."""
        return self.latent is not None

    def save(self, path: str | Path) -> None:
        """Write the model to `path`; see `save_model`."""
        save_model(self, path)


def builtin_latent(name: str) -> type[LatentInjector]:
    """Find a latent injector of this package by name.

    Raises:
        UserError: if there is none; the message lists those that exist.
    """
    if name not in LATENTS:
        raise UserError(f"unknown latent {name!r}; there are {', '.join(sorted(LATENTS))}")
    return LATENTS[name]


def new_model(
    network: TransformerConfig,
    process: Process,
    latent: dict[str, Any] | None = None,
    *,
    info: dict[str, Any] | None = None,
    find_latent: FindLatent = builtin_latent,
) -> Model:
    """Make a model with random weights.

    `latent` is {"name": ..., **options of that injector}. Raises UserError for an unknown latent or
    option.
    """
    injector = None if latent is None else new_injector(network, dict(latent), find_latent)
    denoiser = NetworkDenoiser(Transformer(network, injector), process)
    return Model(denoiser, network, latent, info or {})


def new_injector(
    network: TransformerConfig, options: dict[str, Any], find_latent: FindLatent
) -> LatentInjector:
    """Make the injector that `options` names; raises UserError as `new_model`."""
    name = options.pop("name", None)
    if name is None:
        raise UserError(f"a latent needs a name beside its options {options}")
    kind = find_latent(name)
    try:
        return kind(network, **options)
    except TypeError as error:
        raise UserError(f"latent {name!r} cannot be made: {error}") from error


def student_of(
    teacher: Model, latent: dict[str, Any], *, find_latent: FindLatent = builtin_latent
) -> Model:
    """Make a student that starts from the teacher's weights.

    If the teacher is itself a student with the same latent (Di4C twice over), its injector carries
    over too; otherwise the injector starts as its class says.
    """
    student = new_model(teacher.network, teacher.process, latent, find_latent=find_latent)
    weights = teacher.denoiser.state_dict()
    if teacher.latent != latent:
        weights = {k: v for k, v in weights.items() if not k.startswith("network.latent.")}
        fresh = student.denoiser.state_dict()
        weights |= {k: v for k, v in fresh.items() if k.startswith("network.latent.")}
    load_weights(student.denoiser, weights, "the teacher")
    return student


def save_model(model: Model, path: str | Path) -> None:
    """Write weights and description to `path` (safetensors), atomically."""
    description = {
        "format": FORMAT,
        "network": asdict(model.network),
        "process": model.process.config,
        "latent": model.latent,
        "info": model.info,
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in model.denoiser.state_dict().items()}
    with atomic_write(path) as temporary:
        # `save_file` would make a file that only its owner can read.
        temporary.write_bytes(save(weights, metadata={"di4c": json.dumps(description)}))


def load_model(path: str | Path, *, find_latent: FindLatent = builtin_latent) -> Model:
    """Read what `save_model` wrote; the denoiser is in eval mode, on the CPU.

    Raises:
        UserError: if the file is missing, damaged, not one of ours, of a newer format, or its
            weights do not fit its description; the message names the first keys that do not.
    """
    description, weights = read_file(Path(path))
    try:
        network = dict(description["network"])
        for pair in ("grid", "patch"):
            network[pair] = tuple(network[pair])
        model = new_model(
            TransformerConfig(**network),
            build_process(description["process"]),
            description["latent"],
            info=description["info"],
            find_latent=find_latent,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the description of the model in {path} is damaged: {error!r}") from error
    load_weights(model.denoiser, weights, str(path))
    model.denoiser.eval()
    return model


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the weights of a model file; errors as for `load_model`."""
    if not path.is_file():
        raise UserError(f"no such model file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    if "di4c" not in metadata:
        raise UserError(f"{path} was not written by di4c: it has no description of the model")
    try:
        description: dict[str, Any] = json.loads(metadata["di4c"])
        newer = description["format"] > FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the description of the model in {path} is damaged: {error!r}") from error
    if newer:
        raise UserError(f"{path} was written by a newer di4c_plugin; please upgrade")
    return description, weights


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load weights whose names and shapes must all match.

    Raises:
        UserError: naming up to three mismatches.
    """
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in weights]
    problems += [f"unexpected {k}" for k in weights if k not in own]
    problems += [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"the weights of {origin} do not fit this architecture: {', '.join(problems[:3])}{more}"
        )
    module.load_state_dict(weights)


def with_info(model: Model, **info: Any) -> Model:
    """Return the model with entries added to its info."""
    return replace(model, info=model.info | info)
