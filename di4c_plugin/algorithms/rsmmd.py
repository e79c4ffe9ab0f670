r"""RS-MMD: fill-ins rewarded for being like real sequences to a frozen network.

"Representation-Space MMD for Diffusion Language Models", 2026, arXiv 2610.06648. No auxiliary
network, no trajectory: x_t is data with masks, the student fills all of them at once, M times, and
each fill-in x is credited (REINFORCE) by a squared MMD between features of tokens, which are the
output of one of the teacher's blocks on the completed sequence:

    1  x_t ~ q_t(. | x_0),  x_b ~ prod_d p^d(. | x_t; lambda_b),  b = 1 ... M
    2  y, z_b = features of x_0, x_b
    3  loss = -1/M sum_b sum_d credit_{b,d} log p^d(x_b^d | x_t; lambda_b)

See `di4c_plugin.losses.representation` for the reward. Its repulsion between fill-ins of one
sequence preserves entropy: watch that, not the reward alone. Beyond the paper: lambda is drawn for
each fill-in, so that a mixture learns the joint law; all pairs of fill-ins count and not only those
of a candidate, a third of the variance; local credit, biased.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Role, Update
from di4c_plugin.algorithms.chunking import Loss, takes_chunks
from di4c_plugin.algorithms.features import block_of, features_of
from di4c_plugin.algorithms.noising import drawn_latent, drop_labels, low_discrepancy_times
from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.categorical import inverse_cdf, uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.chunk import pick
from di4c_plugin.losses.moments import entropy
from di4c_plugin.losses.positions import chunks, position_sums
from di4c_plugin.losses.representation import (
    Similarities,
    candidates,
    credited,
    median_alpha,
    own_terms,
    reward,
    similarities,
)
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.predict import ActivePositions, States, predict
from di4c_plugin.networks.predictions import Prediction
from di4c_plugin.options import typed
from di4c_plugin.values import Choices, Count, Share


class RSMMD(Algorithm):
    r"""The RS-MMD loss for any process, of a product student or a mixture.

    Args:
        process: the forward process of teacher and student.
        candidates: G; with `fills` of each there are M = G B fill-ins of a sequence.
        fills: B.
        estimator: "all_pairs": each fill-in is credited with its own terms among all M;
            "candidates": the paper's, a candidate's reward less the mean of the others'.
        radius: greatest distance, in tokens, that a token's credit comes from, 2 to 4; null: the
            whole sequence, unbiased.
        repulsion: \rho; below 1 the student's entropy falls.
        alpha: of the kernel; null: 1 / the median squared distance in each batch.
        block: of the teacher whose output the features are, from 0; null: a quarter of the way up.
        blocks: names of the teacher's blocks, "model.layers.*"; null: those that its family knows.
        min_time: t is drawn from [min_time, 1].
        label_dropout: share of examples distilled without their class label.
        loss: "naive", whole tensors of log-probabilities; "chunked", of hidden states and a head;
            "auto": by chunks if the student exposes hidden states.
        loss_mb: budget of a chunk, in MiB.

    Raises:
        UserError: for values out of range and options that do not go with each other.
    """

    @typed
    def __init__(
        self,
        process: Process,
        *,
        candidates: int = 4,
        fills: int = 2,
        estimator: Annotated[str, Choices("all_pairs", "candidates")] = "all_pairs",
        radius: int | None = None,
        repulsion: float = 1.0,
        alpha: float | None = None,
        block: int | None = None,
        blocks: str | None = None,
        min_time: float = 1e-3,
        label_dropout: Share = 0.1,
        loss: Loss = "auto",
        loss_mb: Count = 128,
    ) -> None:
        if estimator == "candidates" and (candidates < 2 or fills < 2):
            raise UserError("estimator=candidates needs 2 candidates of 2 fills")
        if candidates < 1 or fills < 1 or candidates * fills < 3:
            raise UserError("candidates times fills must be at least 3")
        if radius is not None and (radius < 0 or estimator == "candidates"):
            raise UserError("radius must be at least 0, and goes with estimator=all_pairs")
        if repulsion < 0 or (alpha is not None and alpha <= 0):
            raise UserError("repulsion must be at least 0, alpha above 0")
        if not 0 < min_time < 1:
            raise UserError(f"min_time must be in (0, 1), not {min_time}")
        self.roles = {"student": Role(latent="optional")}
        # lambda is the noise of one pass: a new one at every step.
        self.sampling = {"latents": "fresh"}
        self.process, self.candidates, self.fills = process, candidates, fills
        self.estimator, self.radius, self.repulsion = estimator, radius, repulsion
        self.alpha, self.block, self.blocks = alpha, block, blocks
        self.min_time, self.label_dropout = min_time, label_dropout
        self.loss, self.max_bytes = loss, loss_mb << 20

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        student, teacher, generator = networks["student"], networks["teacher"], update.generator
        if getattr(teacher, "latent_shape", None) is not None:
            raise UserError("this teacher takes a latent: name it as the student to start from")
        x_0, m = batch.x_0, self.candidates * self.fills
        t = low_discrepancy_times(len(x_0), self.min_time, generator)
        x_t = batch.keep(self.process.corrupt(x_0, t, generator=generator))
        cond = drop_labels(batch.cond, self.label_dropout, generator)
        selected = self.process.active(x_t)
        positions = ActivePositions(selected)
        latent = drawn_latent(student, m, len(x_0), generator)
        hidden = takes_chunks(self.loss, networks, ("student",))
        states = States(x_t.unsqueeze(0), t, cond, latent)
        p = predict(student, states, positions, self.process, hidden=hidden)
        tokens = self._drawn(p, positions.take(self._uniform(m, x_0, generator)))
        noised = x_t.expand(m, *x_t.shape).flatten(1)
        fakes = noised.index_copy(1, positions.index, tokens).unflatten(1, x_t.shape)
        with torch.no_grad():
            kernels, alpha = self._similarities(teacher, x_0, fakes, selected, cond)
            if self.estimator == "all_pairs":
                credit = credited(own_terms(kernels, self.repulsion), self.radius)
            else:
                credit = credited(candidates(kernels, self.repulsion, self.fills), None)
            mean_reward = reward(kernels, self.repulsion).mean()
        log_p, entropies = self._log_p(p, tokens)
        weight = positions.take(credit).to(log_p.dtype)
        total = -(weight * log_p).sum() / (m * len(x_0))
        terms = {"reward": mean_reward, "entropy": entropies.sum() / len(x_0), "alpha": alpha}
        return LossTerms({"student": total}, {k: v.detach() for k, v in terms.items()})

    def _uniform(self, count: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return uniform((count, *x.shape), generator=generator, device=x.device)

    def _drawn(self, p: Prediction, chance: Tensor) -> Tensor:
        """Return M tokens of each position, (M, P), for U[0, 1) of that shape."""
        parts = chunks(chance.shape[1], max(p.count, len(chance)), p.tokens, self.max_bytes)
        with torch.no_grad():
            return torch.cat([inverse_cdf(p.log_p(part), chance[:, part]) for part in parts], 1)

    def _log_p(self, p: Prediction, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p at the tokens (M, P), and the mean entropy over lambda (P,)."""

        def values(part: slice, log_p: Tensor) -> list[Tensor]:
            drawn = tokens[:, part]
            if len(log_p) == 1:
                return [pick(log_p, drawn)[0], entropy(log_p).mean(0)]
            return [log_p.gather(-1, drawn.unsqueeze(-1)).squeeze(-1), entropy(log_p).mean(0)]

        sums = position_sums(values, p, implementation="auto", max_bytes=self.max_bytes)
        return sums[0], sums[1]

    def _similarities(
        self, teacher: Denoiser, x_0: Tensor, fakes: Tensor, selected: Tensor, cond: Tensor | None
    ) -> tuple[Similarities, Tensor]:
        """Return the kernel sums of fakes (M, B, D) and x_0, and the kernel's alpha."""
        features = self.features(teacher, torch.cat([x_0.unsqueeze(0), fakes]), cond)
        real, of_fakes = features[0], features[1:]
        if self.alpha is None:
            alpha = median_alpha(real, selected)
        else:
            alpha = torch.as_tensor(self.alpha, dtype=real.dtype, device=real.device)
        return similarities(real, of_fakes, selected, alpha, self.max_bytes), alpha

    def features(self, teacher: Denoiser, x: Tensor, cond: Tensor | None) -> Tensor:
        """Return the teacher's features of clean tokens x (K, B, D), (K, B, D, H)."""
        network: Any = getattr(teacher, "network", teacher)
        block = block_of(network, self.block, self.blocks)
        return torch.stack([features_of(teacher, block, part, cond) for part in x])
