r"""Di4C: distillation through dimensional correlations.

Hayakawa, Takida, Imaizumi, Wakaki, Mitsufuji, ICML 2025, arXiv 2410.08709.

A product-model teacher p^psi takes a short step t -> u; the student p^theta, a mixture over lambda,
finishes u -> s with its gradient stopped; and the student learns to go from t to s at once:

    x_t ~ q_t,  x_u^j ~ p^psi_{u|t}(. | x_t),  x_s^j ~ p^{sg theta}_{s|u}(. | x_u^j; lambda_j).

The terms, sums over positions in nats per example (paper: loss functions, control variates):
  distil       E_lambda sum_d KL(p^psi_{0|t} || p^theta_{0|t}(. ; lambda)), where t < delta
  consis_corr  elsewhere, KL(p^{sg theta}_{s|u} o p^psi_{u|t} || p^theta_{s|t}): correlation part
  consis_marg  and marginal part, sum_d KL(mean_j p_{s|u}(. | x_u^j; lambda_j) || bar p_{s|t})
  data_corr    -log p^theta_{0|t}(x_0 | x_t) on data: correlation part, weighted by alpha_t
  data_marg    and marginal part, with the teacher's marginals: sum_d KL(p^psi_{0|t} || bar p_{0|t})
Tests by enumeration: tests/algorithms/test_di4c.py.
"""

from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks
from di4c_plugin.algorithms.noising import (
    NO_LABEL,
    drop_labels,
    low_discrepancy_times,
    more_early,
)
from di4c_plugin.diffusion import Process, sample_categorical
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.alpha import correlation_weight
from di4c_plugin.losses.mixture import (
    correlation_loss,
    kl_divergence,
    log_mean_exp,
    marginal_log_prob,
    token_log_prob,
)
from di4c_plugin.models.denoiser import Denoiser, LatentDenoiser
from di4c_plugin.models.latent import draw_latents
from di4c_plugin.samplers.base import inference


@dataclass(frozen=True)
class Weights:
    """The weight of each term; 0 switches it off."""

    distil: float = 1.0
    consis_corr: float = 1.0
    consis_marg: float = 1.0
    data_corr: float = 1.0
    data_marg: float = 1.0


