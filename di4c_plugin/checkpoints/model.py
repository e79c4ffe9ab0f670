"""A model: a denoiser with the values that rebuild it, and how it is written to a file.

Names and shapes of weights must match exactly.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from di4c_plugin.checkpoints.adapter import CONFIG, file_name, write_config
from di4c_plugin.checkpoints.description import FORMAT
from di4c_plugin.checkpoints.model_file import write_file
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.networks.denoiser import NetworkDenoiser
from di4c_plugin.networks.sharing import own_state
from di4c_plugin.networks.sizes import NetworkConfig

TEACHER, STUDENT = "teacher", "student"


@dataclass(frozen=True)
class Place:
    """Where the weights of a model, or of its base, were read from.

    Attributes:
        name: path, or hub id with the commit.
        typed: whether the user named it. What a file names is opened as data alone, and no code of
            it runs.
    """

    name: str
    typed: bool = True


@dataclass(frozen=True)
class Model:
    """A denoiser with the values that rebuild it.

    Attributes:
        denoiser: teacher (product model) or student (mixture).
        network: sizes of the network; their `kind` names its family.
        latent: name and options of the latent injector; None for a product model.
        info: free JSON values: how the model was made, from which teacher. Of a file they are text
            to be shown: no place in them is opened.
        role: "teacher", or "student" of a distillation, with or without a latent.
        sampling: how the method that made it samples, see `Algorithm.sampling`.
        adapter: options of an `Adapter` on a base that the network shares, with the base's path or
            id ("base", or None) and its "fingerprint"; None: a complete network.
        family: a `di4c_plugin.families.base.Family`, which built the network; None: that of its
            kind.
        place: where it was read from; None: unknown, or a model file of ours. Not saved.
    """

    denoiser: NetworkDenoiser
    network: NetworkConfig
    latent: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    role: str = TEACHER
    sampling: dict[str, Any] = field(default_factory=dict)
    family: Any = field(default=None, compare=False, repr=False)
    adapter: dict[str, Any] | None = None
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def process(self) -> Process:
        """The forward process the denoiser is for."""
        return self.denoiser.process

    @property
    def is_student(self) -> bool:
        """Whether the model was distilled."""
        return self.role == STUDENT

    def save(self, path: str | Path) -> None:
        """Write the model to `path`; see `save_model`."""
        save_model(self, path)


def save_model(model: Model, path: str | Path) -> None:
    """Write weights and description to `path` (safetensors), atomically.

    For an adapter, only its own weights are written, with an adapter_config.json for peft.
    """
    if model.adapter is not None:
        write_config(model.denoiser.network, model.adapter["base"], Path(path).with_name(CONFIG))
    write_file(path, describe(model), file_names(model))


def describe(model: Model) -> dict[str, Any]:
    """Return the plain values that, with the weights, rebuild the model."""
    return {
        "format": FORMAT,
        "kind": model.network.kind,
        "network": asdict(model.network),
        "process": model.process.config,
        "latent": model.latent,
        "role": model.role,
        "sampling": model.sampling,
        "info": model.info,
    } | ({} if model.adapter is None else {"adapter": model.adapter})


def bare_names(model: Model) -> dict[str, Tensor]:
    """Return the weights by the names of the network."""
    return model.denoiser.network.state_dict()


def file_names(model: Model) -> dict[str, Tensor]:
    """Return the weights by their names in files; of an adapter its own alone, by peft's names."""
    if model.adapter is not None:
        state = own_state(model.denoiser.network)
        return {file_name(name): value for name, value in state.items()}
    return bare_names(model)


def role_of(description: Mapping[str, Any]) -> str:
    """Return the role in a description; in files without a role, students have a latent.

    Raises:
        UserError: for an unknown role.
    """
    role = description.get("role") or (STUDENT if description.get("latent") else TEACHER)
    if role not in (TEACHER, STUDENT):
        raise UserError(f"the role of the model is {quoted(role)}: there are teacher, student")
    return str(role)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load weights whose names and shapes must all match; raises UserError as `check_weights`."""
    check_weights(module, weights, origin)
    module.load_state_dict(weights)


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are not those of a network, which may be an outline on "meta".

    Raises:
        UserError: naming up to three mismatches of names, shapes and types, or non-finite weights.
    """
    expected = module.state_dict()
    problems = [f"missing {k}" for k in expected if k not in weights]
    problems += [f"unexpected {k}" for k in weights if k not in expected]
    problems += [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(expected[k].shape)}"
        for k in expected
        if k in weights and weights[k].shape != expected[k].shape
    ]
    problems += [
        f"{k} has numbers of {weights[k].dtype}"
        for k in expected
        if k in weights and weights[k].is_floating_point() != expected[k].is_floating_point()
    ]
    problems += [
        f"{k} has numbers that are not finite"
        for k, _ in module.named_parameters()
        if k in weights and not weights[k].isfinite().all()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"the weights of {origin} do not fit this architecture: {', '.join(problems[:3])}{more}"
        )


def with_info(model: Model, **info: Any) -> Model:
    """Return the model with entries added to its info."""
    return replace(model, info=model.info | info)
