"""A network of our own with the names and the manners of Halton-MaskGIT's `Transformer`."""

from typing import Any

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """Root mean square normalisation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


class Mlp(nn.Module):
    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(dim, wide, bias=False), nn.Linear(wide, dim, bias=False)
        self.w3 = nn.Linear(dim, wide, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.ln1, self.ln2 = Scaled(dim), Scaled(dim)
        self.attn, self.ff = nn.Linear(dim, dim), Mlp(dim, wide)

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        a, b, c, d, e, f = self.mlp(cond).unsqueeze(1).chunk(6, -1)
        h = self.ln1(x) * (1 + a) + b
        x = x + c * self.attn((h.softmax(1) * h).sum(1, keepdim=True) + h)
        return x + f * self.ff(self.ln2(x) * (1 + d) + e)


class Blocks(nn.Module):
    def __init__(self, depth: int, dim: int, wide: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(dim, wide) for _ in range(depth))

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.layers:
            x = block(x, cond, mask=mask)
        return x


class Last(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_final, self.mlp = Scaled(dim), nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale = self.mlp(y).unsqueeze(1).chunk(2, -1)
        return self.norm_final(x) * (1 + scale) + shift


class Transformer(nn.Module):
    def __init__(
        self,
        input_size: int,
        hidden_dim: int,
        codebook_size: int,
        mlp_dim: int,
        nclass: int,
        depth: int,
        register: int,
        **others: Any,
    ) -> None:
        super().__init__()
        dim = hidden_dim
        self.nclass, self.register = nclass, register
        self.cls_emb = nn.Embedding(nclass + 1, dim)
        self.tok_emb = nn.Embedding(codebook_size + 1, dim)
        self.pos_emb = nn.Embedding(input_size**2, dim)
        self.transformer = Blocks(depth, dim, mlp_dim * 2 // 3)
        self.last_norm = Last(dim)
        self.head = nn.Linear(dim, codebook_size + 1)
        self.head.weight = self.tok_emb.weight
        self.reg_tokens = nn.Embedding(register, dim)

    def forward(self, x: Tensor, y: Tensor, drop_label: Tensor) -> Tensor:
        x = x.flatten(1)
        rows, d = x.shape
        c = self.cls_emb(y.where(~drop_label, self.nclass))
        h = self.tok_emb(x) + self.pos_emb.weight[:d]
        registers = self.reg_tokens.weight.expand(rows, self.register, -1)
        h = self.transformer(torch.cat([h, registers], 1), c)[:, :d]
        return self.head(self.last_norm(h, c))
