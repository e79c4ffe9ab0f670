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
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Annotated

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Role, Update
from di4c_plugin.algorithms.di4c_encoder import DataBound, data_bound, encoder_role, warmed
from di4c_plugin.algorithms.di4c_terms import LOSSES, Draws, Trio, choose_loss, terms_by
from di4c_plugin.algorithms.noising import (
    drawn_latent,
    drop_labels,
    earlier,
    low_discrepancy_times,
    more_early,
)
from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.categorical import host_uniform, uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.alpha import ALPHAS, correlation_weight
from di4c_plugin.losses.windows import Windows, place_windows
from di4c_plugin.networks.denoiser import NO_LABEL, Denoiser
from di4c_plugin.networks.predict import States, has_head
from di4c_plugin.options import typed
from di4c_plugin.values import Choices, Count, Factor, Range, Share, Size


@dataclass(frozen=True)
class Weights:
    """The weight of each term; 0 switches it off. The defaults are those for OpenWebText."""

    distil: float = 1.0
    consis_corr: float = 1.0
    consis_marg: float = 1.0
    data_corr: float = 0.1
    data_marg: float = 1.0


WeightName = Annotated[str, Choices(*asdict(Weights()))]


@dataclass(frozen=True)
class Noised:
    """The noised inputs of an update.

    Attributes:
        x_t: states (B, D) at times t (B,), with labels cond (B,) or None.
        x_0: data that these states may come from, (J, B, D).
        latents: number of lambda for each x_t.
    """

    x_t: Tensor
    t: Tensor
    cond: Tensor | None
    x_0: Tensor
    latents: int


