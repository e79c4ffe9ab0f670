r"""The DiT of MDLM, SDTT and Duo, reimplemented: same weights by the same names, same function.

A transformer with rotary positions (Su et al. 2021) whose blocks are modulated by an embedding of
sigma = -log alpha_t (adaLN, Peebles & Xie 2023, section 3.2); masked diffusion feeds it zeros, as
MDLM does (Sahoo et al. 2024). With this no host is needed to sample from a student. No dropout: it
is for inference, and for distillation, which goes without.
A latent enters by `di4c_plugin.networks.attach`, at `DOORS`.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

from di4c_plugin.diffusion import Schedule
from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import latent_shape

FREQUENCIES = 256
# The doors of this DiT, and of the hosts': see `di4c_plugin.networks.doors`.
DOORS: dict[str, Any] = {
    "embedding": "vocab_embed",
    "positions": "rotary_emb",
    "blocks": "blocks.*",
    "norms": ("blocks.*.norm1", "blocks.*.norm2", "output_layer.norm_final"),
    "last": "output_layer",
    "head": "output_layer.linear",
}


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a `DiT`.

    Attributes:
        vocab_size: V, tokens at the input and at the output, the mask among them if there is one.
        length: D, the sequence length it is for.
        hidden_size: H.
        cond_dim: width of the embedding of sigma.
        n_blocks: number of blocks.
        n_heads: attention heads; H / n_heads is even.
        time_conditioning: whether sigma enters; else zeros do.
    """

    vocab_size: int
    length: int
    hidden_size: int = 768
    cond_dim: int = 128
    n_blocks: int = 12
    n_heads: int = 12
    time_conditioning: bool = False

    kind: ClassVar[str] = "dit"

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.hidden_size % (2 * self.n_heads):
            raise UserError(
                f"{self.n_heads} heads do not divide hidden size {self.hidden_size} into even parts"
            )

    @property
    def positions(self) -> int:
        """D, as `TransformerConfig` calls it."""
        return self.length

    @property
    def embedding_size(self) -> int:
        """H, see `di4c_plugin.networks.latent.Sizes`."""
        return self.hidden_size

    @property
    def embedding_std(self) -> float:
        """See `di4c_plugin.networks.latent.Sizes`: uniform up to 1/sqrt(H)."""
        return float((3 * self.hidden_size) ** -0.5)

    @property
    def num_norms(self) -> int:
        """Two a block, and the last one."""
        return 2 * self.n_blocks + 1

    @property
    def num_classes(self) -> int:
        """No class labels."""
        return 0


