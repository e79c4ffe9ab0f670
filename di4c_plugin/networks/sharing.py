"""Networks that share frozen weights: a base in memory once, with any number of adapters on it.

Each network has its own modules, so no adapter is ever switched on or off, and a recomputed pass
uses the same adapter as the first.
"""

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
BASE = "di4c_base"  # of a network: the names of its shared weights, in its state dict


def share(network: nn.Module, exclude: set[str] | None = None) -> None:
    """Declare a network's state dict, without the names `exclude`, its shared base.

    The base takes no gradients from then on.
    """
    state = network.state_dict(keep_vars=True)
    names = frozenset(state.keys() - (exclude or set()))
    setattr(network, BASE, names)
    for name in names:
        if state[name].is_floating_point():
            state[name].requires_grad_(False)


def base_names(module: nn.Module) -> set[str]:
    """Return the names, in a module's state dict, of weights that its networks share."""
    return {
        f"{path}.{name}" if path else name
        for path, network in module.named_modules(remove_duplicate=False)
        for name in getattr(network, BASE, ())
    }


def base_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module's networks share with others."""
    names = base_names(module)
    parameters = module.named_parameters(remove_duplicate=False) if names else ()
    return [parameter for name, parameter in parameters if name in names]


def copied(module: Module) -> Module:
    """Return a copy of a module, which shares the module's shared weights."""
    memo: dict[int, Any] = {id(weight): weight for weight in base_weights(module)}
    return copy.deepcopy(module, memo)


def let_gradients_in(module: nn.Module, allowed: bool) -> None:
    """Switch the gradients of a module's weights on or off; a shared base never has any."""
    base = {id(weight) for weight in base_weights(module)}
    for weight in module.parameters():
        if id(weight) not in base:
            weight.requires_grad_(allowed)


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module without its shared weights."""
    base = base_names(module)
    return {name: value for name, value in module.state_dict().items() if name not in base}


def sharing(denoiser: Module) -> Module:
    """Return a copy of a denoiser that shares its weights, which take no gradients from then on."""
    memo: dict[int, Any] = {id(weight): weight for weight in denoiser.parameters()}
    shared = copy.deepcopy(denoiser, memo)
    share(shared.network)  # type: ignore[arg-type]
    return shared
