"""A model: a denoiser and what rebuilds it; made anew, from a teacher, or from a model file.

Names and shapes of weights must match exactly.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.description import MOST, sizes_of
from di4c_plugin.checkpoints.model_file import FORMAT, read_file, write_file
from di4c_plugin.diffusion import Absorbing, Process, Uniform, build_process
from di4c_plugin.errors import UserError, quoted, refusing
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.denoiser import NetworkDenoiser
from di4c_plugin.networks.dit import DiT, DiTConfig
from di4c_plugin.networks.latent import LatentInjector, new_injector, same_options
from di4c_plugin.networks.sizes import NetworkConfig
from di4c_plugin.networks.transformer import Transformer, TransformerConfig

TEACHER, STUDENT = "teacher", "student"
# The networks of this package.
OwnConfig = TransformerConfig | DiTConfig
KINDS: dict[str, type[OwnConfig]] = {"transformer": TransformerConfig, "dit": DiTConfig}


@dataclass(frozen=True)
class Model:
    """A denoiser, and what rebuilds it.

    Attributes:
        denoiser: teacher (product model) or student (mixture).
        network: sizes of the network; their `kind` says which one it is.
        latent: name and options of the latent injector; None for a product model.
        info: free JSON values: what made the model, from which teacher.
        role: "teacher", or "student" of a distillation, with or without a latent.
        sampling: how the method that made it samples, see `Algorithm.sampling`.
    """

    denoiser: NetworkDenoiser
    network: NetworkConfig
    latent: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    role: str = TEACHER
    sampling: dict[str, Any] = field(default_factory=dict)

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


def new_model(
    network: OwnConfig,
    process: Process,
    latent: dict[str, Any] | None = None,
    *,
    info: dict[str, Any] | None = None,
    role: str | None = None,
) -> Model:
    """Make a model with random weights.

    `latent` is {"name": ..., "blocks": ..., **options of that injector}. Without a role it is a
    student if it has a latent. Raises UserError as `new_injector`.
    """
    role = role_of({"role": role, "latent": latent})
    injector = None if latent is None else new_injector(network, latent)
    denoiser = NetworkDenoiser(make_network(network, process, injector), process)
    return Model(denoiser, network, latent, info or {}, role)


def make_network(config: OwnConfig, process: Process, injector: LatentInjector | None) -> nn.Module:
    """Return a network with random weights and, where given, a latent.

    Raises:
        UserError: for a DiT of a process that has neither mask nor uniform noise.
    """
    if isinstance(config, TransformerConfig):
        return Transformer(config, injector)
    if not isinstance(process, Absorbing | Uniform):
        raise UserError(f"a DiT is for absorbing and uniform diffusion, not {process.config}")
    network = DiT(config, process.schedule)
    if injector is not None:
        attach_latent(network, injector, mask=getattr(process, "mask", None))
    return network


def student_of(teacher: Model, latent: dict[str, Any] | None) -> Model:
    """Make a student that starts from the teacher's weights; without a latent a product model.

    If the teacher is itself a student with the same latent (Di4C twice over), its injector carries
    over too; otherwise the injector starts as its class says.

    Raises:
        UserError: as `new_model`, and for networks of a host.
    """
    network = own_config(teacher)
    student = new_model(network, teacher.process, latent, role=STUDENT)
    weights = teacher.denoiser.state_dict()
    if not same_options(teacher.latent, latent):
        body, own = latent_names(teacher.denoiser), latent_names(student.denoiser)
        weights = {k: v for k, v in weights.items() if k not in body}
        weights |= {k: v for k, v in student.denoiser.state_dict().items() if k in own}
    load_weights(student.denoiser, weights, "the teacher")
    return student


def own_config(model: Model) -> OwnConfig:
    """Return the sizes of a network of this package; raises UserError for one of a host."""
    if isinstance(model.network, TransformerConfig | DiTConfig):
        return model.network
    kind = model.network.kind
    raise UserError(f"this is a network of host {kind!r}: use host={kind}")


def latent_names(denoiser: NetworkDenoiser) -> set[str]:
    """Return the names of the weights in a denoiser that are its injector's."""
    network = denoiser.network
    if isinstance(network, DiT):
        injectors = getattr(network, "di4c_injector", ())
        return {f"network.{name}" for injector in injectors for name in injector.state_dict()}
    return {name for name in denoiser.state_dict() if name.startswith("network.latent.")}


def save_model(model: Model, path: str | Path) -> None:
    """Write weights and description to `path` (safetensors), atomically."""
    write_file(path, describe(model), bare_names(model))


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
    }