class Di4C(Algorithm):
    """The Di4C loss for any process and any time per example.

    The defaults are the authors' values for OpenWebText (github.com/sony/di4c, sdtt/), or the
    simplest choice where the authors have no such option; configs/recipe has those for other
    networks and data.

    Args:
        process: the forward process of teacher and student.
        latents: N, the number of lambda that estimate the mixture, and of joint samples x_s^j.
        states: number of examples of a batch that get their own x_t; None: all.
        prior_share: share of the updates spent at t = 1, on one x_1 drawn from the prior. A sampler
            starts there whatever x_0 is, so that all examples of one label are targets of the same
            state: one set of N x `states` lambda serves them all. At equal cost the mixture is
            estimated with `states` times as many components, for the step that decides most.
        stratified: spread the N lambda evenly over [0, 1) instead of drawing them independently.
        delta: below this t the student learns from the teacher directly (`distil`).
        delta_share: share of the examples with t below `delta`; None: t is uniform.
        delta_t: range of t - u, log-uniform; the step is at most t / 2.
        delta_t_end: range at the end of training, reached geometrically; None: no annealing.
        min_time: t is drawn from [min_time, 1].
        partial: draw s uniformly from [0, u) instead of s = 0 for the consistency terms.
        alpha: weight of `data_corr` over t: "sigmoid", "linear", "const".
        label_dropout: share of examples distilled without their class label.
        windows: sizes of windows of neighbouring positions, such as (2, 4, 8): the correlation
            terms are sums over windows at random places, averaged over the sizes (ours, see
            `losses.windows`); none: over all positions at once, as in the paper.
        encoder: K, the number of lambda from an encoder q(lambda | x_0, x_t), a second network,
            that bound the data's joint probability instead of the N (see `di4c_encoder`); 0: no
            encoder. The bound is over all positions: windows then apply to consistency alone.
        encoder_hidden: width of the encoder; a multiple of 32.
        encoder_blocks: number of its blocks.
        encoder_lr: factor on the learning rate of the encoder.
        encoder_warmup: share of the training over which the weight of KL(encoder || prior) grows
            to 1: in full from the start, it would keep the encoder at the prior.
        grid: shape of the positions, (h, w) or (channels, h, w) of pictures, whose windows are
            squares; None: a sequence.
        weights: overrides of `Weights`.
        loss: how the terms are computed, see `di4c_plugin.algorithms.di4c_terms`; "auto": by chunks
            if all networks expose hidden states, else whole tensors.
        loss_mb: budget of a chunk, in MiB.
        target: the network that replaces the student where gradients stop: "student" itself, or
            its moving "average".

    Raises:
        UserError: for values out of range, unknown weights, an unknown loss or target.
    """

    @typed
    def __init__(
        self,
        process: Process,
        *,
        latents: Count = 16,
        states: Count | None = None,
        prior_share: Share = 0.0,
        stratified: bool = True,
        delta: Annotated[float, Range(0, below=1)] = 0.02,
        delta_share: Share | None = 0.3,
        delta_t: tuple[float, float] = (1 / 1024, 1 / 1024),
        delta_t_end: tuple[float, float] | None = None,
        min_time: Annotated[float, Range(0, below=1)] = 1e-3,
        partial: bool = False,
        alpha: Annotated[str, Choices(*ALPHAS)] = "sigmoid",
        label_dropout: Share = 0.1,
        windows: Sequence[Annotated[int, Range(2)]] = (),
        encoder: Annotated[int, Range(0)] = 0,
        encoder_hidden: Size = 128,
        encoder_blocks: Size = 3,
        encoder_lr: Factor = 1.0,
        encoder_warmup: Share = 0.5,
        grid: Sequence[Count] | None = None,
        weights: Mapping[WeightName, Annotated[float, Range(0)]] | None = None,
        loss: Annotated[str, Choices("auto", *LOSSES)] = "auto",
        loss_mb: Count = 128,
        target: Annotated[str, Choices("student", "average")] = "student",
    ) -> None:
        for low, high in (delta_t, delta_t_end or delta_t):
            if not 0 < low <= high < 1:
                raise UserError(f"delta_t needs 0 < low <= high < 1, not {low}, {high}")
        if delta_share is not None and min_time > delta:
            raise UserError(f"min_time must be at most delta, not {min_time} and {delta}")
        self.weights = Weights(**(weights or {}))
        if not any(asdict(self.weights).values()):
            raise UserError("all weights are 0: there is nothing to learn")
        if partial and loss not in ("auto", "naive"):
            raise UserError(f"partial=true goes with loss=naive (or auto), not {loss}")
        if partial and not process.factorised:
            name = process.config["name"]
            raise UserError(f"partial=true needs a step with a posterior: not process={name}")
        self.averaged = target == "average"
        roles = {"student": Role(latent="required", averaged=self.averaged)}
        self.encoder, self.encoder_warmup = encoder, encoder_warmup
        if encoder:
            if not self.weights.data_corr:
                raise UserError("encoder is for the term data_corr, whose weight is 0")
            roles["encoder"] = encoder_role(encoder_lr, encoder_hidden, encoder_blocks)
        self.roles, self.process, self.stratified = roles, process, stratified
        self.latents, self.states, self.prior_share = latents, states, prior_share
        self.delta, self.delta_share = delta, delta_share
        self.min_time, self.partial = min_time, partial
        self.delta_t, self.delta_t_end = delta_t, delta_t_end or delta_t
        self.alpha, self.label_dropout = alpha, label_dropout
        self.windows, self.grid = tuple(windows), None if grid is None else tuple(grid)
        self.loss, self.max_bytes = loss, loss_mb << 20

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        student, teacher = networks["student"], networks["teacher"]
        trio = Trio(student, teacher, networks["student_average"] if self.averaged else student)
        noised = self._noise(batch, update.generator)
        loss = choose_loss("naive" if self.partial else self.loss, trio, self.process)
        draws = self._draws(trio, noised, update)
        draws = replace(draws, windows=self._windows(noised, update.generator))
        bound: DataBound | None = None
        if self.encoder:
            bound = data_bound(
                student,
                networks["encoder"],
                noised.x_0,
                draws.student,
                self.process,
                count=self.encoder,
                strength=warmed(update.progress, self.encoder_warmup),
                generator=update.generator,
                hidden=loss != "naive" and has_head(student),
                max_bytes=self.max_bytes,
            )
            draws = replace(draws, bound=bound.value)
        per_example = terms_by(loss, trio, draws, self.process, self.max_bytes)
        near = noised.t < self.delta
        alpha = correlation_weight(self.alpha, noised.t)
        scale = {"distil": near, "consis_corr": ~near, "consis_marg": ~near, "data_corr": alpha}
        terms = {
            name: (value * scale[name].to(value.dtype) if name in scale else value).mean()
            for name, value in per_example.items()
        }
        weights = {name: weight for name, weight in asdict(self.weights).items() if weight}
        total = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        totals, log = {"student": total}, {name: terms[name].detach() for name in weights}
        if bound is not None:  # one loss of both networks
            totals["encoder"], log["encoder_kl"] = total.new_zeros(()), bound.divergence.mean()
        return LossTerms(totals, log)

    def _noise(self, batch: Batch, generator: torch.Generator) -> Noised:
        if self.prior_share and host_uniform(generator) < self.prior_share:
            return self._at_prior(batch, generator)
        batch = batch.first(self.states)
        x_0, cond = batch.x_0, batch.cond
        t = low_discrepancy_times(len(x_0), self.min_time, generator)
        if self.delta_share is not None:
            t = more_early(t, self.delta, self.delta_share, self.min_time)
        x_t = batch.keep(self.process.corrupt(x_0, t, generator=generator))
        cond = drop_labels(cond, self.label_dropout, generator)
        return Noised(x_t, t, cond, x_0.unsqueeze(0), self.latents)

    def _at_prior(self, batch: Batch, generator: torch.Generator) -> Noised:
        """Return one state at t = 1, and the examples that it may have come from.

        With labels, these are the examples that share the label of the first; as often as labels
        are dropped, all examples without a label. With prompts, the first example alone.
        """
        x_0, cond = batch.x_0, None if batch.cond is None else batch.cond[:1]
        latents = self.latents * len(x_0[: self.states])
        if batch.given is not None:
            batch = batch.first(1)
            x_0 = batch.x_0
        if batch.cond is not None and cond is not None:
            if host_uniform(generator) < self.label_dropout:
                cond = torch.full_like(cond, NO_LABEL)
            else:
                # On a GPU this waits for the device: the count becomes a shape.
                x_0 = x_0[batch.cond == cond]
        x_1 = self.process.prior((1, x_0.shape[1]), generator=generator, device=x_0.device)
        x_1 = x_1 if batch.given is None else batch.keep(x_1)
        t = torch.ones(1, dtype=torch.float64, device=x_0.device)
        return Noised(x_1, t, cond, x_0.unsqueeze(1), latents)

    def _draws(self, networks: Trio, noised: Noised, update: Update) -> Draws:
        """Draw everything that is random in an update, however the terms are computed."""
        generator = update.generator
        teacher = self._states(networks.teacher, noised, generator)
        student = self._states(networks.student, noised, generator)
        if not (self.weights.consis_corr or self.weights.consis_marg):
            return Draws(noised.x_0, teacher, student)
        shape = (noised.latents, *noised.x_t.shape)
        u = earlier(noised.t, self._step_range(update.progress), generator)
        end = uniform(u.shape, generator=generator, device=u.device) if self.partial else None
        noise = self.process.step_noise(shape, generator=generator, device=u.device)
        latent = self._latent(networks.target, noised, generator)
        chance = uniform(shape, generator=generator, device=u.device)
        s = None if end is None else u * end
        return Draws(noised.x_0, teacher, student, u, noise, latent, chance, s)

    def _windows(self, noised: Noised, generator: torch.Generator) -> tuple[Windows, ...]:
        """Place windows of each size; raises UserError for a grid of another length."""
        batch, length = noised.x_t.shape
        grid = self.grid or (length,)
        if self.windows and prod(grid) != length:
            raise UserError(
                f"windows: algo.grid={list(grid)} has not the {length} positions of the network"
            )
        return tuple(place_windows(size, grid, batch, generator=generator) for size in self.windows)

    def _states(self, denoiser: Denoiser, noised: Noised, generator: torch.Generator) -> States:
        """Return the noised states with N lambda for a mixture."""
        latent = self._latent(denoiser, noised, generator)
        return States(noised.x_t.unsqueeze(0), noised.t, noised.cond, latent)

    def _latent(
        self, denoiser: Denoiser, noised: Noised, generator: torch.Generator
    ) -> Tensor | None:
        """Draw N lambda for each x_t, (N, B, *latent_shape); None for a product model."""
        count, batch = noised.latents, len(noised.t)
        return drawn_latent(denoiser, count, batch, generator, stratified=self.stratified)

    def _step_range(self, progress: float) -> tuple[float, float]:
        """Return the range of t - u, which shrinks geometrically."""
        low, high = (
            start * (end / start) ** progress
            for start, end in zip(self.delta_t, self.delta_t_end, strict=True)
        )
        return low, high
