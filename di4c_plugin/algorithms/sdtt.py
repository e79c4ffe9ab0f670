r"""SDTT: self-distillation through time, several steps of a teacher in one of the student.

Deschenaux and Gulcehre, "Beyond Autoregression: Fast LLMs via Self-Distillation Through Time",
2024, arXiv 2410.21035. In round r the teacher takes steps of \delta = m^r / T, m of them from x_t:

    x_{t - i \delta}, i = 0 ... m - 1, by the teacher's own steps
    q^d = the teacher's prediction for position d at the last of them where d is still open
    loss = D(p^d_{0|t}(. | x_t), q^d), averaged over the positions that x_t leaves open

At the round's end the student is the next teacher: T steps become T / m^rounds. With a latent whose
noise enters the embedding of the mask (`mask_noise`) the student is IM-SDTT's (IMDM, 2026, arXiv
2605.10518). Where every position stays open, as in uniform-state diffusion, q is the prediction at
t - (m - 1) \delta.

  dcd  discrete consistency distillation (Duo, Sahoo et al. 2025, arXiv 2506.10892) of uniform-state
       diffusion: the earlier state is made from the data by the noise of x_t, not by the teacher
"""

from collections.abc import Collection
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Role, Update
from di4c_plugin.algorithms.chunking import Loss, takes_chunks
from di4c_plugin.algorithms.noising import drawn_latent, drop_labels, low_discrepancy_times
from di4c_plugin.algorithms.teacher_step import take_step
from di4c_plugin.diffusion import Process, Uniform
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.diffusion.process import per_position
from di4c_plugin.errors import UserError
from di4c_plugin.losses.divergences import DIVERGENCES
from di4c_plugin.losses.positions import position_sums
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.predict import (
    ActivePositions,
    AllPositions,
    Positions,
    States,
    predict,
)
from di4c_plugin.networks.predictions import Prediction
from di4c_plugin.options import typed
from di4c_plugin.samplers.base import inference
from di4c_plugin.values import Choices, Count, Share


