"""A network of our own with the names and the manners of MaskGIT-pytorch's `MaskTransformer`."""

from typing import Any

import torch
from torch import Tensor, nn


class Normed(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: Tensor) -> Any:
        return self.fn(self.norm(x))


class Mix(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.mha(x, x, x)


class Mlp(nn.Module):
    def __init__(self, dim: int, wide: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, wide), nn.GELU(), nn.Dropout(dropout), nn.Linear(wide, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Layers(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, wide: int, dropout: float) -> None:
        super().__init__()
        pairs = [
            nn.ModuleList([Normed(dim, Mix(dim, heads)), Normed(dim, Mlp(dim, wide, dropout))])
            for _ in range(depth)
        ]
        self.layers = nn.ModuleList(pairs)

    def forward(self, x: Tensor) -> Any:
        pairs: Any = self.layers
        for mix, mlp in pairs:
            x = x + mix(x)[0]
            x = x + mlp(x)
        return x, []


class MaskTransformer(nn.Module):
    def __init__(
        self,
        hidden_dim: int,
        codebook_size: int,
        f_factor: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        dropout: float,
        nclass: int,
    ) -> None:
        super().__init__()
        dim, rows, length = hidden_dim, codebook_size + 2 + nclass, f_factor**2 + 1
        self.codes, self.nclass = codebook_size, nclass
        self.tok_emb = nn.Embedding(rows, dim)
        self.pos_emb = nn.Parameter(torch.randn(1, length, dim))
        self.first_layer = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.GELU(),
            nn.LayerNorm(dim),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
        )
        self.transformer = Layers(dim, depth, heads, mlp_dim, dropout)
        self.last_layer = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.GELU(),
            nn.LayerNorm(dim),
        )
        self.bias = nn.Parameter(torch.zeros(length, rows))

    def forward(self, img_token: Tensor, y: Tensor, drop_label: Tensor) -> Tensor:
        label = (y + self.codes + 1).where(~drop_label, self.codes + 1 + self.nclass)
        tokens = torch.cat([img_token.flatten(1), label.unsqueeze(1)], 1)
        x = self.first_layer(self.tok_emb(tokens) + self.pos_emb)
        logits = self.last_layer(self.transformer(x)[0]) @ self.tok_emb.weight.T + self.bias
        return logits[:, :-1, : self.codes + 1]
