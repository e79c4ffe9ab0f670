r"""The terms of Di4C for each example, by one of several ways to compute them.

  naive       whole tensors log p (N, B, D, S): any network, any process, small vocabularies
  checkpoint  hidden states and heads at the active positions, chunk by chunk, by autograd
  chunked     the same with a backward pass by hand: the fastest where S is large
  two_pass    one lambda at a time, its network's activations included; chunked where there are
              hidden states
All see the same random numbers, `Draws`, and agree to rounding.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from di4c_plugin.algorithms.teacher_step import take_step
from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.errors import UserError
from di4c_plugin.losses.chunk import ChunkTargets, Targets
from di4c_plugin.losses.mixture import kl_divergence, log_mean_exp, token_log_prob
from di4c_plugin.losses.streamed import LogMean, streamed
from di4c_plugin.losses.terms import PositionTerms, example_terms, position_terms
from di4c_plugin.losses.windows import Windows, correlation
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.predict import (
    ActivePositions,
    AllPositions,
    Positions,
    States,
    has_head,
    predict,
    predict_one_by_one,
    split,
)
from di4c_plugin.networks.predictions import Formed, Prediction
from di4c_plugin.samplers.base import inference

LOSSES = ("naive", "checkpoint", "chunked", "two_pass")


@dataclass(frozen=True)
class Trio:
    """The networks of Di4C; `target` stands for the student where gradients stop."""

    student: Denoiser
    teacher: Denoiser
    target: Denoiser


@dataclass(frozen=True)
class Draws:
    """The random draws of an update, for B states with N lambda.

    u, noise, latent, chance and s are for the consistency terms.

    Attributes:
        x_0: data (J, B, D).
        teacher: inputs of the teacher.
        student: inputs of the student.
        u: times (B,) that the teacher steps to; None: no consistency terms.
        noise: decides the N steps of each state, (process.noises, N, B, D).
        latent: of the target network, (N, B, *latent_shape).
        chance: U[0, 1) (N, B, D), which decides x_s.
        s: times (B,) where the student's step ends; None: 0.
        windows: partitions of the positions (B, D) for the correlation terms; none: all at once.
        bound: on log p(x_0 | x_t), (B,), see `example_terms`.
    """

    x_0: Tensor
    teacher: States
    student: States
    u: Tensor | None = None
    noise: Tensor | None = None
    latent: Tensor | None = None
    chance: Tensor | None = None
    s: Tensor | None = None
    windows: tuple[Windows, ...] = ()
    bound: Tensor | None = None

    def after(self, x_u: Tensor) -> States:
        """Return the target's inputs after steps to x_u (N, B, D)."""
        assert self.u is not None, "there are no consistency terms"
        return States(x_u, self.u, self.student.cond, self.latent)


def choose_loss(loss: str, networks: Trio, process: Process) -> str:
    """Return which of `LOSSES` the option `loss` means.

    Raises:
        UserError: if it needs chunks and a network has no hidden states, or a step of the process
            looks at all positions.
    """
    heads = has_heads(networks)
    if loss == "auto":
        return "chunked" if heads and process.factorised else "naive"
    if loss in ("checkpoint", "chunked") and not heads:
        raise UserError(f"loss={loss} needs networks with hidden states and a head: use two_pass")
    if loss in ("checkpoint", "chunked") and not process.factorised:
        name = process.config["name"]
        raise UserError(f"loss={loss} cuts positions apart, which process={name} ranks: use naive")
    return loss


def has_heads(networks: Trio) -> bool:
    """Return whether every network exposes hidden states."""
    used = (networks.student, networks.teacher, networks.target)
    return all(has_head(network) for network in used)


def terms_by(
    loss: str, networks: Trio, draws: Draws, process: Process, max_bytes: int
) -> dict[str, Tensor]:
    """Return distil, data_corr, data_marg, and with `draws.u` consis_corr and consis_marg; (B,)."""
    active = process.active(draws.student.x[0])
    heads = loss != "naive" and has_heads(networks) and process.factorised
    positions = ActivePositions(active) if heads else AllPositions(active)
    work = Work(networks, draws, process, positions, heads, max_bytes)
    if loss == "two_pass" and not heads:
        return work.of_examples(work.one_by_one())
    return work.together(loss)


