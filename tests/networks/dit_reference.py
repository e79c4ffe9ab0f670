"""A DiT evaluated from its weights by plain sums, one position and one head at a time, in float64.

Written apart from the package: rotations are complex numbers, attention is a loop, layer norm and
GELU are their formulas.
"""

import cmath
import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def random_state(
    vocab: int, hidden: int, cond: int, blocks: int, *, latent: bool = False, seed: int = 0
) -> State:
    """Return random weights of a DiT by the hosts' names, none of them zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.3) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def linear(name: str, n: int, m: int, bias: bool = True) -> State:
        weight = {f"{name}.weight": draw(m, n, scale=n**-0.5)}
        return weight | ({f"{name}.bias": draw(m)} if bias else {})

    state = {"vocab_embed.embedding": draw(vocab, hidden, scale=1.0)}
    state |= linear("sigma_map.mlp.0", 256, cond) | linear("sigma_map.mlp.2", cond, cond)
    for i in range(blocks):
        b = f"blocks.{i}"
        state |= {f"{b}.norm1.weight": 1 + draw(hidden)}
        state |= linear(f"{b}.attn_qkv", hidden, 3 * hidden, bias=False)
        state |= linear(f"{b}.attn_out", hidden, hidden, bias=False)
        state |= {f"{b}.norm2.weight": 1 + draw(hidden)}
        state |= linear(f"{b}.mlp.0", hidden, 4 * hidden)
        state |= linear(f"{b}.mlp.2", 4 * hidden, hidden)
        state |= linear(f"{b}.adaLN_modulation", cond, 6 * hidden)
    state |= {"output_layer.norm_final.weight": 1 + draw(hidden)}
    state |= linear("output_layer.linear", hidden, vocab)
    state |= linear("output_layer.adaLN_modulation", cond, 2 * hidden)
    if latent:
        state |= linear("latent_projection.0", 128, 512)
        state |= linear("latent_projection.2", 512, hidden)
    return state


def logits(state: State, x: Tensor, sigma: Tensor, heads: int, lam: Tensor | None = None) -> Tensor:
    """Return logits (B, D, V) in float64; `lam` (B,) appends the official students' token."""
    w = {name: tensor.double() for name, tensor in state.items()}
    return torch.stack(
        [
            _example(w, x[b].tolist(), float(sigma[b]), heads, None if lam is None else lam[b])
            for b in range(len(x))
        ]
    )


def _example(w: State, x: list[int], sigma: float, heads: int, lam: Tensor | None) -> Tensor:
    c = _silu(_conditioning(w, sigma))
    h = [w["vocab_embed.embedding"][token] for token in x]
    if lam is not None:
        h.append(_latent_token(w, float(lam)))
    for i in range(sum(name.endswith("attn_qkv.weight") for name in w)):
        h = _block(w, f"blocks.{i}", h, c, heads, len(x))
    shift, scale = _linear(w, "output_layer.adaLN_modulation", c).chunk(2)
    norm = w["output_layer.norm_final.weight"]
    out = [_linear(w, "output_layer.linear", _norm(v, norm) * (1 + scale) + shift) for v in h]
    return torch.stack(out[: len(x)])


def _block(
    w: State, b: str, h: list[Tensor], c: Tensor, heads: int, positions: int
) -> list[Tensor]:
    shift1, scale1, gate1, shift2, scale2, gate2 = _linear(w, f"{b}.adaLN_modulation", c).chunk(6)
    inputs = [_norm(v, w[f"{b}.norm1.weight"]) * (1 + scale1) + shift1 for v in h]
    qkv = [(w[f"{b}.attn_qkv.weight"] @ v).view(3, heads, -1) for v in inputs]
    mixed = []
    for i in range(len(h)):
        parts = []
        for head in range(heads):
            # What is appended behind the positions is not rotated.
            turn = [
                (_rotate(p[0, head], k, positions), _rotate(p[1, head], k, positions))
                for k, p in enumerate(qkv)
            ]
            scores = [float(turn[i][0] @ key) / math.sqrt(len(key)) for _, key in turn]
            top = max(scores)
            weights = [math.exp(s - top) for s in scores]
            total = sum(weights)
            values = [a / total * p[2, head] for a, p in zip(weights, qkv, strict=True)]
            parts.append(torch.stack(values).sum(0))
        mixed.append(torch.cat(parts))
    h = [v + gate1 * (w[f"{b}.attn_out.weight"] @ m) for v, m in zip(h, mixed, strict=True)]
    out = []
    for v in h:
        m = _norm(v, w[f"{b}.norm2.weight"]) * (1 + scale2) + shift2
        out.append(v + gate2 * _linear(w, f"{b}.mlp.2", _gelu(_linear(w, f"{b}.mlp.0", m))))
    return out


def _rotate(v: Tensor, position: int, positions: int) -> Tensor:
    if position >= positions:
        return v
    n = len(v) // 2
    turned = [
        complex(v[j], v[j + n]) * cmath.exp(1j * position * 10_000 ** (-j / n)) for j in range(n)
    ]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=torch.float64)


def _conditioning(w: State, sigma: float) -> Tensor:
    frequencies = [10_000 ** (-j / 128) for j in range(128)]
    features = [math.cos(sigma * f) for f in frequencies] + [
        math.sin(sigma * f) for f in frequencies
    ]
    first = _linear(w, "sigma_map.mlp.0", torch.tensor(features, dtype=torch.float64))
    return _linear(w, "sigma_map.mlp.2", _silu(first))


def _latent_token(w: State, lam: float) -> Tensor:
    """Sines, then cosines, of 1000 lambda at 64 frequencies 1 ... 1e-4, two layers, exact GELU."""
    angles = [1000 * lam * 10_000 ** (-j / 63) for j in range(64)]
    features = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
    first = _linear(w, "latent_projection.0", features)
    return _linear(w, "latent_projection.2", first * (1 + torch.erf(first / math.sqrt(2))) / 2)


def _linear(w: State, name: str, v: Tensor) -> Tensor:
    out = w[f"{name}.weight"] @ v
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def _norm(v: Tensor, weight: Tensor) -> Tensor:
    centred = v - v.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * weight


def _silu(v: Tensor) -> Tensor:
    return v / (1 + (-v).exp())


def _gelu(v: Tensor) -> Tensor:
    return v / 2 * (1 + (math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)).tanh())
