"""Shards networks over the processes of a run with FSDP2, so that no process holds a whole network.

Each block of a network is one group: gathered for its forward pass, and again for its backward
pass. The rest (embedding, head, latent) is another group, gathered from the first forward pass of a
micro-step to the end of its backward pass, because losses use the head outside of forward passes.
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
    """Return the names, in the model's denoiser, of the blocks that are sharded separately.

    Raises:
        UserError: if its family declares none.
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
    """Return a copy with parameters on "meta"; buffers, hooks and ties are copied."""
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

    A device holds at most its shards and one unsharded group.

    Args:
        denoiser: with parameters on "meta".
        like: the denoiser that it is an outline of.
        blocks: from `block_names`.
        mesh: of one dimension.
        bf16: whether blocks are gathered in bf16, for passes under autocast. Gradients are reduced
            in fp32; embedding, head and latent stay in fp32.
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
    """Free the parameters that a micro-step has gathered.

    Networks without a backward pass would keep them, in place of the shards that optimiser and
    averages hold. Exact copies of heads refer to gathered parameters, and are dropped too.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in modules:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
            if isinstance(part, Head):
                part.forget()


def gathered(denoiser: NetworkDenoiser, like: NetworkDenoiser) -> NetworkDenoiser:
    """Return the unsharded copy of a denoiser, on the CPU, in eval mode; a collective call.

    Args:
        denoiser: from `shard`.
        like: the denoiser that it was an outline of.
    """
    parameters = dict(denoiser.named_parameters())
    memo = {
        id(p): nn.Parameter(_unsharded(parameters[name].detach()).cpu(), p.requires_grad)
        for name, p in like.named_parameters()
    }
    network = copy.deepcopy(like, memo).eval()
    buffers = dict(denoiser.named_buffers())
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    return network


class _Filler:
    """Replaces empty parameters by the first process's weights; tied ones stay tied."""

    def __init__(self, empty: nn.Module, like: nn.Module, mesh: "DeviceMesh") -> None:
        source = dict(like.named_parameters())
        # The empty parameters are kept alive, so that their ids stay unique.
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
            weight = self.empty[id(empty)][1].detach().to(self.device, copy=True).contiguous()
            torch.distributed.broadcast(weight, group_src=0, group=self.group)
            self.made[id(empty)] = nn.Parameter(weight, empty.requires_grad)
        return self.made[id(empty)]


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


def _unsharded(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full