class DiT(nn.Module):
    """Logits (B, D, V) from tokens (B, D), for any D; `schedule` turns t into sigma."""

    def __init__(self, config: DiTConfig, schedule: Schedule) -> None:
        super().__init__()
        self.config, self.schedule = config, schedule
        h, cond = config.hidden_size, config.cond_dim
        self.vocab_embed = VocabEmbedding(config.vocab_size, h)
        self.sigma_map = SigmaEmbedding(cond)
        self.rotary_emb = Rotary(h // config.n_heads)
        self.blocks = nn.ModuleList(Block(h, cond, config.n_heads) for _ in range(config.n_blocks))
        self.output_layer = OutputLayer(h, cond, config.vocab_size)

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """The shape of one lambda; None without a latent."""
        return latent_shape(self)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """Return logits; arguments as for `Denoiser.__call__`.

        An attached latent is taken by its hook before the arguments get here.

        Raises:
            UserError: if a latent or a class label is given to a network that takes none.
        """
        if latent is not None:
            raise UserError("a student needs a latent, and only a student takes one")
        if cond is not None:
            raise UserError("this network takes no class labels")
        h = self.vocab_embed(x_t)
        c = silu(self.sigma_map(self._sigma(t)))
        rotation = self.rotary_emb(h)
        for block in self.blocks:
            h = block(h, rotation, c)
        logits: Tensor = self.output_layer(h, c)
        return logits

    def _sigma(self, t: Tensor) -> Tensor:
        """Return sigma = -log alpha_t, (B,), or zeros."""
        if not self.config.time_conditioning:
            return torch.zeros_like(t)
        return -self.schedule.alpha(t).log()


class VocabEmbedding(nn.Module):
    """Tokens (B, D) to embeddings (B, D, H)."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, hidden_size))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Look up."""
        return self.embedding[x]


class SigmaEmbedding(nn.Module):
    """Sigma (B,) through 256 sinusoidal features and two layers to (B, cond_dim)."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCIES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )

    def forward(self, sigma: Tensor) -> Tensor:
        """Cosines, then sines, of frequencies 1 ... 10000^(-127/128)."""
        half = FREQUENCIES // 2
        exponent = torch.arange(half, dtype=torch.float32, device=sigma.device) / half
        angle = sigma.float().unsqueeze(-1) * torch.exp(-math.log(10_000) * exponent)
        features = torch.cat([angle.cos(), angle.sin()], -1)
        dtype = next(self.mlp.parameters()).dtype
        embedded: Tensor = self.mlp(features.to(dtype))
        return embedded


class Rotary(nn.Module):
    """Tables cos and sin, (1, L, head size / 2), for the L positions of h (B, L, H)."""

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Angles l * 10000^(-2i / head size), fp32."""
        exponent = torch.arange(0, self.head_size, 2, device=h.device).float() / self.head_size
        position = torch.arange(h.shape[1], device=h.device).float()
        angle = position.unsqueeze(-1) * (1 / 10_000**exponent)
        return angle.cos().unsqueeze(0), angle.sin().unsqueeze(0)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn coordinates i and i + n/2 of x (B, L, heads, n) by the angle of position and i."""
    cos, sin = (table.unsqueeze(2).to(x.dtype) for table in rotation)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Norm(nn.Module):
    """Layer norm in fp32 with a scale and no bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, h: Tensor) -> Tensor:
        """Normalise the last axis."""
        with torch.autocast(h.device.type, enabled=False):
            exact = h if h.dtype == torch.float64 else h.float()
            return layer_norm(exact, h.shape[-1:]) * self.weight


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by c (B, cond_dim)."""

    def __init__(self, hidden_size: int, cond_dim: int, n_heads: int) -> None:
        super().__init__()
        h, self.n_heads = hidden_size, n_heads
        self.norm1, self.norm2 = Norm(h), Norm(h)
        self.attn_qkv = nn.Linear(h, 3 * h, bias=False)
        self.attn_out = nn.Linear(h, h, bias=False)
        gelu = nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(nn.Linear(h, 4 * h), gelu, nn.Linear(4 * h, h))
        self.adaLN_modulation = zero_linear(cond_dim, 6 * h)

    def forward(self, h: Tensor, rotation: tuple[Tensor, Tensor], c: Tensor) -> Tensor:
        """Return the new residual stream, (B, L, H)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(self.adaLN_modulation, c, 6)
        h = h + gate1 * self._attention(self.norm1(h) * (1 + scale1) + shift1, rotation)
        return h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)

    def _attention(self, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.attn_qkv(h).unflatten(-1, (3, self.n_heads, -1)).unbind(2)
        q, k, v = (x.transpose(1, 2) for x in (rotate(q, rotation), rotate(k, rotation), v))
        mixed: Tensor = self.attn_out(
            scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return mixed


class OutputLayer(nn.Module):
    """A modulated norm and the head."""

    def __init__(self, hidden_size: int, cond_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.norm_final = Norm(hidden_size)
        self.linear = zero_linear(hidden_size, vocab_size)
        self.adaLN_modulation = zero_linear(cond_dim, 2 * hidden_size)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Return logits (B, L, V), in fp32 or better even under autocast."""
        shift, scale = modulation(self.adaLN_modulation, c, 2)
        h = self.norm_final(h) * (1 + scale) + shift
        with torch.autocast(h.device.type, enabled=False):
            logits: Tensor = self.linear(h.to(self.linear.weight.dtype))
            return logits


def modulation(layer: nn.Module, c: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Return `parts` vectors (B, 1, H) from c (B, cond_dim)."""
    vectors: Tensor = layer(c)
    return vectors.unsqueeze(1).chunk(parts, -1)


def zero_linear(n: int, m: int) -> nn.Linear:
    """Return a linear layer that starts at zero."""
    layer = nn.Linear(n, m)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
