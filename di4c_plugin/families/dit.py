"""The DiT of MDLM, SDTT and Duo: sizes and process, from any description of them.

The hosts' configs, the config.json files on the hub, and our own notes use different names for the
same values.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.description import check_process, sizes_of
from di4c_plugin.checkpoints.weights import OFFICIAL, Weights, weights_in
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.networks import DiT, DiTConfig, NetworkDenoiser
from di4c_plugin.networks.attach import exact_head
from di4c_plugin.networks.dit import DOORS
from di4c_plugin.networks.latent import KnownSizes

# Duo's names for uniform-state diffusion, and the model_type of its hub repositories.
UNIFORM = ("duo", "duo_base", "distillation", "ot-finetune", "rectification")  # the last: ReDi's
# Models that predict no clean tokens.
NO_TEACHER = {"ar": "an autoregressive model", "sedd": "SEDD (a score)", "score": "SEDD (a score)"}
LATENT = "token"  # of new students, as the released ones
EPS = 1e-3  # of the log-linear noise in all three hosts
# Tokens, width and blocks of the students that Di4C's authors released without a description; and
# the sizes that their weights do not determine.
RELEASED = (50258, 768, 12)
OF_RELEASED = {"length": 1024, "n_heads": 12}


class DiTNetworks(Family[DiTConfig]):
    """See `Family`; from checkpoints of MDLM, SDTT and Duo."""

    name, made_of, names = "dit", DiTConfig, DOORS
    title, mark = "a DiT", "vocab_embed.embedding"

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`."""
        return weights_in(content, ema=ema)

    def sizes(self, weights: Weights, **options: Any) -> DiTConfig:
        """See `Family.sizes` and `network_of`."""
        return network_of(weights)

    def process(self, sizes: DiTConfig, weights: Weights | None = None) -> dict[str, Any]:
        """See `Family.process` and `process_of`."""
        if weights is not None:
            return process_of(weights)
        return {"name": "absorbing", "num_tokens": sizes.vocab_size, "mask": sizes.vocab_size - 1}

    def build(self, sizes: DiTConfig, process: Process) -> nn.Module:
        """See `Family.build`.

        Raises:
            UserError: for a process that is neither absorbing nor uniform, has other states, or
                has infinite noise where the network is conditioned on time.
        """
        if not isinstance(process, Absorbing | Uniform):
            raise UserError(f"a DiT is for absorbing and uniform diffusion, not {process.config}")
        if not process.num_tokens <= process.num_states == sizes.vocab_size:
            raise UserError(
                f"the network has {sizes.vocab_size} states, and the process "
                f"{process.num_tokens} and {process.num_states}"
            )
        end = torch.ones(1, dtype=torch.float64, device="cpu")
        if sizes.time_conditioning and not process.schedule.alpha(end) > 0:
            raise UserError("the network knows the time, whose logarithm of alpha is infinite at 1")
        return DiT(sizes, process.schedule)

    def wrap(self, network: nn.Module, sizes: DiTConfig, process: Process) -> NetworkDenoiser:
        """See `Family.wrap`."""
        exact_head(network, DOORS["head"])
        return NetworkDenoiser(network, process)


def backbone_sizes(
    network: nn.Module, positions: int, latent: Mapping[str, Any] | None = None
) -> KnownSizes:
    """Return the sizes that an injector needs of a DiT, ours or a host's; raises UserError."""
    doors = DiTNetworks().doors(network, latent)
    table = next(doors.embedding.parameters(), None)
    if table is None:
        raise UserError("latent.doors.embedding holds no table of embeddings")
    std = (3 * table.shape[-1]) ** -0.5  # uniform up to 1/sqrt(H)
    hidden = table.shape[-1]
    return KnownSizes(hidden, hidden, std, positions, positions, len(doors.norms))


def network_of(weights: Weights) -> DiTConfig:
    """Return the sizes of the DiT.

    Raises:
        UserError: if neither the tensors nor their description determine one of them.
    """
    _check_diffusion(weights)
    tensors, config = weights.tensors, weights.config
    vocab, hidden = _embedding(weights)
    sizes = {
        "vocab_size": vocab,
        "length": _number(weights, "length", "model_length"),
        "hidden_size": hidden,
        "cond_dim": len(tensors["sigma_map.mlp.0.weight"]),
        "n_blocks": sum(name.endswith(".attn_qkv.weight") for name in tensors),
        "n_heads": _heads(weights, hidden),
        "time_conditioning": said(config, "time_conditioning", default=is_uniform(config)),
    }
    return sizes_of(DiTConfig, sizes, weights.origin, weights=len(tensors))