class SDTT(Algorithm):
    r"""The SDTT loss for any process with a step, in rounds.

    Args:
        process: the forward process of teacher and student.
        teacher_steps: T, the number of steps of the first teacher.
        steps: the number of steps of the final student, T / m^rounds.
        substeps: m, the number of the teacher's steps that one step of the student replaces.
        divergence: D. "kl": KL(q || p); "reverse_kl": KL(p || q); "mse": of log-probabilities;
            "tvd": total variation; "l1": of log-probabilities, what the released code calls tvd.
        trajectory: where the later states come from. "teacher": its steps; "data": of uniform-state
            diffusion, the state at t - (m - 1) \delta with the noise that made x_t.
        times: "even": t is uniform, the steps are \delta apart; "grid": t is one of the times at
            which the student's sampler calls it; "released": t is uniform, and the steps start
            where the released code has them, at t w + (1 - t)(t - m \delta), w = 1 ... 0 evenly.
        renew: what each round resets: "optimiser", "average".
        min_time: t is at least this.
        label_dropout: share of examples distilled without their class label.
        loss: "naive", whole tensors of log-probabilities; "chunked", of hidden states and heads;
            "auto": by chunks if both networks expose hidden states.
        loss_mb: budget of a chunk, in MiB.

    Raises:
        UserError: for values out of range and options that do not go with each other.
    """

    @typed
    def __init__(
        self,
        process: Process,
        *,
        teacher_steps: int = 1024,
        steps: int = 8,
        substeps: int = 2,
        divergence: Annotated[str, Choices(*DIVERGENCES)] = "reverse_kl",
        trajectory: Annotated[str, Choices("teacher", "data")] = "teacher",
        times: Annotated[str, Choices("even", "grid", "released")] = "even",
        renew: Collection[Annotated[str, Choices("optimiser", "average")]] = (),
        min_time: float = 1e-3,
        label_dropout: Share = 0.1,
        loss: Loss = "auto",
        loss_mb: Count = 128,
    ) -> None:
        self.rounds = rounds_between(teacher_steps, steps, substeps)
        if trajectory == "data" and not isinstance(process, Uniform):
            raise UserError("trajectory=data is for uniform-state diffusion")
        if trajectory == "data" and times == "released":
            raise UserError("times=released goes with trajectory=teacher")
        if not 0 < min_time < 1 / steps:
            raise UserError(f"min_time must be above 0 and below 1/steps, not {min_time}")
        self.renew = tuple(renew)
        self.roles = {"student": Role(latent="optional")}
        # lambda is the noise of one pass: a new one at every step.
        self.sampling = {"steps": steps, "latents": "fresh"}
        self.process, self.teacher_steps, self.substeps = process, teacher_steps, substeps
        self.divergence, self.trajectory, self.times = divergence, trajectory, times
        self.min_time, self.label_dropout = min_time, label_dropout
        self.loss, self.max_bytes = loss, loss_mb << 20

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        if update.rounds != self.rounds:
            raise UserError(
                f"{self.teacher_steps} steps become {self.sampling['steps']} in {self.rounds} "
                f"rounds, not {update.rounds}: say algo.steps, not rounds"
            )
        generator, student, teacher = update.generator, networks["student"], networks["teacher"]
        t, starts = self._times(len(batch.x_0), update)
        cond = drop_labels(batch.cond, self.label_dropout, generator)
        if self.trajectory == "data":
            x_t, x_u = coupled(self.process, batch.x_0, t, starts[-1], generator)
        else:
            x_t = batch.keep(self.process.corrupt(batch.x_0, t, generator=generator))
        states = States(x_t.unsqueeze(0), t, cond, drawn_latent(student, 1, len(x_t), generator))
        active = self.process.active(x_t)
        # The step of MaskGIT and Halton ranks all positions: it takes log p of all of them.
        ranked = not self.process.factorised
        positions: Positions = AllPositions(active) if ranked else ActivePositions(active)
        hidden = takes_chunks(self.loss, networks, ("student", "teacher"), self.process)
        predicts = partial(predict, positions=positions, process=self.process, hidden=hidden)
        p = predicts(student, states)
        with inference(teacher), torch.no_grad():
            if self.trajectory == "data":
                later = States(
                    x_u.unsqueeze(0),
                    starts[-1],
                    cond,
                    drawn_latent(teacher, 1, len(x_u), generator),
                )
                q = predicts(teacher, later)
            else:
                q = self._target(teacher, states, starts, positions, predicts, update)
        of_positions = self._divergences(p, q.detached())
        open_here = positions.take(active.unsqueeze(0)).squeeze(0)
        mean = of_positions.where(open_here, 0).sum() / open_here.sum().clamp(min=1)
        total = mean * x_t.shape[1]
        return LossTerms({"student": total}, {"sdtt": total.detach()})

    def delta(self, round_index: int) -> float:
        r"""Return \delta, the teacher's step in a round."""
        span = 1 - self.min_time if self.times == "released" else 1.0
        return span * float(self.substeps**round_index) / self.teacher_steps

    def _times(self, count: int, update: Update) -> tuple[Tensor, Tensor]:
        """Return t (count,) and the times (m, count) where the teacher's steps start, float64."""
        delta, m = self.delta(update.round), self.substeps
        t = low_discrepancy_times(count, self.min_time, update.generator)
        if self.times == "grid":
            calls = round(1 / (m * delta))
            share = (t - self.min_time) / (1 - self.min_time)
            t = ((share * calls).floor() + 1).clamp(max=calls) / calls
        elif self.trajectory == "data":
            t = (t + (m - 1) * delta).clamp(max=1)
        back = torch.arange(m, device=t.device, dtype=t.dtype).unsqueeze(-1) * delta
        if self.times == "released":
            w = torch.linspace(1, 0, m, device=t.device, dtype=t.dtype).unsqueeze(-1)
            return t, (t * w + (1 - t) * (t - m * delta)).clamp(min=self.min_time)
        return t, (t - back).clamp(min=self.min_time)

    def _target(
        self,
        teacher: Denoiser,
        states: States,
        starts: Tensor,
        positions: Positions,
        predicts: "partial[Prediction]",
        update: Update,
    ) -> Prediction:
        """Return the teacher's prediction of each position at the last step that finds it open.

        The teacher of a later round takes a latent too: at the first step, the student's.
        """
        generator, delta = update.generator, self.delta(update.round)
        target, x, shape = None, states.x, getattr(teacher, "latent_shape", None)
        for index, u in enumerate(starts):
            shared = index == 0 and shape is not None and states.latent is not None
            latent = states.latent if shared else drawn_latent(teacher, 1, len(x[0]), generator)
            current = States(x, u, states.cond, latent)
            prediction = predicts(teacher, current, revealed=index > 0)
            # Where earlier steps have reached 0 there is nothing more to predict.
            pending = self.times == "released" or (states.t - index * delta > 1e-9).unsqueeze(-1)
            mask = positions.take((self.process.active(x[0]) & pending).unsqueeze(0)).squeeze(0)
            target = prediction if target is None else prediction.where(mask, target)
            if index + 1 == len(starts):
                break
            noise = self.process.step_noise(x.shape, generator=generator, device=generator.device)
            s = (u - delta).clamp(min=0)
            x = take_step(self.process, prediction, current, positions, noise, s, self.max_bytes)
        assert target is not None, "there is at least one step"
        return target

    def _divergences(self, p: Prediction, q: Prediction) -> Tensor:
        divergence = DIVERGENCES[self.divergence]

        def values(part: slice, log_p: Tensor, log_q: Tensor) -> list[Tensor]:
            return [divergence(log_p, log_q).squeeze(0)]

        return position_sums(values, p, q, implementation="auto", max_bytes=self.max_bytes)[0]


