"""Low-rank adapters (LoRA, 2106.09685) by peft, in the linear layers of a network's blocks."""

import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import nn

from di4c_plugin.errors import STRANGE, UserError, quoted, reason
from di4c_plugin.networks.attach import latent_shape
from di4c_plugin.networks.sharing import BASE, let_gradients_in, share
from di4c_plugin.options import fit_fields, fitted
from di4c_plugin.values import BelowOne, Range, Size

NAME = "default"  # of the adapter, for peft
MARK = "lora_"  # prefix of the names of its parameters
HALF = (torch.bfloat16, torch.float16)
EXPERTS = "experts"  # of a mixture: each would get its own adapter


@dataclass(frozen=True)
class Adapter:
    """W x becomes W x + (alpha / r) B A dropout(x), where W is frozen.

    Attributes:
        r: rank of A and B.
        alpha: see there.
        dropout: before A.
        targets: last parts of the names of linear layers in the blocks, such as "query"; None: all
            but those of experts.
    """

    r: Size = 16
    alpha: Annotated[float, Range(1e-3)] = 32.0
    dropout: BelowOne = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        fit_fields(self)

    @classmethod
    def of(cls, options: Any, what: str) -> "Adapter":
        """Return the adapter of plain options; raises UserError, which begins with `what`."""
        return cls(**fitted(cls, dict(options), what))

    @property
    def plain(self) -> dict[str, Any]:
        """The options as they stand in files."""
        return asdict(self) | {"targets": None if self.targets is None else list(self.targets)}


def pattern(network: nn.Module, blocks: Collection[nn.Module], adapter: Adapter) -> str:
    """Return peft's regular expression for the full names of an adapter's linear layers.

    Raises:
        UserError: for targets that no block has.
    """
    names = [name for name, module in network.named_modules() if any(module is b for b in blocks)]
    parents = sorted({name.rpartition(".")[0] for name in names})
    alternatives = "|".join(map(re.escape, parents))
    available = {
        name.rpartition(".")[2]
        for block in names
        for name, module in network.get_submodule(block).named_modules()
        if isinstance(module, nn.Linear)
        and (adapter.targets is not None or EXPERTS not in name.split("."))
    }
    targets = available if adapter.targets is None else set(adapter.targets)
    if not targets or targets - available:
        listed = ", ".join(sorted(available)) or "none"
        raise UserError(
            f"the blocks of {type(network).__name__} have no linear layers "
            f"{', '.join(map(quoted, sorted(targets - available))) or 'at all'}; there are {listed}"
        )
    skipped = "" if adapter.targets is not None else rf"(?!.*\b{EXPERTS}\b)"
    layers = "|".join(map(re.escape, sorted(targets)))
    return rf"{skipped}(?:{alternatives})\.\d+\.(?:.*\.)?(?:{layers})"


def inject(network: nn.Module, blocks: Collection[nn.Module], adapter: Adapter) -> None:
    """Give a network an adapter, in place; all weights but its own and the latent's become a base.

    The adapter starts as the identity, in fp32 or better.

    Raises:
        UserError: without peft, where the network has an adapter already, and as `pattern`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            f"adapters need peft: pip install 'di4c_plugin[hf]' ({reason(error)})"
        ) from error
    if any(f".{MARK}" in name for name, _ in network.named_parameters()):
        raise UserError("this network has an adapter already")
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=pattern(network, blocks, adapter),
    )
    try:
        inject_adapter_in_model(config, network, NAME)
    except STRANGE as error:
        raise UserError(f"peft makes no adapter for this network: {reason(error)}") from error
    in_full(module for name, module in network.named_modules() if f".{MARK}" in name)
    latent = latent_names(network)
    share(network, {name for name in network.state_dict() if f".{MARK}" in name or name in latent})
    let_gradients_in(network, True)  # peft has switched them off for the latent


def in_full(modules: Iterable[nn.Module]) -> None:
    """Convert weights of half precision to fp32: small updates would be rounded away."""
    for module in modules:
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.float() if weight.dtype in HALF else weight.data


def latent_names(network: Any) -> set[str]:
    """Return the names of the weights of a network's latent, in its state dict."""
    if latent_shape(network) is None:
        return set()
    own = {id(value) for value in network.di4c_injector[0].state_dict(keep_vars=True).values()}
    return {name for name, value in network.state_dict(keep_vars=True).items() if id(value) in own}


def merge(network: nn.Module) -> None:
    """Merge an adapter into unshared copies of the weights that it is on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module.get_base_layer()
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, layer)
    delattr(network, BASE)
