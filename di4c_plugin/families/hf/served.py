"""A model with the interface of a masked language model: `model(input_ids, …).logits`.

With it diffusers' `LLaDA2Pipeline` serves a student: `LLaDA2Pipeline(model=Served(student), …)`.
One prompt for each call: that pipeline puts its padding between prompt and answer.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import draw_latents


class Served(nn.Module):
    """Logits for ids; the mask and other barred tokens are impossible, known tokens certain.

    Args:
        model: teacher or student of the family.
        fresh: whether a student draws λ at each call, and not once for each generation. A call with
            more masks than the last call, or with tokens behind it, starts a new generation.
        seed: of λ.
    """

    def __init__(self, model: Model, *, fresh: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.denoiser: Any = model.denoiser.eval()
        self.mask = model.process.mask  # type: ignore[attr-defined]
        self.fresh = fresh
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._latent: Tensor | None = None
        self._last: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.denoiser.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = next(self.denoiser.parameters()).dtype
        return dtype

    @torch.no_grad()
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> SimpleNamespace:
        """Return `.logits` (B, D, V), log-probabilities in fp32 or better.

        Args:
            input_ids: (B, D).
            attention_mask: (B, D), 0 at padding; None: no padding.
            others: ignored; positions and the like follow from the ids.

        Raises:
            UserError: for an attention mask where the model knows no padding.
        """
        x = input_ids
        if attention_mask is not None and not bool(attention_mask.all()):
            if self.denoiser.pad is None:
                raise UserError("this model knows no padding: host.pad=")
            x = x.where(attention_mask.bool(), self.denoiser.pad)
        t = torch.full((len(x),), 0.5, dtype=torch.float64, device=x.device)
        return SimpleNamespace(logits=self.denoiser(x, t, latent=self._latent_for(x)))

    def _latent_for(self, x: Tensor) -> Tensor | None:
        shape = self.denoiser.latent_shape
        if shape is None:
            return None
        if self.fresh or self._is_new(x):
            if self.generator.device != x.device:
                self.generator = torch.Generator(x.device).manual_seed(
                    self.generator.initial_seed()
                )
            options: Any = {"generator": self.generator, "device": x.device}
            self._latent = draw_latents(shape, 1, len(x), **options)[0]
        self._last = x
        return self._latent

    def _is_new(self, x: Tensor) -> bool:
        last = self._last
        if last is None or len(last) != len(x) or last.shape[1] > x.shape[1]:
            return True
        masks, length = x == self.mask, last.shape[1]
        more = masks[:, :length].sum(-1) > (last == self.mask).sum(-1)
        return bool(more.any() or not masks[:, length:].all())