def _embedding(weights: Weights) -> tuple[int, int]:
    """Return V and H; raises UserError."""
    shape = weights.tensors["vocab_embed.embedding"].shape
    if len(shape) != 2:
        raise UserError(f"{weights.origin}: embeddings of shape {tuple(shape)}")
    return shape[0], shape[1]


def process_of(weights: Weights) -> dict[str, Any]:
    """Return the forward process as `build_process` takes it.

    Raises:
        UserError: for models that predict no clean tokens, and for time-conditioned weights with
            an unknown noise schedule.
    """
    if weights.process is not None:
        return weights.process
    _check_diffusion(weights)
    return check_process(_config_process(weights), weights.origin)


def _config_process(weights: Weights) -> dict[str, Any]:
    """Return the process in the config of a host; raises UserError."""
    config, (vocab, _) = weights.config, _embedding(weights)
    noise = _noise(weights)
    if is_uniform(config):
        # Duo's networks exclude a token's evidence about itself.
        return {"name": "uniform", "num_tokens": vocab, "leave_one_out": True} | noise
    mask = config.get("mask_index", vocab - 1)
    return {"name": "absorbing", "num_tokens": vocab, "mask": mask} | noise


def tells_process(weights: Weights) -> bool:
    """Return whether the source says its process; without one, masked diffusion is assumed."""
    return weights.process is not None or bool(weights.config.keys() - {"head_size"})


def is_uniform(config: Mapping[str, Any]) -> bool:
    """Return whether a config is for uniform-state diffusion."""
    kind = str(config.get("model_type", "")).lower()
    return _section(config, "algo").get("name") in UNIFORM or kind.startswith("duo")


def _noise(weights: Weights) -> dict[str, Any]:
    """Return the schedule; for a network that does not see the time any will do."""
    config = weights.config
    noise = _section(config, "noise")
    kind, eps = str(noise.get("type", "loglinear")).replace("-", ""), noise.get("eps", EPS)
    if kind == "cosine" and _section(config, "algo"):
        return {"schedule": "duo_cosine", "eps": eps}
    if kind != "loglinear" and said(config, "time_conditioning", default=is_uniform(config)):
        raise UserError(
            f"{weights.origin} was trained with noise={kind} and knows the time: use a "
            "teacher with log-linear noise"
        )
    return {"schedule": "loglinear", "eps": eps if kind == "loglinear" else EPS}


def _check_diffusion(weights: Weights) -> None:
    """Refuse all but diffusion models that predict x_0; raises UserError."""
    config = weights.config
    value = said(config, "parameterization", default="")
    kind = NO_TEACHER.get(str(value.get("name", "") if isinstance(value, Mapping) else value))
    if kind is None and "sigma_map.mlp.0.weight" not in weights.tensors:
        kind = NO_TEACHER["ar"]
    if kind is not None:
        raise UserError(f"{weights.origin} is {kind}: there is no student of it")


def _heads(weights: Weights, hidden: int) -> int:
    """Return the number of attention heads, which no weight's shape contains."""
    size = weights.config.get("head_size")
    return hidden // int(size) if size else _number(weights, "n_heads")


def _number(weights: Weights, *names: str) -> int:
    values = [said(weights.config, name) for name in names]
    number = next((value for value in values if isinstance(value, int)), None)
    if number is None and is_released(weights):
        announce_once(f"{weights.origin} is taken for a released student of Di4C: {OF_RELEASED}")
        number = OF_RELEASED[names[0]]
    if number is None:
        raise UserError(
            f"{weights.origin} does not say its {names[0]}: put a config.json beside the weights "
            '(as on the hub: {"model_length": ..., "n_heads": ...})'
        )
    return number


def is_released(weights: Weights) -> bool:
    """Return whether a file without a description has the layout of the released students."""
    blocks = sum(name.endswith(".attn_qkv.weight") for name in weights.tensors)
    student = any(name.startswith(OFFICIAL) for name in weights.tensors)
    return student and not weights.notes and (*_embedding(weights), blocks) == RELEASED


def said(config: Mapping[str, Any], name: str, *, default: Any = None) -> Any:
    """Return a value of a config, from its top level or its sections `model` and `algo`."""
    for section in (config, _section(config, "model"), _section(config, "algo")):
        if section.get(name) is not None:
            return section[name]
    return default


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}
