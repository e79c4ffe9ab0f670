"""Files as the three hosts write them, around random weights of a small DiT."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.networks.dit_reference import random_state

VOCAB, LENGTH, HIDDEN, COND, BLOCKS, HEADS = 7, 6, 24, 5, 2, 3
SIZES = {"hidden_size": HIDDEN, "cond_dim": COND, "n_blocks": BLOCKS, "n_heads": HEADS}
MODEL = SIZES | {"length": LENGTH, "dropout": 0.1, "scale_by_sigma": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "mdlm": {
        "parameterization": "subs",
        "backbone": "dit",
        "time_conditioning": False,
        "model": MODEL,
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "loader": {"batch_size": "${div_up:${.global_batch_size}, 2}"},
    },
    "sdtt": {
        "parameterization": {"name": "multi-round-sdtt"},
        "time_conditioning": False,
        "model": MODEL | {"type": "ddit-orig"},
        "noise": {"type": "loglinear"},
    },
    "duo": {
        "algo": {"name": "duo_base", "parameterization": "mean", "time_conditioning": True},
        "model": MODEL,
        "noise": {"type": "log-linear", "eps": 1e-3},
    },
}
HUB_CONFIG = {
    "model_type": "mdlm",
    "vocab_size": VOCAB,
    "model_length": LENGTH,
    "hidden_dim": HIDDEN,
    "cond_dim": COND,
    "n_blocks": BLOCKS,
    "n_heads": HEADS,
    "time_conditioning": False,
}


def state(*, latent: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights by their bare names."""
    return random_state(VOCAB, HIDDEN, COND, BLOCKS, latent=latent, seed=seed)


def in_module(weights: dict[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
    """Return the state dict of a host's module: with the rotary buffer where a DIT has it."""
    names = list(weights)
    first_block = next(i for i, name in enumerate(names) if name.startswith("blocks"))
    names.insert(first_block, "rotary_emb.inv_freq")
    buffer = 10_000 ** -torch.arange(0, 1, 2 * HEADS / HIDDEN)
    return {prefix + name: weights.get(name, buffer) for name in names}


def tokenizer(mask: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of six words or, with `mask`, of six and a mask in their midst."""
    words = {word: i for i, word in enumerate(["a", "b", "[MASK]", "c", "d", "e"])}
    special = {"mask_token": "[MASK]"} if mask else {}
    words = words if mask else words | {"[MASK]": 5, "e": 2}
    made = Tokenizer(WordLevel(words, unk_token="a"))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made, unk_token="a", **special
    )


def lightning(
    path: Path,
    host: str,
    weights: dict[str, Tensor],
    averages: list[Tensor] | None = None,
    *,
    mask: bool = False,
    prefix: str = "backbone.",
    **more: Any,
) -> Path:
    """Write a Lightning checkpoint as the host's own trainer does."""
    extra = {"noise.sigma_max": torch.tensor(3.0)} if host == "mdlm" else {}
    content: dict[str, Any] = {
        "epoch": 0,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": in_module(weights, prefix),
        "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 0}}}},
        "hyper_parameters": {
            "config": OmegaConf.create(CONFIGS[host]),
            "tokenizer": tokenizer(mask),
        },
    }
    if averages is not None:
        content["ema"] = {"decay": 0.9, "num_updates": 3, "shadow_params": averages}
    content["state_dict"] |= extra if more.pop("noise", False) else {}
    torch.save(content | more, path)
    return path
