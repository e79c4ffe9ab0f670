r"""D-MMD: distillation by matching moments, and the methods that are switches of it.

Hoogeboom, Ruhe, Heek, Mensink, Salimans, "Beyond Single Tokens: Distilling Discrete Diffusion
Models via Discrete MMD", 2026, arXiv 2603.20155, its Algorithm 1. A student x_eta, an auxiliary
network x_phi and the frozen teacher x_theta predict clean tokens:

    1  s ~ U(0, 1), t = min(1, s + U(0, 1/k)), z_t ~ q_t(. | data)
    2  p = x_eta(z_t; lambda),  x ~ Cat(p) position by position,  z_s ~ q(. | z_t, x)
    3  generator loss, over eta:  w(s) sum_c p_c (log x_phi(z_s)_c - log x_theta(z_s)_c)
    4  auxiliary loss, over phi:  -w(s) sum_c (x + x_theta(z_s))_c log x_phi(z_s)_c

in alternation, both at the positions that z_s leaves open. x_phi follows E[x | z_s] under student
and teacher; where it equals the teacher, the student has the teacher's moments. Given lambda
("input noise") the student's tokens are independent; over all lambda they are not. Without lambda a
masked student cannot match the moments.

Related methods are switches of this one, see `dmmd_kin`.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Role, Update
from di4c_plugin.algorithms.chunking import Loss, takes_chunks
from di4c_plugin.algorithms.denoising import elbo_weight
from di4c_plugin.algorithms.dmmd_draws import Drawn, clean_tokens, draw_times, ranked_step
from di4c_plugin.algorithms.noising import drawn_latent, drop_labels
from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.mixture import log_mean_exp
from di4c_plugin.losses.moments import (
    cross_entropy,
    entropy,
    generator_loss,
    jeffreys_loss,
    sharpened,
    soft_cross_entropy,
)
from di4c_plugin.losses.positions import position_sums
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.predict import ActivePositions, States, predict
from di4c_plugin.networks.predictions import Prediction
from di4c_plugin.options import typed
from di4c_plugin.samplers.base import inference
from di4c_plugin.values import BelowOne, Choices, Count, Factor, Range, Share

STUDENT, AUXILIARY = "student", "auxiliary"
# The terms of a role, its loss first.
LOSSES = {STUDENT: ("generator", "entropy"), AUXILIARY: ("auxiliary",)}


class DMMD(Algorithm):
    r"""The D-MMD losses for any process with a posterior, with the switches of its kin.

    The defaults are the paper's; those that it does not state are from our pilot.

    Args:
        process: the forward process of all networks.
        steps: k, the number of steps that the student is trained for; None: any.
        times: of t and s. "window": s is uniform and t up to 1/k later; "grid": t is one of the k
            times at which the sampler calls the student, s uniform in the step from there;
            "independent": both uniform, whichever is larger.
        renoise: how z_s is drawn, given x. "posterior": q(z_s | z_t, x); "step": the process's own
            step, which for MaskGIT's and Halton's opens tokens by rank; "forward": q(z_s | x).
        target: what the auxiliary learns: the drawn x ("hard") or p itself ("soft", for masked
            processes: in others z_s depends on x).
        teacher_weight: \kappa, weight of the teacher's prediction in the auxiliary loss.
        jeffreys: None: D-MMD's generator loss. A number: Di[M]O's with \beta.
        weight: w(s): "constant", or of masked diffusion's likelihood bound ("elbo").
        input_noise: whether the student takes a latent; None: required for masked processes,
            optional for others.
        auxiliary_updates: updates of the auxiliary for each of the student.
        auxiliary_first: whether a cycle begins with the auxiliary.
        together: train both in every update, by one pass of the student.
        auxiliary_lr: factor on the learning rate of the auxiliary.
        betas: of Adam, for both; None: the program's.
        temperature: of the teacher in both losses.
        top_p: probability mass of the teacher's nucleus.
        penalty: subtracted from the logits of tokens outside the nucleus.
        teacher_latents: number of lambda that the marginals of a mixture teacher are averaged over.
        min_time: s is at least this.
        label_dropout: share of examples distilled without their class label.
        loss: "naive", whole tensors of log-probabilities; "chunked", of hidden states and heads;
            "auto": by chunks if all networks expose hidden states.
        loss_mb: budget of a chunk, in MiB.

    Raises:
        UserError: for values out of range and switches that do not go with each other.
    """

    @typed
    def __init__(
        self,
        process: Process,
        *,
        steps: Count | None = 4,
        times: Annotated[str, Choices("window", "grid", "independent")] = "window",
        renoise: Annotated[str, Choices("posterior", "step", "forward")] = "posterior",
        target: Annotated[str, Choices("hard", "soft")] = "hard",
        teacher_weight: Annotated[float, Range(0)] = 1.0,
        jeffreys: float | None = None,
        weight: Annotated[str, Choices("constant", "elbo")] = "constant",
        input_noise: bool | None = None,
        auxiliary_updates: Count = 1,
        auxiliary_first: bool = False,
        together: bool = False,
        auxiliary_lr: Factor = 1.0,
        betas: tuple[BelowOne, BelowOne] | None = (0.0, 0.99),
        temperature: float = 1.0,
        top_p: float = 1.0,
        penalty: Annotated[float, Range(0)] = 2.0,
        teacher_latents: Count = 8,
        min_time: float = 1e-3,
        label_dropout: Share = 0.1,
        loss: Loss = "auto",
        loss_mb: Count = 128,
    ) -> None:
        masked = isinstance(process, Absorbing)
        if steps is None and times != "independent":
            raise UserError(f"times={times} needs the number of steps")
        if times == "independent" and renoise != "forward":
            raise UserError("times=independent goes with renoise=forward")
        if not masked and (target == "soft" or weight == "elbo"):
            raise UserError("target=soft and weight=elbo are for masked processes")
        if together and auxiliary_updates > 1:
            raise UserError(f"together=true goes with auxiliary_updates=1, not {auxiliary_updates}")
        if temperature <= 0 or not 0 < top_p <= 1:
            raise UserError(f"temperature > 0 and 0 < top_p <= 1, not {temperature} and {top_p}")
        if not 0 < min_time < 1 / (steps or 1):
            raise UserError(f"min_time must be above 0 and below 1/steps, not {min_time}")
        noise = {True: "required", False: "none", None: "required" if masked else "optional"}
        self.roles = {
            STUDENT: Role(latent=noise[input_noise], betas=betas),
            AUXILIARY: Role(lr=auxiliary_lr, betas=betas),
        }
        # lambda is the noise of one pass: a new one at every step.
        self.sampling = {"latents": "fresh"} | ({} if steps is None else {"steps": steps})
        self.process, self.steps, self.times, self.renoise = process, steps, times, renoise
        self.soft, self.teacher_weight, self.jeffreys = target == "soft", teacher_weight, jeffreys
        self.weight, self.together = weight, together
        self.auxiliary_updates, self.auxiliary_first = auxiliary_updates, auxiliary_first
        self.temperature, self.top_p, self.penalty = temperature, top_p, penalty
        self.teacher_latents, self.min_time = teacher_latents, min_time
        self.label_dropout = label_dropout
        self.loss, self.max_bytes = loss, loss_mb << 20

    def trained(self, update: Update) -> Collection[str]:
        """See `Algorithm.trained`: the student once in a cycle, or both always."""
        if self.together:
            return self.roles
        phase = update.index % (1 + self.auxiliary_updates)
        student_phase = self.auxiliary_updates if self.auxiliary_first else 0
        return (STUDENT,) if phase == student_phase else (AUXILIARY,)

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        trained, teacher = self.trained(update), networks["teacher"]
        hidden = takes_chunks(self.loss, networks, (STUDENT, AUXILIARY, "teacher"))
        predicts = partial(self._predict, hidden=hidden)
        drawn = self._draw(batch, networks[STUDENT], update.generator, predicts, trained)
        open_t, open_s = drawn.open_t, ActivePositions(self.process.active(drawn.z_s))
        states = States(drawn.z_s.unsqueeze(0), drawn.s, drawn.cond, None)
        phi = predicts(networks[AUXILIARY], states, open_s, learns=AUXILIARY in trained)
        count, random = self.teacher_latents, update.generator
        latent = drawn_latent(teacher, count, len(drawn.s), random, stratified=True)
        theta = predicts(teacher, replace(states, latent=latent), open_s, learns=False)

        def at(positions: ActivePositions) -> tuple[Prediction, Prediction]:
            index = positions.within(open_s)
            return phi.at(index), theta.at(index)

        # Positions open in both z_s and z_t: all that z_s leaves open, unless z_s is drawn from x.
        shared = ActivePositions(open_s.active & open_t.active)
        needs_student = STUDENT in trained or self.soft
        p = drawn.p.at(shared.within(open_t)) if needs_student else None
        terms = self._terms(drawn, shared, trained, *at(shared), p)
        if self.renoise != "forward" or AUXILIARY not in trained:
            return terms
        # Positions that z_t shows are certain: the auxiliary learns them, the student does not.
        shown = ActivePositions(open_s.active & ~open_t.active)
        return terms.plus(self._terms(drawn, shown, (AUXILIARY,), *at(shown)))

    def _predict(
        self,
        denoiser: Denoiser,
        states: States,
        positions: ActivePositions,
        *,
        hidden: bool,
        learns: bool,
    ) -> Prediction:
        if learns:
            return predict(denoiser, states, positions, self.process, hidden=hidden)
        with inference(denoiser):
            prediction = predict(denoiser, states, positions, self.process, hidden=hidden)
        return prediction.detached()

    def _draw(
        self,
        batch: Batch,
        student: Denoiser,
        generator: torch.Generator,
        predicts: Callable[..., Prediction],
        trained: Collection[str],
    ) -> Drawn:
        """Return the student's prediction from noised data, and the draws from it."""
        count, device = len(batch.x_0), generator.device
        t, s = draw_times(self.times, count, self.steps, self.min_time, generator)
        z_t = batch.keep(self.process.corrupt(batch.x_0, t, generator=generator))
        cond = drop_labels(batch.cond, self.label_dropout, generator)
        latent = drawn_latent(student, 1, count, generator)
        open_t = ActivePositions(self.process.active(z_t))
        p = predicts(
            student, States(z_t.unsqueeze(0), t, cond, latent), open_t, learns=STUDENT in trained
        )
        noise = uniform((2, *z_t.shape), generator=generator, device=device)
        with torch.no_grad():
            if self.renoise == "step" and not self.process.factorised:
                x, z_s = ranked_step(self.process, p, open_t, z_t, noise, t, s)
            else:
                x = clean_tokens(p, open_t, z_t, noise[1], self.max_bytes)
                z_s = (
                    batch.keep(self.process.corrupt(x, s, generator=generator))
                    if self.renoise == "forward"
                    else self.process.bridge(noise[0], x, z_t, t, s)
                )
        return Drawn(open_t, p, x, z_s, s, cond)

    def _terms(
        self,
        drawn: Drawn,
        positions: ActivePositions,
        trained: Collection[str],
        phi: Prediction,
        theta: Prediction,
        p: Prediction | None = None,
    ) -> LossTerms:
        """Return the losses over `positions`, those of the predictions; without p, for hard x."""
        x = positions.take(drawn.x.unsqueeze(0)).squeeze(0)
        predictions = [phi, theta] if p is None else [phi, theta, p]

        def values(part: slice, log_phi: Tensor, log_q: Tensor, *student: Tensor) -> list[Tensor]:
            if len(log_q) > 1:  # a mixture teaches by its marginals
                log_q = log_mean_exp(log_q).unsqueeze(0)
            log_q = sharpened(log_q, self.temperature, self.top_p, self.penalty)
            losses = []
            if STUDENT in trained:
                (log_p,) = student
                generator = (
                    generator_loss(log_p, log_phi, log_q)
                    if self.jeffreys is None
                    else jeffreys_loss(log_p, log_phi, log_q, self.jeffreys)
                )
                losses += [generator, entropy(log_p)]
            if AUXILIARY in trained:
                soft = [soft_cross_entropy(log_p, log_phi) for log_p in student if self.soft]
                (target,) = soft or [cross_entropy(x[part], log_phi)]
                losses.append(target + self.teacher_weight * soft_cross_entropy(log_q, log_phi))
            return losses

        sums = position_sums(values, *predictions, implementation="auto", max_bytes=self.max_bytes)
        process: Any = self.process  # masked, where the weight is the bound's
        elbo = self.weight == "elbo"
        weight = elbo_weight(process.schedule, drawn.s) if elbo else torch.ones_like(drawn.s)
        weight = weight[positions.index // drawn.x.shape[1]] / len(drawn.s)
        names = [name for role in self.roles if role in trained for name in LOSSES[role]]
        terms = {k: (v * weight.to(v.dtype)).sum() for k, v in zip(names, sums, strict=True)}
        return LossTerms(
            {role: terms[LOSSES[role][0]] for role in trained},
            {name: value.detach() for name, value in terms.items()},
        )
