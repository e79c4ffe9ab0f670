"""A transformer over a square of codes with a class label, as a `Denoiser`.

Shared by MaskGIT and Halton-MaskGIT: codes 0 ... K - 1; the mask K, which has a column of logits
but is never predicted here; an optional label; no time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.families.files import grid_weights
from di4c_plugin.networks.attach import Head
from di4c_plugin.networks.denoiser import NO_LABEL, NetworkDenoiser, normalise, repeated


@dataclass(frozen=True)
class GridSizes:
    """The sizes of a transformer over a square of codes.

    Attributes:
        hidden: width.
        codes: K.
        side: h = w; D = side^2.
        depth, heads: of the blocks.
        mlp: width inside MLPs.
        classes: labels are 0 ... classes - 1.
        dropout: while training.
        carry_over: see `GridDenoiser`.
    """

    hidden: int
    codes: int
    side: int
    depth: int
    heads: int
    mlp: int
    classes: int = 1000
    dropout: float = 0.0
    carry_over: bool = False

    kind: ClassVar[str]

    embedding_std: ClassVar[float]  # of a new network

    @property
    def positions(self) -> int:
        """D."""
        return self.side**2

    @property
    def hidden_size(self) -> int:
        """H; see `di4c_plugin.networks.latent.Sizes` for this and the next properties."""
        return self.hidden

    @property
    def embedding_size(self) -> int:
        """E = H."""
        return self.hidden

    @property
    def length(self) -> int:
        """L: a class token is one more."""
        return self.positions + 1

    @property
    def num_norms(self) -> int:
        """Two for each block, and the last one."""
        return 2 * self.depth + 1

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return self.classes


Sizes = TypeVar("Sizes", bound=GridSizes)


class GridDenoiser(NetworkDenoiser):
    """Log p_{0|t} by `network(codes (B, h, w), labels (B,), dropped (B,)) -> (B, D, K + 1)`.

    Args:
        network: of the host.
        process: masked diffusion with the mask K, as one of K + 1 tokens (as the hosts count) or
            as an extra state beside K tokens.
        side: h = w; D = side^2.
        codes: K.
        classes: labels are 0 ... classes - 1, and -1 for none.
        carry_over: whether revealed tokens are certain. False as in the hosts, whose networks are
            trained to predict revealed positions too. Samplers keep revealed tokens either way, and
            losses are over masked positions; the difference is the target of Di4C's consistency
            at positions that the teacher's step has just revealed: certain, or predicted again.

    Raises:
        UserError: if the process does not fit this code book.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        *,
        side: int,
        codes: int,
        classes: int,
        carry_over: bool = False,
    ) -> None:
        masked = isinstance(process, Absorbing) and process.mask == codes
        if not masked or process.num_states != codes + 1:
            raise UserError(
                f"this network has {codes} codes and the mask {codes}, not as {process.config}"
            )
        super().__init__(network, process)
        self.side, self.codes, self.classes = side, codes, classes
        self.carry_over = carry_over

    @property
    def head(self) -> Head | None:
        """See `HiddenDenoiser.head`; None where its logits would differ from those of `forward`.

        Losses from hidden states count revealed tokens as certain.
        """
        same = self.carry_over and self.process.num_tokens == self.codes + 1
        return super().head if same else None

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`; `cond` is -1 for no label.

        Raises:
            UserError: for another number of positions, and, on the CPU only (see `check_range`),
                for codes or labels out of range.
        """
        logits = self.logits(x_t, t, cond, latent)[..., : self.process.num_tokens]
        x_t, t = repeated(len(logits), x_t, t)
        if self.carry_over:
            return normalise(logits, x_t, t, self.process)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(self.process.restrict(exact), -1)

    def logits(self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """See `NetworkDenoiser.logits`: (n B, D, K + 1)."""
        options = {} if latent is None else {"latent": latent}
        return self.network(*self.arguments(x_t, cond), **options)

    def arguments(self, x_t: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the host network's inputs: codes (B, h, w), labels (B,), whether to drop (B,)."""
        self.check(x_t, cond)
        if cond is None:
            cond = torch.full((len(x_t),), NO_LABEL, device=x_t.device)
        return x_t.reshape(-1, self.side, self.side), cond.clamp(min=0), cond == NO_LABEL

    def check(self, x_t: Tensor, cond: Tensor | None) -> None:
        """Refuse inputs that the network cannot take; errors as `forward`."""
        if x_t.shape[1] != self.side**2:
            raise UserError(
                f"x has {x_t.shape[1]} positions: this network has {self.side} x {self.side}"
            )
        check_range(x_t, 0, self.codes, "codes (the mask is the last)")
        if cond is not None:
            check_range(cond, NO_LABEL, self.classes - 1, "labels (-1 is none)")


class GridNetworks(Family[Sizes], Generic[Sizes]):
    """See `Family`."""

    denoiser_class: ClassVar[type[GridDenoiser]] = GridDenoiser
    said: ClassVar[Mapping[str, Any]] = {
        "heads": int | None,
        "dropout": float | None,
        "carry_over": bool | None,
    }
    settings = ("dropout", "carry_over")

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`."""
        return grid_weights(content)

    def process(self, sizes: Sizes, weights: Weights | None = None) -> dict[str, Any]:
        """See `Family.process`."""
        return {"name": "confidence", "num_tokens": sizes.codes + 1, "mask": sizes.codes}

    def wrap(self, network: nn.Module, sizes: Sizes, process: Process) -> GridDenoiser:
        """See `Family.wrap`."""
        return self.denoiser_class(
            network,
            process,
            side=sizes.side,
            codes=sizes.codes,
            classes=sizes.classes,
            carry_over=sizes.carry_over,
        )


def not_none(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def check_range(values: Tensor, low: int, high: int, what: str) -> None:
    """Refuse values outside low ... high.

    Tensors on a GPU are not checked: each call would wait for the device. Data are checked when
    they are read.

    Raises:
        UserError: naming the values and the range.
    """
    if values.device.type != "cpu" or not values.numel():
        return
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        raise UserError(f"{what} are {low} ... {high} here, and there are {least} ... {most}")
