"""From weights to a model of our own DiT: sizes and process, read off whatever describes them.

The hosts' configs, the config.json files on the hub, and our own notes say the same in different
words.
"""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.description import check_process, sizes_of
from di4c_plugin.checkpoints.model import Model, fitting, network_config, role_of
from di4c_plugin.checkpoints.vocabulary import entry_of
from di4c_plugin.checkpoints.weights import OFFICIAL_LATENT, Weights
from di4c_plugin.errors import UserError
from di4c_plugin.networks import DiTConfig

# Duo's names for uniform-state diffusion, and the model_type of its hub repositories.
UNIFORM = ("duo", "duo_base", "distillation", "ot-finetune", "rectification")  # the last: ReDi's
# What predicts no clean tokens.
NO_TEACHER = {"ar": "an autoregressive model", "sedd": "SEDD (a score)", "score": "SEDD (a score)"}
EPS = 1e-3  # of the log-linear noise in all three hosts
# Tokens, width and blocks of the students that Di4C's authors released, which say nothing; and what
# their weights do not tell.
RELEASED = (50258, 768, 12)
OF_RELEASED = {"length": 1024, "n_heads": 12}


def model_of(weights: Weights) -> Model:
    """Return the teacher or student with these weights, in eval mode.

    Raises:
        UserError: if what describes them does not suffice, or they are no teacher.
    """
    info = {"origin": weights.origin, "fingerprint": weights.fingerprint}
    info |= {key: weights.notes[key] for key in ("teacher", "run") if key in weights.notes}
    process = process_of(weights)
    info |= weights.notes.get("info", {}) | entry_of(weights.vocabulary(process))
    return fitting(
        network_of(weights),
        process,
        weights.latent,
        weights.tensors,
        weights.origin,
        info=info,
        role=role_of({"role": weights.notes.get("role"), "latent": weights.latent}),
        sampling=dict(weights.notes.get("sampling") or {}),
    )


def network_of(weights: Weights) -> DiTConfig:
    """Return the sizes of the DiT.

    Raises:
        UserError: if neither the tensors nor their description tell one of them.
    """
    if "network" in weights.notes:
        return _described(weights)
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


def _described(weights: Weights) -> DiTConfig:
    network = network_config(weights.notes, weights.origin, weights=len(weights.tensors))
    if not isinstance(network, DiTConfig):
        raise UserError(f"{weights.origin} is no DiT")
    return network


def process_of(weights: Weights) -> dict[str, Any]:
    """Return the forward process as `build_process` takes it.

    Raises:
        UserError: for models that predict no clean tokens, and for noise that time-conditioned
            weights know and we do not.
    """
    if weights.process is not None:
        return weights.process
    _check_diffusion(weights)
    return check_process(_told(weights), weights.origin)


def _told(weights: Weights) -> dict[str, Any]:
    """Return the process that the config of a host tells; raises UserError."""
    config, (vocab, _) = weights.config, _embedding(weights)
    noise = _noise(weights)
    if is_uniform(config):
        # Duo's networks leave out what a token says of itself.
        return {"name": "uniform", "num_tokens": vocab, "leave_one_out": True} | noise
    mask = config.get("mask_index", vocab - 1)
    return {"name": "absorbing", "num_tokens": vocab, "mask": mask} | noise


def tells_process(weights: Weights) -> bool:
    """Whether the source says what it is for; else `process_of` takes it for masked diffusion."""
    return weights.process is not None or bool(weights.config.keys() - {"head_size"})


def is_uniform(config: Mapping[str, Any]) -> bool:
    """Whether a config is of uniform-state diffusion."""
    kind = str(config.get("model_type", "")).lower()
    return _section(config, "algo").get("name") in UNIFORM or kind.startswith("duo")


def _noise(weights: Weights) -> dict[str, Any]:
    """Return the schedule; any will do for a network that does not see the time."""
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
    """Refuse what is no diffusion model that predicts x_0; raises UserError."""
    config = weights.config
    asked = said(config, "parameterization", default="")
    asked = asked.get("name", "") if isinstance(asked, Mapping) else asked
    kind = NO_TEACHER.get(str(asked))
    if kind is None and "sigma_map.mlp.0.weight" not in weights.tensors:
        kind = NO_TEACHER["ar"]
    if kind is not None:
        raise UserError(f"{weights.origin} is {kind}: there is no student of it")


def _heads(weights: Weights, hidden: int) -> int:
    """Return the number of attention heads, which no weight has in its shape."""
    size = weights.config.get("head_size")
    return hidden // int(size) if size else _number(weights, "n_heads")


def _number(weights: Weights, *names: str) -> int:
    values = [said(weights.config, name) for name in names]
    found = next((value for value in values if isinstance(value, int)), None)
    if found is None and is_released(weights):
        announce_once(f"{weights.origin} is taken for a released student of Di4C: {OF_RELEASED}")
        found = OF_RELEASED[names[0]]
    if found is None:
        raise UserError(
            f"{weights.origin} does not say its {names[0]}: put a config.json beside the weights "
            '(as on the hub: {"model_length": ..., "n_heads": ...})'
        )
    return found


def is_released(weights: Weights) -> bool:
    """Whether a file without a description has the layout of the released students."""
    blocks = sum(name.endswith(".attn_qkv.weight") for name in weights.tensors)
    student = any(name.startswith(OFFICIAL_LATENT) for name in weights.tensors)
    return student and not weights.notes and (*_embedding(weights), blocks) == RELEASED


def said(config: Mapping[str, Any], name: str, *, default: Any = None) -> Any:
    """Return what a config says, at its top, or in the sections `model` and `algo`."""
    for place in (config, _section(config, "model"), _section(config, "algo")):
        if place.get(name) is not None:
            return place[name]
    return default


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}