def rounds_between(teacher_steps: int, steps: int, substeps: int) -> int:
    """Return the number of rounds from `teacher_steps` to `steps`; raises UserError."""
    if steps < 1 or substeps < 2:
        raise UserError(f"steps must be at least 1 and substeps 2, not {steps} and {substeps}")
    rounds, total = 0, steps
    while total < teacher_steps:
        rounds, total = rounds + 1, total * substeps
    if total != teacher_steps or rounds == 0:
        raise UserError(
            f"teacher_steps={teacher_steps} is not steps={steps} times a power of {substeps}"
        )
    return rounds


def coupled(
    process: Process, x_0: Tensor, t: Tensor, s: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Return x_t and x_s of uniform-state diffusion, (B, D) each, made of x_0 by the same noise.

    In Duo both are argmax(a x_0 + \epsilon) with one Gaussian \epsilon, at two signal-to-noise
    ratios a. That keeps x_0 where the largest of the other coordinates of \epsilon exceeds its own
    by less than a, and else gives that other token, uniform and the same at both times. So one
    uniform number and one token decide both; Q(keep) is \alpha + (1 - \alpha) / S.
    """
    assert isinstance(process, Uniform), "refused for others"
    tokens = process.num_tokens
    u = uniform(x_0.shape, generator=generator, device=x_0.device)
    shift = torch.randint(1, max(tokens, 2), x_0.shape, generator=generator, device=x_0.device)
    other = (x_0 + shift) % tokens

    def at(time: Tensor) -> Tensor:
        alpha = per_position(process.schedule.alpha(time))
        return x_0.where(u < alpha + (1 - alpha) / tokens, other)

    return at(t), at(s)


# The authors' setting for OpenWebText: lr 6e-5, 50 000 updates, the student itself (no average) as
# the next teacher. Their times are those of a Gaussian's gamma in [-4, -1]; here the process's own.
DCD = partial(
    SDTT, teacher_steps=512, steps=16, trajectory="data", times="even", divergence="reverse_kl"
)
