"""Networks that share frozen weights: a base, held once in memory by all who have adapters on it.

The modules of each are its own, so that nothing is switched between them: which adapter a pass
runs with, and a recomputation of it, is which network is called.
"""

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
BASE = "di4c_base"  # of a network: the names of what it shares, in its state dict


def share(network: nn.Module, own: set[str] | None = None) -> None:
    """Declare all that a network's state dict holds, but for the names `own`, its shared base.

    The base takes no gradients from then on.
    """
    state = network.state_dict(keep_vars=True)
    names = frozenset(state.keys() - (own or set()))
    setattr(network, BASE, names)
    for name in names:
        if state[name].is_floating_point():
            state[name].requires_grad_(False)


def base_names(module: nn.Module) -> set[str]:
    """Return the names, in the state dict of a module, of what its networks share with others."""
    return {
        f"{place}.{name}" if place else name
        for place, each in module.named_modules(remove_duplicate=False)
        for name in getattr(each, BASE, ())
    }


def base_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module's networks share with others."""
    names = base_names(module)
    found = module.named_parameters(remove_duplicate=False) if names else ()
    return [parameter for name, parameter in found if name in names]


def copied(module: Module) -> Module:
    """Return a copy of a module, which shares what the module shares."""
    memo: dict[int, Any] = {id(weight): weight for weight in base_weights(module)}
    return copy.deepcopy(module, memo)


def let_gradients_in(module: nn.Module, allowed: bool) -> None:
    """Have the weights of a module take gradients, or not; a shared base never does."""
    base = {id(weight) for weight in base_weights(module)}
    for weight in module.parameters():
        if id(weight) not in base:
            weight.requires_grad_(allowed)


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module without what its networks share."""
    base = base_names(module)
    return {name: value for name, value in module.state_dict().items() if name not in base}


def sharing(denoiser: Module) -> Module:
    """Return a copy of a denoiser with its very weights, which take no gradients from then on."""
    memo: dict[int, Any] = {id(weight): weight for weight in denoiser.parameters()}
    found = copy.deepcopy(denoiser, memo)
    share(found.network)  # type: ignore[arg-type]
    return found
