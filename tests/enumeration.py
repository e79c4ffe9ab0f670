"""Sums over every state of a small space, in float64: the truth the other tests compare with.

Laws are vectors of probabilities over `states(size, D)`; a kernel is a row-stochastic matrix.
"""

import itertools

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.networks.denoiser import repeated


def states(size: int, positions: int) -> Tensor:
    """All of {0 ... size - 1}^D in lexicographic order, shape (size^D, D)."""
    return torch.tensor(list(itertools.product(range(size), repeat=positions)))


def rank(x: Tensor, size: int) -> Tensor:
    """Where in `states` each row of x (..., D) stands."""
    place = size ** torch.arange(x.shape[-1] - 1, -1, -1)
    return (x * place).sum(-1)


def product_law(log_p: Tensor) -> Tensor:
    """prod_d p^d(x^d) for every x: (..., D, S) to (..., S^D)."""
    first, *others = log_p.double().exp().unbind(-2)
    law = first
    for p in others:
        law = (law.unsqueeze(-1) * p.unsqueeze(-2)).flatten(-2)
    return law


def marginals(law: Tensor, size: int, positions: int) -> Tensor:
    """p^d(s) for every d and s: (size^D,) to (D, size)."""
    x = states(size, positions)
    return torch.stack([law @ (x == s).double() for s in range(size)], -1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of two laws."""
    return (p - q).abs().sum(-1) / 2


def relative_entropy(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) in nats of two laws, with 0 log 0 = 0."""
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(-1)


def step_kernels(process: Process, log_p: Tensor, t: float, s: float) -> Tensor:
    """p(x_s | x_t; lambda_n) for every pair, from log_p (N, num_states^D, D, S): (N, M, M)."""
    x = states(process.num_states, log_p.shape[-2])
    times = [torch.full(x.shape[:1], time, dtype=torch.float64) for time in (t, s)]
    return torch.stack([product_law(process.log_posterior(p, x, *times)) for p in log_p])


class TableDenoiser:
    """Random p_{0|t} for every x_t, D positions and N equal cells of lambda: an exact mixture.

    With one component it is a product model, as a teacher is.
    """

    def __init__(
        self,
        process: Process,
        positions: int,
        components: int = 1,
        *,
        seed: int = 0,
        scale: float = 1.5,
    ) -> None:
        self.process, self.positions, self.components = process, positions, components
        self.latent_shape = None if components == 1 else (1,)
        generator = torch.Generator().manual_seed(seed)
        shape = (components, process.num_states**positions, positions, process.num_tokens)
        self.logits = scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    def __call__(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`; the logits are linear in t."""
        assert (latent is None) == (self.latent_shape is None)
        if latent is not None:
            x_t, t = repeated(len(latent), x_t, t)
        cell = torch.zeros_like(x_t[:, 0])
        if latent is not None:
            cell = (latent[:, 0] * self.components).long()
        at_0, at_1 = self.logits[:, cell, rank(x_t, self.process.num_states)]
        return self.process.carry_over(
            torch.lerp(at_0, at_1, t.view(-1, 1, 1)).log_softmax(-1), x_t
        )

    def table(self, t: float) -> Tensor:
        """log p_{0|t} for every cell and every x_t, (N, num_states^D, D, S)."""
        x = states(self.process.num_states, self.positions)
        times = torch.full(x.shape[:1], t, dtype=torch.float64)
        middles = [(n + 0.5) / self.components for n in range(self.components)]
        if self.latent_shape is None:
            return self(x, times)[None]
        return torch.stack([self(x, times, latent=torch.full((len(x), 1), m)) for m in middles])

    def kernels(self, t: float, s: float) -> Tensor:
        """p(x_s | x_t; lambda_n) for every pair of states, (N, M, M)."""
        return step_kernels(self.process, self.table(t), t, s)


def assert_drawn_from(indices: Tensor, law: Tensor) -> None:
    """Chi-square of the drawn indices within 4 standard deviations; no impossible draw."""
    counts = torch.bincount(indices.flatten(), minlength=len(law)).double()
    possible = law > 0
    assert counts[~possible].sum() == 0
    expected = law[possible] * counts.sum()
    assert expected.min() >= 5, "too few draws for the chi-square approximation"
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum()
    freedom = max(int(possible.sum()) - 1, 1)
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5
