"""Features of clean sequences: the output of a block of a frozen network."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.families.registry import families
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.doors import find_modules
from di4c_plugin.samplers.base import inference


class _Stop(Exception):
    """Ends a pass at the block whose output is asked for."""


def block_of(network: nn.Module, index: int | None = None, names: str | None = None) -> nn.Module:
    """Return a block of a network.

    Args:
        network: of a known family, or any.
        index: of it, from 0; None: a quarter of the way up, but not the first, which sees single
            tokens only.
        names: of its blocks, such as "model.layers.*"; None: those that its family knows.

    Raises:
        UserError: for an unknown name or index, and where no family knows the blocks.
    """
    blocks = _blocks(network) if names is None else tuple(find_modules(network, "blocks", [names]))
    kind = type(network).__name__
    if not blocks:
        raise UserError(f"no family knows the blocks of {kind}: say algo.blocks=NAME.*")
    if index is None:
        return blocks[min(max(1, len(blocks) // 4), len(blocks) - 1)]
    if not 0 <= index < len(blocks):
        raise UserError(f"block must be 0 ... {len(blocks) - 1} of {kind}, not {index}")
    return blocks[index]


def features_of(denoiser: Denoiser, block: nn.Module, x: Tensor, cond: Tensor | None) -> Tensor:
    """Return the block's output for clean tokens x (B, D) at t = 0, (B, D, H), fp32 or better.

    The pass ends there. It has no gradient and no dropout.

    Raises:
        UserError: if the block's output is not one vector for each position.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        raise _Stop

    hook = block.register_forward_hook(keep)
    try:
        with inference(denoiser):
            denoiser(x, torch.zeros(len(x), dtype=torch.float64, device=x.device), cond=cond)
    except _Stop:
        pass
    finally:
        hook.remove()
    if not outputs or outputs[0].ndim != 3 or outputs[0].shape[1] < x.shape[1]:
        problem = "is not called" if not outputs else f"gives {tuple(outputs[0].shape)}"
        raise UserError(
            f"the block {type(block).__name__} {problem}: features are a vector for each of "
            f"{x.shape[1]} positions"
        )
    h = outputs[0][:, : x.shape[1]]  # positions come first
    return h if h.dtype == torch.float64 else h.float()


def _blocks(network: nn.Module) -> tuple[nn.Module, ...]:
    """Return the blocks by the first family whose names for them are those of this network."""
    for family in families().values():
        with suppress(UserError):
            if blocks := family.blocks(network, None):
                return blocks
    return ()
