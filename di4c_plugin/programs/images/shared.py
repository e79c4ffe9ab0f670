"""Our networks with the weights of a host's network, which stays unmodified.

The parameters are the host's tensors under the same names, whatever wraps the network there
(DistributedDataParallel, torch.compile, an average). They cost no memory and follow the host's
updates; our network has its own training flags.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from di4c_plugin.checkpoints.naming import bare
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.networks import NetworkDenoiser

Tensors = Mapping[str, Tensor]


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a host's network by their names without wrappers."""
    return {bare(name): value for name, value in nn.Module.state_dict(network).items()}


class SharedNetworks:
    """One denoiser for each network of a host, with shared weights.

    Args:
        networks: their family.
        root: the host's checkout; None: see `importing.checkout`.
    """

    def __init__(self, networks: Family[Any], root: str | Path | None = None) -> None:
        self.networks, self.root = networks, root
        self._made: WeakKeyDictionary[nn.Module, NetworkDenoiser] = WeakKeyDictionary()

    def of(
        self,
        owner: nn.Module,
        tensors: Tensors,
        *,
        latent: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> NetworkDenoiser:
        """Return the denoiser in eval mode, with these tensors as its weights.

        Args:
            owner: the host's network, possibly wrapped.
            tensors: by the names of the host's network.
            latent: name and options of its latent, if it has one.
            options: of the sizes, see `Family.sizes`; used at the first call only.

        Raises:
            UserError: for tensors of another network, or options that are missing.
        """
        if owner not in self._made:
            self._made[owner] = self._make(tensors, latent, options)
        share(self._made[owner].network, tensors)
        return self._made[owner]

    def _make(
        self, tensors: Tensors, latent: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> NetworkDenoiser:
        family = self.networks.at(self.root)
        origin = f"the network of {family.name}"
        family.check(tensors, origin)
        sizes = family.sizes(Weights(dict(tensors), None, {}, None, origin, ""), **options)
        # An outline takes no memory, and leaves the host's generator alone.
        return family.outline(sizes, latent).eval().requires_grad_(False)


def share(network: nn.Module, tensors: Tensors) -> None:
    """Make these tensors the weights of `network`, without a copy.

    Raises:
        UserError: if they do not fit the network.
    """
    try:
        network.load_state_dict(dict(tensors), assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the host's network has changed: {reason}") from error
    unset = [v for v in chain(network.parameters(), network.buffers()) if v.is_meta]
    assert not unset, "a network of these hosts keeps all it needs in its state dict"
