"""tauLDR (Campbell et al. 2022): its U-Net over pixel values as teacher and student.

The network is the U-Net alone: the host's model around it swaps weights in `eval()`, and has rate
matrices that `.to()` does not move. Here `logistic` turns the U-Net's output into logits, and the
process is `DiscretisedGaussian`, which follows its arguments' device. Use fp32, as the host does:
bf16 cannot resolve 256 levels, and the U-Net adds its input to its output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.description import sizes_of
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.families.grid import check_range, not_none
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.logistic import logistic_logits
from di4c_plugin.families.tauldr_files import read_config, run_weights
from di4c_plugin.families.unet_latent import let_latent_in
from di4c_plugin.families.unet_sizes import Layout, layout_of
from di4c_plugin.networks.denoiser import NetworkDenoiser

MODEL = ("data_min_max", "dropout", "skip_rescale", "time_scale_factor", "fix_logistic")
PROCESS = ("rate_sigma", "q_sigma", "time_exponential", "time_base")


@dataclass(frozen=True)
class TauLDRSizes:
    """The sizes of a U-Net and its process; the defaults are those of the released model.

    Attributes:
        layout: the sizes that the weights determine.
        shape: of an image, (C, H, W); D = C H W.
        num_tokens: S, levels of a pixel.
        data_min_max: levels that are mapped to -1 and 1.
    """

    layout: Layout
    shape: tuple[int, int, int] = (3, 32, 32)
    num_tokens: int = 256
    data_min_max: tuple[int, int] = (0, 255)
    dropout: float = 0.1
    skip_rescale: bool = True
    time_scale_factor: float = 1000
    fix_logistic: bool = False
    rate_sigma: float = 6.0
    q_sigma: float = 512.0
    time_exponential: float = 100.0
    time_base: float = 3.0

    kind: ClassVar[str] = "tauldr"

    @property
    def positions(self) -> int:
        """D."""
        return prod(self.shape)

    @property
    def num_classes(self) -> int:
        """None."""
        return 0


# Of the CIFAR-10 model.
RELEASED = Layout(channels=128, blocks=2, widths=(1, 2, 2, 2), attention=1, inputs=3, features=128)


class TauLDRDenoiser(NetworkDenoiser):
    """Log p_{0|t} by a U-Net called as `network(x (B, C, H, W), t)`, t in [0, 1]."""

    def __init__(
        self, network: nn.Module, process: Process, *, shape: tuple[int, ...], fix: bool = False
    ) -> None:
        super().__init__(network, process)
        self.shape, self.fix = shape, fix

    def logits(self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """Return the logits of the truncated logistic, (n B, D, S), fp32.

        Raises:
            UserError: for labels, for another number of positions, and, on the CPU only (see
                `check_range`), for levels out of range.
        """
        self.check(x_t, cond)
        options = {} if latent is None else {"latent": latent}
        out = self.network(x_t.float().view(-1, *self.shape), t.float(), **options)
        mu, s = (half.flatten(1) for half in out.chunk(2, 1))
        return logistic_logits(mu, s, self.process.num_tokens, fix=self.fix)

    def check(self, x_t: Tensor, cond: Tensor | None) -> None:
        """Refuse inputs that the network cannot take; errors as `logits`."""
        if x_t.shape[1] != prod(self.shape):
            size = " x ".join(map(str, self.shape))
            raise UserError(f"x has {x_t.shape[1]} positions: this network has {size}")
        if cond is not None:
            raise UserError("tauLDR's U-Net takes no labels")
        check_range(x_t, 0, self.process.num_tokens - 1, "levels of a pixel")


class TauLDRNetworks(Family[TauLDRSizes]):
    """See `Family`; its options are `config` (data and model) and `dropout`."""

    name, made_of = "tauldr", TauLDRSizes
    title, mark = "tauLDR's U-Net", "temb_modules.0.weight"
    said: ClassVar[Mapping[str, Any]] = {
        "config": str | Mapping[str, Any] | None,
        "dropout": float | None,
    }
    settings = ("dropout",)

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`."""
        return run_weights(content, ema=ema)

    def sizes(self, weights: Weights, **options: Any) -> TauLDRSizes:
        """See `Family.sizes`; `config` is a mapping, or the path of the program's file."""
        layout = layout_of(weights.tensors)
        config = options.get("config") or weights.config
        config = read_config(Path(config)) if isinstance(config, str) else config
        dropout = not_none(dropout=options.get("dropout"))
        if config:
            return replace(sizes_of_config(config, layout, weights.origin), **dropout)
        if layout == RELEASED:
            return TauLDRSizes(layout, **dropout)
        raise UserError(
            f"{weights.origin} does not say its levels and its process: keep the host's "
            "config/config_001.yaml beside the folder of checkpoints"
        )

    def build(self, sizes: TauLDRSizes, process: Process | None = None) -> nn.Module:
        """See `Family.build`."""
        layout = sizes.layout
        check_shape(sizes)
        kind = host_module(self.name, "lib.networks.networks", self.root).UNet
        network: nn.Module = kind(
            ch=layout.channels,
            num_res_blocks=layout.blocks,
            num_scales=len(layout.widths),
            ch_mult=list(layout.widths),
            input_channels=layout.inputs,
            output_channels=2 * layout.inputs,
            scale_count_to_put_attn=layout.attention,
            data_min_max=list(sizes.data_min_max),
            dropout=sizes.dropout,
            skip_rescale=sizes.skip_rescale,
            do_time_embed=True,
            time_scale_factor=sizes.time_scale_factor,
            time_embed_dim=layout.features,
        )
        return network

    def let_latent_in(
        self,
        network: nn.Module,
        latent: Mapping[str, Any],
        sizes: TauLDRSizes,
        process: Process,
    ) -> None:
        """See `Family.let_latent_in` and `unet_latent`."""
        let_latent_in(network, latent)

    def process(self, sizes: TauLDRSizes, weights: Weights | None = None) -> dict[str, Any]:
        """See `Family.process`."""
        numbers = {name: getattr(sizes, name) for name in ("num_tokens", *PROCESS)}
        return {"name": "gaussian"} | numbers

    def wrap(self, network: nn.Module, sizes: TauLDRSizes, process: Process) -> TauLDRDenoiser:
        """See `Family.wrap`."""
        if process.num_tokens != sizes.num_tokens or process.num_states != sizes.num_tokens:
            raise UserError(f"this network has {sizes.num_tokens} levels, not as {process.config}")
        return TauLDRDenoiser(network, process, shape=sizes.shape, fix=sizes.fix_logistic)


def sizes_of_config(config: Mapping[str, Any], layout: Layout, origin: str) -> TauLDRSizes:
    """Return the sizes, of which the host's config adds those that the weights do not determine.

    Raises:
        UserError: if one is missing.
    """
    try:
        data, model = config["data"], config["model"]
        values = {name: model[name.replace("q_", "Q_")] for name in PROCESS}
        values |= {name: model[name] for name in MODEL}
        values |= {"layout": layout, "shape": data["shape"], "num_tokens": data["S"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"the config of {origin} says no {error}") from error
    return sizes_of(TauLDRSizes, values, f"the config of {origin}")


def check_shape(sizes: TauLDRSizes) -> None:
    """Refuse images that the U-Net cannot halve at each of its scales; raises UserError."""
    channels, *sides = sizes.shape
    factor = 2 ** (len(sizes.layout.widths) - 1)
    if channels != sizes.layout.inputs or any(side % factor for side in sides):
        size = " x ".join(map(str, sizes.shape))
        raise UserError(
            f"images are {size}: this U-Net takes {sizes.layout.inputs} channels and sides that "
            f"are multiples of {factor}"
        )
