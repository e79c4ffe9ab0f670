"""The built-in network: a small bidirectional transformer over a grid of tokens, with patches.

Serves the built-in host (8x8 digits in 2x2 patches: 16 transformer positions for 64 tokens), the
toys of the tests and the example plugin. Pre-norm blocks as in ViT, patches as in DiT (Peebles &
Xie 2023, section 3.2).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import Entry, LatentInjector, sinusoid


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `Transformer`; D = grid height x grid width, one token each.

    Attributes:
        num_tokens: S, at the output; num_states: at the input (S + 1 with a mask).
        grid: height and width; (1, D) for a plain sequence.
        patch: height and width of the patch that shares one transformer position.
        num_classes: labels 0 ... num_classes - 1 as `cond`, -1 for none; 0: unconditional network.
        time_conditioned: whether t enters; masked diffusion does not need it (MDLM).
        mask: the state that means "unknown", or None where every position is always unknown.
    """

    num_tokens: int
    num_states: int
    grid: tuple[int, int]
    patch: tuple[int, int] = (1, 1)
    hidden_size: int = 96
    embedding_size: int = 24
    num_blocks: int = 4
    num_heads: int = 4
    num_classes: int = 0
    time_conditioned: bool = False
    mask: int | None = None

    kind: ClassVar[str] = "transformer"

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        (height, width), (ph, pw) = self.grid, self.patch
        if height % ph or width % pw:
            raise UserError(f"patches of {ph}x{pw} do not tile a {height}x{width} grid")
        if self.hidden_size % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide hidden size {self.hidden_size}")

    @property
    def positions(self) -> int:
        """D, the number of tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """L, how many patches these are."""
        return self.positions // (self.patch[0] * self.patch[1])

    @property
    def num_norms(self) -> int:
        """Two a block, and the last one."""
        return 2 * self.num_blocks + 1

    @property
    def embedding_std(self) -> float:
        """As `nn.Embedding` starts."""
        return 1.0


class Transformer(nn.Module):
    """Logits (B, D, S) from states (B, D); a latent comes in by `let_in`."""

    latent: LatentInjector | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        h, patch_area = config.hidden_size, config.patch[0] * config.patch[1]
        self.embedding = nn.Embedding(config.num_states, config.embedding_size)
        self.patch_in = nn.Linear(patch_area * config.embedding_size, h)
        self.position = nn.Parameter(torch.randn(config.length, h) * 0.02)
        # The last class is "no label".
        self.label = nn.Embedding(config.num_classes + 1, h) if config.num_classes else None
        self.time = nn.Linear(128, h) if config.time_conditioned else None
        self.blocks = nn.ModuleList(Block(h, config.num_heads) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(h)
        self.patch_out = nn.Linear(h, patch_area * config.num_tokens)
        self.latent = None

    def let_in(self, injector: LatentInjector) -> None:
        """Let a latent in: the forward pass then takes `latent=`, and needs it."""
        self.latent = injector
        # In a tuple it is no second owner; see `attach.latent_shape`.
        self.di4c_injector = (injector,)

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """The shape of one lambda; None without a latent."""
        return None if self.latent is None else self.latent.latent_shape

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """Return logits, one row for each row of `latent`; arguments as for `Denoiser.__call__`.

        Raises:
            UserError: if a latent is given without an injector, or missing with one.
        """
        entry = self._entry(x_t, latent)
        e, active = self.embedding(x_t), self._active(x_t)
        h = self.patch_in(to_patches(entry.at_embedding(e, active), self.config)) + self.position
        total = self._conditioning(x_t, t, cond)
        h = h + (total if entry.late else entry.widen(total))
        for i, block in enumerate(self.blocks):
            h = block(entry.at_block(i, h, active), entry, i)
        h = entry.at_output(entry.at_norm(self.norm(h), 2 * len(self.blocks)))
        return from_patches(self._head(h), self.config)

    def _head(self, h: Tensor) -> Tensor:
        """Return logits in fp32 even under autocast: a sum over positions adds up bf16's errors."""
        with torch.autocast(h.device.type, enabled=False):
            return self.patch_out(h.to(self.patch_out.weight.dtype))

    def _entry(self, x_t: Tensor, latent: Tensor | None) -> Entry:
        if (self.latent is None) != (latent is None):
            raise UserError("a student needs a latent, and only a student takes one")
        if self.latent is None or latent is None:
            return Entry(LatentInjector(), torch.empty(len(x_t)), len(x_t), len(self.blocks))
        return Entry(self.latent, latent, len(x_t), len(self.blocks))

    def _active(self, x_t: Tensor) -> Tensor:
        if self.config.mask is None:
            return torch.ones_like(x_t, dtype=torch.bool)
        return x_t == self.config.mask

    def _conditioning(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Return what time and label add to every transformer position, shape (B, 1, H)."""
        total = self.position.new_zeros(x_t.shape[0], 1, self.config.hidden_size)
        if self.time is not None:
            total = total + self.time(sinusoid(t.unsqueeze(-1), 128).to(total.dtype)).unsqueeze(1)
        if self.label is not None:
            none = torch.full_like(x_t[:, 0], self.config.num_classes)
            label = none if cond is None else torch.where(cond < 0, none, cond)
            total = total + self.label(label).unsqueeze(1)
        elif cond is not None:
            raise UserError("this network takes no class labels: num_classes is 0")
        return total


class Block(nn.Module):
    """Pre-norm attention and MLP; the latent enters both normalised inputs."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        inner = 4 * hidden_size
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, inner), nn.GELU(), nn.Linear(inner, hidden_size)
        )

    def forward(self, h: Tensor, entry: Entry, index: int) -> Tensor:
        """Return the new residual stream, (B, L, H)."""
        h = h + self._attention(entry.at_norm(self.norm1(h), 2 * index))
        mixed: Tensor = h + self.mlp(entry.at_norm(self.norm2(h), 2 * index + 1))
        return mixed

    def _attention(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


def to_patches(e: Tensor, config: TransformerConfig) -> Tensor:
    """Group (B, D, E) in raster order into (B, L, patch area * E)."""
    (height, width), (ph, pw) = config.grid, config.patch
    tiles = e.unflatten(1, (height // ph, ph, width // pw, pw))
    return tiles.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def from_patches(h: Tensor, config: TransformerConfig) -> Tensor:
    """Spread (B, L, patch area * S) back to raster order, (B, D, S)."""
    (height, width), (ph, pw) = config.grid, config.patch
    tiles = h.unflatten(1, (height // ph, width // pw)).unflatten(-1, (ph, pw, -1))
    return tiles.permute(0, 1, 3, 2, 4, 5).flatten(1, 4)
