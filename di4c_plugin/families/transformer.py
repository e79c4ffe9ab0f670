"""The built-in transformer, see `di4c_plugin.networks.transformer`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.networks.doors import Names
from di4c_plugin.networks.latent import new_injector
from di4c_plugin.networks.transformer import Transformer, TransformerConfig


class TransformerNetworks(Family[TransformerConfig]):
    """See `Family`; its files are ours, and describe a model completely."""

    name, made_of = "transformer", TransformerConfig
    title, mark = "the built-in transformer", "patch_in.weight"
    names: ClassVar[Names] = {"blocks": "blocks.*"}

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`: there are no other files than ours."""
        raise UserError(f"{content.origin} was not written by di4c: it has no description")

    def sizes(self, weights: Weights, **options: Any) -> TransformerConfig:
        """See `Family.sizes`: they stand in the file."""
        raise UserError(f"{weights.origin} does not say the sizes of its network")

    def process(self, sizes: TransformerConfig, weights: Weights | None = None) -> dict[str, Any]:
        """See `Family.process`."""
        name = "uniform" if sizes.mask is None else "absorbing"
        return {"name": name, "num_tokens": sizes.num_tokens}

    def build(self, sizes: TransformerConfig, process: Process) -> nn.Module:
        """See `Family.build`; raises UserError for a process on other states."""
        expected = (sizes.num_tokens, sizes.num_states)
        masks = (None, getattr(process, "mask", None))
        if (process.num_tokens, process.num_states) != expected or sizes.mask not in masks:
            raise UserError(
                f"the network has {expected[0]} tokens, {expected[1]} states, and the process "
                f"{process.num_tokens} and {process.num_states}"
            )
        return Transformer(sizes)

    def let_latent_in(
        self,
        network: nn.Module,
        latent: Mapping[str, Any],
        sizes: TransformerConfig,
        process: Process,
    ) -> None:
        """See `Family.let_latent_in`: this network takes latents itself, and needs no hooks."""
        assert isinstance(network, Transformer)
        if latent.get("doors"):
            raise UserError("latent.doors is for networks of others: the built-in one has its own")
        network.let_in(new_injector(sizes, latent))