class Work:
    """One evaluation of the terms at the positions of a loss."""

    def __init__(
        self,
        networks: Trio,
        draws: Draws,
        process: Process,
        positions: Positions,
        hidden: bool,
        max_bytes: int,
    ) -> None:
        self.draws, self.process, self.positions = draws, process, positions
        self.hidden, self.max_bytes = hidden, max_bytes
        self.student, self.teacher = networks.student, networks.teacher
        self.target = networks.target

    def predict(self, denoiser: Denoiser, states: States, *, revealed: bool = False) -> Prediction:
        """Return a prediction at the positions."""
        return predict(
            denoiser, states, self.positions, self.process, hidden=self.hidden, revealed=revealed
        )

    def step(self, teacher: Prediction, states: States, noise: Tensor) -> Tensor:
        """Return x_u (N, B, D) for noise (noises, N, B, D)."""
        assert self.draws.u is not None, "there are consistency terms"
        return take_step(
            self.process, teacher, states, self.positions, noise, self.draws.u, self.max_bytes
        )

    def of_examples(self, terms: PositionTerms) -> dict[str, Tensor]:
        """Return the terms of each example, (B,)."""
        count, length = self.draws.student.x.shape[1:]
        windows = [
            Windows(self.positions.take(cut.index.unsqueeze(0)).squeeze(0), cut.count)
            for cut in self.draws.windows
        ]
        example = self.positions.index // length
        return example_terms(terms, example, count, windows, self.draws.bound)

    # All lambda together

    def together(self, loss: str) -> dict[str, Tensor]:
        """Return the terms of predictions that hold all lambda."""
        targets, x_u = self._targets()
        if loss == "two_pass":
            student: Prediction = predict_one_by_one(
                self.student, self.draws.student, self.positions
            )
            loss = "chunked"
        else:
            student = self.predict(self.student, self.draws.student)
        consistent = targets if self.draws.s is None else replace(targets, target=None)
        terms = position_terms(student, consistent, implementation=loss, max_bytes=self.max_bytes)
        per_example = self.of_examples(terms)
        return (
            per_example
            if x_u is None or self.draws.s is None
            else per_example | self._until(self.draws.s, student, targets, x_u)
        )

    def _targets(self) -> tuple[Targets, Tensor | None]:
        """Return the targets, and x_u (N, B, D) if there are consistency terms."""
        draws = self.draws
        with inference(self.teacher):
            teacher = self.predict(self.teacher, draws.teacher)
        x_0 = self.positions.take(draws.x_0)
        if draws.noise is None or draws.chance is None:
            return Targets(x_0, teacher), None
        with inference(self.target):
            x_u = self.step(teacher, draws.teacher, draws.noise)
            target = self.predict(self.target, draws.after(x_u), revealed=True)
        return Targets(x_0, teacher, target, self.positions.take(draws.chance)), x_u

    def _until(
        self, s: Tensor, student: Prediction, targets: Targets, x_u: Tensor
    ) -> dict[str, Tensor]:
        """Return the consistency terms for steps that end at s > 0, over x_s with its masks."""
        draws, process = self.draws, self.process
        assert draws.u is not None, "there are consistency terms"
        assert draws.chance is not None, "there are consistency terms"
        n, (b, d) = len(x_u), x_u.shape[1:]

        def posterior(prediction: Prediction | None, x: Tensor, t: Tensor) -> Tensor:
            assert isinstance(prediction, Formed), "steps that end at s > 0 take loss=naive"
            rows = prediction.values.unflatten(1, (b, d)).flatten(0, 1)
            log_p = process.log_posterior(rows, x.flatten(0, 1), t.repeat(n), s.repeat(n))
            return log_p.unflatten(0, (n, b))

        with torch.no_grad():
            log_p_s = posterior(targets.target, x_u, draws.u)
            x_s = inverse_cdf(log_p_s, draws.chance)
        x_t = draws.student.x
        log_p = posterior(student, x_t.expand(n, b, d), draws.student.t)
        active = process.active(x_t[0])
        ell = token_log_prob(log_p, x_s, active).flatten(2)
        example = torch.arange(b, device=ell.device).repeat_interleave(d)
        windows = [Windows(cut.index.flatten(), cut.count) for cut in draws.windows]
        return {
            "consis_corr": correlation(ell, example, b, windows),
            "consis_marg": kl_divergence(log_mean_exp(log_p_s), log_mean_exp(log_p), active),
        }

    # One lambda at a time

    def one_by_one(self) -> PositionTerms:
        """Return the terms with the logits of one lambda at a time."""
        q, x_u = self._stream_teacher()
        x_s, q_s = (None, None) if x_u is None else self._stream_target(x_u)
        targets = ChunkTargets(self.positions.take(self.draws.x_0), q, x_s, q_s)
        calls = [partial(self._log_p, self.student, one) for one in split(self.draws.student)]
        active = self.process.active(self.draws.student.x[0]).flatten()
        return PositionTerms(*streamed(calls, active, targets))

    def _log_p(self, denoiser: Denoiser, states: States) -> Tensor:
        """Return log p (P, S) of states with one lambda."""
        return self.predict(denoiser, states).log_p(slice(None))[0]

    def _stream_teacher(self) -> tuple[Tensor, Tensor | None]:
        r"""Return log q (P, S) and x_u (N, B, D)."""
        mean, x_u, noise = LogMean(), [], self.draws.noise
        states = split(self.draws.teacher)
        with inference(self.teacher):
            for n, single in enumerate(states):
                prediction = self.predict(self.teacher, single)
                mean.add(prediction.log_p(slice(None))[0])
                if noise is not None:
                    step_noise = noise if len(states) == 1 else noise[:, n : n + 1]
                    x_u.append(self.step(prediction, single, step_noise))
        return mean.value, torch.cat(x_u) if x_u else None

    def _stream_target(self, x_u: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return x_s (N, P) and the log-marginals (P, S) that it is drawn from."""
        mean, x_s, draws = LogMean(), [], self.draws
        assert draws.chance is not None, "there are consistency terms"
        chance = self.positions.take(draws.chance)
        with inference(self.target):
            for u, single in zip(chance, split(draws.after(x_u)), strict=True):
                log_p = self._log_p(self.target, single)
                mean.add(log_p)
                x_s.append(inverse_cdf(log_p, u))
        return torch.stack(x_s), mean.value
