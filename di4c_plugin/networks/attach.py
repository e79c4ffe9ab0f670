"""Adds to an existing network a latent, and a head that can be skipped.

This takes hooks on its sub-modules: no class is edited or copied, and the weights of a student have
the names of the released ones (`latent_projection.0.weight` beside the teacher's).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.doors import Doors
from di4c_plugin.networks.hooks import LatentHooks
from di4c_plugin.networks.latent import LatentInjector


class Head(nn.Linear):
    """The last linear layer in fp32 or better, with the weights of the one it replaces.

    This holds under autocast, and for bf16 weights: logits in bf16 cost 0.3 to 0.5 nat on the joint
    log-probability of 512 tokens.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.skipped = False
        self._copy: list[tuple[Any, Tensor]] = []  # one, of all heads that share the weight

    def forward(self, h: Tensor) -> Tensor:
        """Return logits (B, D, S), or the hidden states h (B, D, H) themselves while skipped."""
        if self.skipped:
            return h
        weight, bias = self.exact()
        with torch.autocast(h.device.type, enabled=False):
            return nn.functional.linear(h.to(weight.dtype), weight, bias)

    def exact(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias in fp32 or better; a frozen weight is converted only once."""
        weight = whole(self.weight)
        bias = None if self.bias is None else whole(self.bias)
        if weight.dtype in (torch.float32, torch.float64):
            return weight, bias
        bias = None if bias is None else bias.float()
        if weight is not self.weight or (torch.is_grad_enabled() and weight.requires_grad):
            return weight.float(), bias
        state = self.weight.data_ptr(), self.weight._version, self.weight.device
        if not self._copy or self._copy[0][0] != state:
            self._copy[:] = [(state, self.weight.detach().float())]
        return self._copy[0][1], bias

    def forget(self) -> None:
        """Drop the copy: FSDP gathers a weight again, and a changed one may look unchanged."""
        self._copy.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Head":
        """Copy all but the fp32 weights, which are shared where the weights are."""
        copied = Head.__new__(Head)
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(
            {k: v for k, v in self.__dict__.items() if k != "_copy"}, memo
        )
        copied._copy = self._copy if copied.weight is self.weight else []
        return copied

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Make the network return its hidden states instead of logits."""
        self.skipped = True
        try:
            yield
        finally:
            self.skipped = False


def whole(weight: Tensor) -> Tensor:
    """Return the full weight, also of one that FSDP has sharded: then all processes must call this.

    The gradient is the mean over the processes, as in FSDP; without `grad_placements` a gathered
    tensor would silently take each process's gradient for the total.
    """
    sharded: Any = weight
    if not hasattr(sharded, "full_tensor"):
        return weight
    from torch.distributed.tensor import Partial

    full: Tensor = sharded.full_tensor(grad_placements=[Partial("avg")])
    return full


def local(weight: Tensor) -> Tensor:
    """Return this process's part of a weight that may be sharded."""
    sharded: Any = weight
    return sharded.to_local() if hasattr(sharded, "to_local") else weight


def attach_latent(
    network: nn.Module, injector: LatentInjector, doors: Doors, *, mask: int | None = None
) -> None:
    """Let a latent into `network`, in place; its forward pass then takes `latent=`.

    With n latents for each row of the other arguments (lambda-major), the logits have one row for
    each latent; a latent that enters late multiplies only the rows of its blocks. Without `latent=`
    one is drawn for each row.

    Args:
        network: its first argument is the tokens.
        injector: its parts become the network's own.
        doors: where it enters.
        mask: the token that means "unknown", or None where every position is always unknown.

    Raises:
        UserError: if the network has a latent already, the injector has weights outside its
            sub-modules, or enters late where no block can be hooked.
    """
    if injector.blocks is not None and not doors.blocks:
        raise UserError("a latent cannot enter the blocks of this network late: latent.blocks=null")
    own_injector(network, injector)
    LatentHooks(injector, mask, (len(doors.norms) - 1) // 2).register(network, doors)


def own_injector(network: nn.Module, injector: LatentInjector) -> None:
    """Make the parts of an injector the network's own, and record it for `latent_shape`.

    Raises:
        UserError: if the network has a latent already, or the injector has weights outside its
            sub-modules.
    """
    if latent_shape(network) is not None:
        raise UserError("this network has a latent already")
    if any(True for _ in injector.parameters(recurse=False)):
        raise UserError(f"{type(injector).__name__} must hold its weights in sub-modules")
    for name, part in injector.named_children():
        network.add_module(name, part)
    # In a tuple, so that the injector's parts are not registered twice.
    network.di4c_injector = (injector,)  # type: ignore[assignment]


def latent_shape(network: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one lambda of a network; None without a latent."""
    injectors = getattr(network, "di4c_injector", None)
    return None if injectors is None else injectors[0].latent_shape


def exact_head(network: nn.Module, name: str) -> Head:
    """Replace the linear layer of that name by an fp32 `Head`, and return it; see `head_of`.

    A second call returns the same head.
    """
    head = network.get_submodule(name)
    assert isinstance(head, nn.Linear)
    if not isinstance(head, Head):
        parent, _, leaf = name.rpartition(".")
        head = Head(head)
        setattr(network.get_submodule(parent), leaf, head)
    network.di4c_head = (head,)  # type: ignore[assignment]
    return head


def head_of(network: nn.Module) -> Head | None:
    """Return the head that `exact_head` made; None for networks without one."""
    heads = getattr(network, "di4c_head", None)
    return None if heads is None else heads[0]
