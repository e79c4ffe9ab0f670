"""Shards networks over the processes of a run by FSDP2, so that none of them holds a whole one.

Each block of a network is a group of its own: gathered for its forward pass, and once more for its
backward pass. The rest (embedding, head, latent) is another, gathered from the first pass of a
micro-step to the end of its backward pass, because losses take the head outside of passes.
"""

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.families import family_named
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import Head

if TYPE_CHECKING:  # not every torch is built with it
    from torch.distributed.device_mesh import DeviceMesh


def block_names(model: Model) -> tuple[str, ...]:
    """Return the names, in the model's denoiser, of the blocks that are sharded one by one.

    Raises:
        UserError: where its family knows none.
    """
    network = model.denoiser.network
    family = model.family or family_named(model.network.kind, "the model")
    blocks = set(family.blocks(network, model.network))
    if not blocks:
        raise UserError(
            f"training.strategy=fsdp shards networks by their blocks, and {family.title} has none "
            "that we know"
        )
    return tuple(name for name, module in model.denoiser.named_modules() if module in blocks)


def outline(denoiser: NetworkDenoiser) -> NetworkDenoiser:
    """Return a copy whose parameters take no memory; buffers, hooks and ties are copied."""
    return copy.deepcopy(denoiser, {id(p): _empty(p) for p in denoiser.parameters()})


def shard(
    denoiser: NetworkDenoiser,
    like: NetworkDenoiser,
    blocks: Iterable[str],
    mesh: "DeviceMesh",
    *,
    bf16: bool = False,
) -> None:
    """Shard an `outline` in place, with the weights that `like` has on the first process.

    A device never holds more than its shards and one block, or the rest, as a whole.

    Args:
        denoiser: whose parameters are on "meta".
        like: what it is an outline of.
        blocks: from `block_names`.
        mesh: of one dimension.
        bf16: whether blocks are gathered in bf16, for passes under autocast; gradients are added up
            in fp32, and embedding, head and latent stay as they are.
    """
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    fill = _Filler(denoiser, like, mesh)
    lower = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = lower if bf16 else MixedPrecisionPolicy()
    for name in blocks:
        block = denoiser.get_submodule(name)
        fill(block)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fill(denoiser)
    fully_shard(denoiser, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(denoiser, "hidden")


def settle(modules: Iterable[nn.Module]) -> None:
    """Let go of what the passes of a micro-step have gathered.

    Networks without a backward pass would keep it, and their parameters would not be those that
    optimiser and averages know. Exact copies of heads are of what was gathered.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in modules:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
            if isinstance(part, Head):
                part.forget()


def gathered(denoiser: NetworkDenoiser, like: NetworkDenoiser) -> NetworkDenoiser:
    """Return a sharded denoiser as a whole one on the CPU, in eval mode; all processes call it.

    Args:
        denoiser: from `shard`.
        like: what it was an outline of.
    """
    known = dict(denoiser.named_parameters())
    memo = {
        id(p): nn.Parameter(_whole(known[name].detach()).cpu(), p.requires_grad)
        for name, p in like.named_parameters()
    }
    found = copy.deepcopy(like, memo).eval()
    buffers = dict(denoiser.named_buffers())
    for name, buffer in found.named_buffers():
        buffer.copy_(buffers[name])
    return found


class _Filler:
    """Puts the first process's weights in the place of empty parameters, each once."""

    def __init__(self, empty: nn.Module, like: nn.Module, mesh: "DeviceMesh") -> None:
        source = dict(like.named_parameters())
        # The empty ones are kept, so that no other takes the id of one.
        self.empty = {id(p): (p, source[name]) for name, p in empty.named_parameters()}
        self.made: dict[int, nn.Parameter] = {}
        self.device = torch.device(mesh.device_type)
        self.group = mesh.get_group()

    def __call__(self, module: nn.Module) -> None:
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and id(parameter) in self.empty:
                    part._parameters[name] = self._full(parameter)

    def _full(self, empty: nn.Parameter) -> nn.Parameter:
        if id(empty) not in self.made:
            whole = self.empty[id(empty)][1].detach().to(self.device, copy=True).contiguous()
            torch.distributed.broadcast(whole, group_src=0, group=self.group)
            self.made[id(empty)] = nn.Parameter(whole, empty.requires_grad)
        return self.made[id(empty)]


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


def _whole(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full
