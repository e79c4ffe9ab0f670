r"""Lets a latent into tauLDR's U-Net, in the layout of the official Di4C's CIFAR-10 student.

With sinusoidal features of lambda and of t, and h the output of the down path, averaged over
pixels, two embeddings are formed,

    l   = silu(tlam_mix [lambda, t]),        lemb  = lemb_modules[1] silu(lemb_modules[0] l)
    l'  = silu(h_t_lam_mix [lambda, t, h]),  hlemb = hlemb_modules[1] silu(hlemb_modules[0] l')

and each residual block adds dense1 silu(lemb) (down path) or dense1 silu(hlemb) (middle and up
path) to its features, beside dense0 silu(temb). The embeddings need the time and the middle of the
network, so that this is no `LatentInjector`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import latent_shape
from di4c_plugin.networks.denoiser import repeated
from di4c_plugin.networks.latent import sinusoid
from di4c_plugin.options import fitted
from di4c_plugin.values import Std

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
# sqrt(E[silu(z)^2]) for standard normal z.
SILU_RMS = 0.596


class UNetLatent:
    """The hooks of one U-Net; their state lives from the start of a forward pass to its end.

    Args:
        network: gets the layers of the latent, itself and in its residual blocks.
        std: initial standard deviation of what dense1 adds to a feature. The official 0 is a
            saddle, where all lambda get the same gradient.
    """

    latent_shape = (1,)

    def __init__(self, network: nn.Module, *, std: Std = 0.1) -> None:
        parts: Any = network
        size = parts.temb_modules[0].in_features
        self.parts, self.size, self.scale = parts, size, parts.time_scale_factor
        middle = parts.middle_modules[0].conv0.in_channels
        parts.tlam_mix, parts.lemb_modules = (
            scaled_linear(2 * size, size, 0.5**0.5),
            two_layers(size),
        )
        parts.h_t_lam_mix = scaled_linear(2 * size + middle, size, 0.5**0.5)
        parts.hlemb_modules = two_layers(size)
        for block in residual_blocks(network):
            block.dense1 = scaled_linear(4 * size, block.dense0.out_features, SILU_RMS, std)
            # After dense0's, in the official order: the same sums, rounding included.
            block.groupnorm1.register_forward_pre_hook(partial(self.added, block.dense1))
        self.clear()
        network.register_forward_pre_hook(self.begin, with_kwargs=True)
        network.register_forward_hook(self.end)
        parts.middle_modules[0].register_forward_pre_hook(self.middle)

    def clear(self) -> None:
        """Keep nothing alive between passes."""
        self.features = self.code = torch.empty(0)

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Take `latent` from the arguments; without it, one is drawn for each example.

        With n latents for each row, all arguments are repeated.
        """
        kwargs = dict(kwargs)
        latent = kwargs.pop("latent", None)
        x, t = args
        if latent is None:
            latent = torch.rand(len(x), *self.latent_shape, device=x.device)
        if len(latent) % len(x):
            raise UserError(f"{len(latent)} latents for {len(x)} examples: each needs equally many")
        x, t = repeated(len(latent), x, t)
        embeddings = (sinusoid(v, self.size, scale=self.scale) for v in (latent, t.unsqueeze(-1)))
        self.features = torch.cat([*embeddings], 1)
        self.code = embedded(self.features, self.parts.tlam_mix, self.parts.lemb_modules)
        return (x, t), kwargs

    def middle(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Switch to the embedding of the down path's output (B, C, H, W)."""
        features = torch.cat([self.features, args[0].mean(3).mean(2)], 1)
        self.code = embedded(features, self.parts.h_t_lam_mix, self.parts.hlemb_modules)

    def added(self, dense1: nn.Module, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """Add the latent's part to a block's features (B, C, H, W), beside that of the time."""
        return (args[0] + dense1(self.code)[:, :, None, None],)

    def end(self, network: nn.Module, args: Any, output: Any) -> None:
        """See `clear`."""
        self.clear()


def let_latent_in(network: nn.Module, latent: Mapping[str, Any]) -> None:
    """Let a latent into a U-Net, in place; its forward pass then takes `latent=`.

    `latent` is {"name": "unet", "std": ...}; with n latents for each row (lambda-major) the output
    has as many rows as the latents.

    Raises:
        UserError: for another name, unknown options or values of the wrong type, or a network
            that has a latent.
    """
    options = dict(latent)
    name, blocks = options.pop("name", None), options.pop("blocks", None)
    if options.pop("doors", None):
        raise UserError("a latent enters a U-Net at all its blocks: leave out latent.doors")
    if name != "unet":
        raise UserError(
            f"tauLDR's U-Net takes the latent 'unet' (the official layout), not {name!r}"
        )
    if blocks is not None:
        raise UserError("a latent enters all blocks of a U-Net: latent.blocks=null")
    if latent_shape(network) is not None:
        raise UserError("this network has a latent already")
    options = fitted(UNetLatent, options, "latent 'unet'", positional=1)
    network.di4c_injector = (UNetLatent(network, **options),)  # type: ignore[assignment]


def residual_blocks(network: nn.Module) -> list[Any]:
    """Return the blocks with an input for the time."""
    return [block for block in network.modules() if hasattr(block, "dense0")]


def embedded(features: Tensor, mix: nn.Module, layers: Any) -> Tensor:
    """Return silu of the embedding, (B, 4 E)."""
    features = features.to(next(mix.parameters()).dtype)
    code: Tensor = silu(layers[1](silu(layers[0](silu(mix(features))))))
    return code


def two_layers(size: int) -> nn.ModuleList:
    """Return the layers E to 4 E to 4 E of an embedding."""
    return nn.ModuleList(
        [scaled_linear(size, 4 * size, SILU_RMS), scaled_linear(4 * size, 4 * size, SILU_RMS)]
    )


def scaled_linear(size: int, out: int, rms: float, std: float = 1.0) -> nn.Linear:
    """Return a layer whose output has standard deviation `std` for inputs of that size."""
    layer = nn.Linear(size, out)
    nn.init.normal_(layer.weight, std=std / (rms * size**0.5))
    nn.init.zeros_(layer.bias)
    return layer