def bare_names(model: Model) -> dict[str, Tensor]:
    """Return the weights as a file names them: those of a host's network as it does."""
    weights = model.denoiser.state_dict()
    if isinstance(model.network, TransformerConfig):
        return weights
    return {name.removeprefix("network."): value for name, value in weights.items()}


def load_model(path: str | Path) -> Model:
    """Read what `save_model` wrote; the denoiser is in eval mode, on the CPU.

    Raises:
        UserError: if the file is missing, damaged, not one of ours, of a newer format, or its
            weights do not fit its description; the message names the first keys that do not.
    """
    description, weights = read_file(Path(path))
    network = network_config(description, str(path), weights=len(weights))
    if all(
        name.startswith("network.") for name in weights
    ):  # of a network of ours, by `bare_names`
        weights = {name.removeprefix("network."): value for name, value in weights.items()}
    return fitting(
        network,
        description["process"],
        description["latent"],
        weights,
        str(path),
        info=description["info"],
        role=role_of(description),
        sampling=dict(description.get("sampling") or {}),
    )


def network_config(
    description: Mapping[str, Any], origin: str, *, weights: int = MOST
) -> OwnConfig:
    """Return the sizes in a description, {"kind": ..., "network": {...}}; see `sizes_of`.

    Raises:
        UserError: if they are no such sizes.
    """
    network = dict(description["network"])
    kind = description.get("kind", network.pop("kind", "transformer"))
    if kind not in KINDS:
        raise UserError(f"{origin} has an unknown kind of network, {quoted(kind)}")
    return sizes_of(KINDS[kind], network, origin, weights=weights)


def fitting(
    network: OwnConfig,
    process: dict[str, Any],
    latent: dict[str, Any] | None,
    weights: Mapping[str, Tensor],
    origin: str,
    *,
    info: dict[str, Any],
    role: str,
    sampling: dict[str, Any],
) -> Model:
    """Return the model of a file, in eval mode, made only if the weights are those of its sizes.

    Args:
        network: sizes.
        process: its config.
        latent: as `new_model`.
        weights: by the names of the network.
        origin: for messages.
        info: see `Model`.
        role: see `Model`.
        sampling: see `Model`.

    Raises:
        UserError: if something of these does not go with the rest.
    """
    with refusing(f"the model in {origin} cannot be made"), naming(origin):
        built = build_process(process)
        check_states(network, built)
        with torch.device("meta"):  # of shapes alone: sizes out of a file take no memory here
            injector = None if latent is None else new_injector(network, latent)
            outline = make_network(network, built, injector)
    check_weights(outline, weights, origin)
    model = new_model(network, built, latent, info=info, role=role)
    model = replace(model, sampling=sampling)
    load_weights(model.denoiser.network, weights, origin)
    model.denoiser.eval()
    return model


@contextmanager
def naming(origin: str) -> Iterator[None]:
    """Say which file it is that a UserError of its model is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the model in {origin} cannot be made: {error}") from error


def role_of(description: Mapping[str, Any]) -> str:
    """Return the role in a description; before it stood there, students were those with a latent.

    Raises:
        UserError: for an unknown one.
    """
    role = description.get("role") or (STUDENT if description.get("latent") else TEACHER)
    if role not in (TEACHER, STUDENT):
        raise UserError(f"the role of the model is {quoted(role)}: there are teacher, student")
    return str(role)


def check_states(network: OwnConfig, process: Process) -> None:
    """Refuse a process on other states than the network's; raises UserError."""
    tokens, states = process.num_tokens, process.num_states
    if isinstance(network, TransformerConfig):
        fits = (tokens, states) == (network.num_tokens, network.num_states)
        fits = fits and network.mask in (None, getattr(process, "mask", None))
        known = f"{network.num_tokens} tokens, {network.num_states} states"
    else:
        fits = tokens <= states == network.vocab_size
        known = f"{network.vocab_size} states"
        schedule: Any = getattr(process, "schedule", None)
        end = torch.ones(1, dtype=torch.float64)
        if network.time_conditioning and schedule and not schedule.alpha(end) > 0:
            raise UserError("the network knows the time, whose logarithm of alpha is infinite at 1")
    if not fits:
        raise UserError(f"the network has {known}, and the process {tokens} and {states}")


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load weights whose names and shapes must all match; raises UserError as `check_weights`."""
    check_weights(module, weights, origin)
    module.load_state_dict(weights)


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are not those of a network, which may be an outline on "meta".

    Raises:
        UserError: naming up to three mismatches of names, shapes and types, and what is not finite.
    """
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in weights]
    problems += [f"unexpected {k}" for k in weights if k not in own]
    problems += [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems += [
        f"{k} has numbers of {weights[k].dtype}"
        for k in own
        if k in weights and weights[k].is_floating_point() != own[k].is_floating_point()
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