@dataclass(frozen=True)
class Noised:
    """What an update predicts from.

    Attributes:
        x_t: states (B, D) at times t (B,), with labels cond (B,) or None.
        x_0: data that these states may come from, (J, B, D).
        latents: how many lambda each x_t gets.
    """

    x_t: Tensor
    t: Tensor
    cond: Tensor | None
    x_0: Tensor
    latents: int

    def rows(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return x_t, t and cond once for each lambda, `latents` x B rows, lambda-major."""
        n = self.latents
        cond = None if self.cond is None else self.cond.repeat(n)
        return self.x_t.repeat(n, 1), self.t.repeat(n), cond


@dataclass(frozen=True)
class Composed:
    """Samples x_s (J, B, D) of the composition, log p_{s|u} (J, B, D, S or states); s None: 0."""

    s: Tensor | None
    x_s: Tensor
    log_p_s: Tensor


class Di4C(Algorithm):
    """The Di4C loss for any process and any time per example.

    Args:
        process: the forward process of teacher and student.
        latents: N, how many lambda estimate the mixture; also how many joint samples x_s^j.
        states: how many examples of a batch get an x_t of their own; None: all.
        prior_share: share of the updates spent at t = 1 where the prior is a single state. All
            examples then have the same x_t: one set of N x `states` lambda serves them all, and
            each example of the batch is a target. At equal cost the mixture is estimated with
            `states` times as many components, for the step that decides most.
        stratified: spread the N lambda evenly over [0, 1) instead of drawing them independently.
        delta: below this t the student learns from the teacher directly (`distil`).
        delta_share: share of the examples with t below `delta`; None: t is uniform.
        delta_t: range of t - u, log-uniform; the step is at most t / 2.
        delta_t_end: range at the end of training, reached geometrically; None: no annealing.
        min_time: t is drawn from [min_time, 1].
        partial: draw s uniformly from [0, u) instead of s = 0 for the consistency terms.
        alpha: weight of `data_corr` over t: "sigmoid", "linear", "const".
        label_dropout: share of examples distilled without their class label.
        weights: overrides of `Weights`; released settings for text and ImageNet have data_corr 0.1.

    Raises:
        UserError: for values out of range or unknown weights.
    """

    def __init__(
        self,
        process: Process,
        *,
        latents: int = 8,
        states: int | None = None,
        prior_share: float = 0.0,
        stratified: bool = True,
        delta: float = 0.05,
        delta_share: float | None = None,
        delta_t: tuple[float, float] = (0.125, 0.125),
        delta_t_end: tuple[float, float] | None = None,
        min_time: float = 1e-3,
        partial: bool = False,
        alpha: str = "sigmoid",
        label_dropout: float = 0.1,
        weights: dict[str, float] | None = None,
    ) -> None:
        if latents < 1 or (states is not None and states < 1):
            raise UserError(f"latents and states must be at least 1, not {latents} and {states}")
        if not 0 <= prior_share <= (1 if process.has_point_prior else 0):
            raise UserError(
                f"prior_share must be in [0, 1], and 0 where the prior is random, not {prior_share}"
            )
        for low, high in (delta_t, delta_t_end or delta_t):
            if not 0 < low <= high < 1:
                raise UserError(f"delta_t needs 0 < low <= high < 1, not {low}, {high}")
        if delta_share is not None and not (0 <= delta_share <= 1 and min_time <= delta < 1):
            raise UserError(
                "delta_share must be in [0, 1], with min_time <= delta < 1, "
                f"not {delta_share}, {min_time}, {delta}"
            )
        unknown = set(weights or {}) - set(asdict(Weights()))
        if unknown:
            raise UserError(f"unknown weights {unknown}; there are {', '.join(asdict(Weights()))}")
        self.weights = Weights(**(weights or {}))
        if not any(asdict(self.weights).values()):
            raise UserError("all weights are 0: there is nothing to learn")
        correlation_weight(alpha, torch.ones(()))
        self.process = process
        self.latents, self.states, self.prior_share = latents, states, prior_share
        self.stratified = stratified
        self.delta, self.delta_share = delta, delta_share
        self.min_time, self.partial = min_time, partial
        self.delta_t, self.delta_t_end = delta_t, delta_t_end or delta_t
        self.alpha, self.label_dropout = alpha, label_dropout

    def losses(
        self, batch: Batch, networks: Networks, *, generator: torch.Generator, progress: float
    ) -> LossTerms:
        """See `Algorithm.losses`."""
        assert networks.teacher is not None, "Di4C distils a teacher"
        noised = self._noise(batch, generator)
        with inference(networks.teacher):
            log_q = self._predict(networks.teacher, noised, generator)
        log_p = self._predict(networks.student, noised, generator)
        terms = self._distil(noised, log_q, log_p) | self._data(noised, log_q, log_p)
        if self.weights.consis_corr or self.weights.consis_marg:
            composed = self._compose(networks, noised, log_q, generator, progress)
            terms |= self._consistency(noised, composed, log_p)
        used = {name: weight for name, weight in asdict(self.weights).items() if weight}
        total = torch.stack([weight * terms[name] for name, weight in used.items()]).sum()
        return LossTerms(total, {name: terms[name].detach() for name in used})

    def _noise(self, batch: Batch, generator: torch.Generator) -> Noised:
        device = batch.x_0.device
        if self.prior_share:
            u = uniform((), generator=generator, device=device)
            if bool(u < self.prior_share):
                return self._at_prior(batch, generator)
        x_0 = batch.x_0[: self.states]
        cond = None if batch.cond is None else batch.cond[: self.states]
        t = low_discrepancy_times(len(x_0), self.min_time, generator)
        if self.delta_share is not None:
            t = more_early(t, self.delta, self.delta_share, self.min_time)
        x_t = self.process.corrupt(x_0, t, generator=generator)
        cond = drop_labels(cond, self.label_dropout, generator)
        return Noised(x_t, t, cond, x_0.unsqueeze(0), self.latents)

    def _at_prior(self, batch: Batch, generator: torch.Generator) -> Noised:
        """Return the one state at t = 1, without label, that every example may have come from."""
        x_0 = batch.x_0
        x_1 = self.process.prior((1, x_0.shape[1]), generator=generator, device=x_0.device)
        t = torch.ones(1, dtype=torch.float64, device=x_0.device)
        cond = None if batch.cond is None else torch.full_like(batch.cond[:1], NO_LABEL)
        return Noised(x_1, t, cond, x_0.unsqueeze(1), self.latents * len(x_0[: self.states]))

    def _predict(self, denoiser: Denoiser, noised: Noised, generator: torch.Generator) -> Tensor:
        """Return log p_{0|t} for each lambda, (N, B, D, S); N = 1 for a product model."""
        if getattr(denoiser, "latent_shape", None) is None:
            return denoiser(noised.x_t, noised.t, cond=noised.cond).unsqueeze(0)
        x_t, t, cond = noised.rows()
        log_p = denoiser(x_t, t, cond=cond, latent=self._draw(denoiser, noised, generator))
        return log_p.unflatten(0, (noised.latents, -1))

    def _draw(self, denoiser: Denoiser, noised: Noised, generator: torch.Generator) -> Tensor:
        """Return a lambda for each of `noised.rows()`, shape (N B, *latent_shape)."""
        return draw_latents(
            cast(LatentDenoiser, denoiser).latent_shape,
            noised.latents,
            len(noised.t),
            generator=generator,
            device=generator.device,
            stratified=self.stratified,
        ).flatten(0, 1)

    def _compose(
        self,
        networks: Networks,
        noised: Noised,
        log_q: Tensor,
        generator: torch.Generator,
        progress: float,
    ) -> Composed:
        """Draw from p^{sg theta}_{s|u} o p^psi_{u|t}, N joint samples for each x_t."""
        target = networks.target or networks.student
        n, split = noised.latents, (noised.latents, len(noised.t))
        x_t, t, cond = noised.rows()
        u = self._intermediate_time(noised.t, generator, progress)
        s = u * uniform(u.shape, generator=generator, device=u.device) if self.partial else None
        u, log_q = u.repeat(n), log_q.expand(n, -1, -1, -1).flatten(0, 1)
        with inference(target):
            x_u = self.process.step(log_q, x_t, t, u, generator=generator)
            latent = self._draw(target, noised, generator)
            log_p_s = target(x_u, u, cond=cond, latent=latent)
            if s is not None:
                log_p_s = self.process.log_posterior(log_p_s, x_u, u, s.repeat(n))
            x_s = sample_categorical(log_p_s, generator=generator)
        return Composed(s, x_s.unflatten(0, split), log_p_s.unflatten(0, split))

    def _intermediate_time(self, t: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        """Return u in [t/2, t): the teacher never does more than half of the way to 0."""
        low, high = (
            start * (end / start) ** progress
            for start, end in zip(self.delta_t, self.delta_t_end, strict=True)
        )
        share = uniform(t.shape, generator=generator, device=t.device)
        return t - torch.minimum(low * (high / low) ** share, t / 2)

    def _distil(self, noised: Noised, log_q: Tensor, log_p: Tensor) -> dict[str, Tensor]:
        active = self.process.active(noised.x_t)
        kl = kl_divergence(marginal_log_prob(log_q), log_p, active).mean(0)
        return {"distil": kl.where(noised.t < self.delta, 0).mean()}

    def _consistency(self, noised: Noised, composed: Composed, log_p: Tensor) -> dict[str, Tensor]:
        if composed.s is not None:
            x_t, t, _ = noised.rows()
            s = composed.s.repeat(noised.latents)
            log_p_s = self.process.log_posterior(log_p.flatten(0, 1), x_t, t, s)
            log_p = log_p_s.unflatten(0, (noised.latents, -1))
        active, far = self.process.active(noised.x_t), noised.t >= self.delta
        corr = correlation_loss(token_log_prob(log_p, composed.x_s, active))
        marg = kl_divergence(log_mean_exp(composed.log_p_s), marginal_log_prob(log_p), active)
        return {
            "consis_corr": corr.where(far, 0).mean(),
            "consis_marg": marg.where(far, 0).mean(),
        }

    def _data(self, noised: Noised, log_q: Tensor, log_p: Tensor) -> dict[str, Tensor]:
        active = self.process.active(noised.x_t)
        corr = correlation_loss(token_log_prob(log_p, noised.x_0, active))
        alpha = correlation_weight(self.alpha, noised.t).to(corr.dtype)
        marg = kl_divergence(marginal_log_prob(log_q), marginal_log_prob(log_p), active)
        return {"data_corr": (alpha * corr).mean(), "data_marg": marg.mean()}
