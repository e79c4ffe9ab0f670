"""The terms of Di4C for one chunk of c positions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.losses.mixture import kl, log_mean_exp
from di4c_plugin.losses.positions import chunks
from di4c_plugin.networks.predictions import Prediction


@dataclass(frozen=True)
class Targets:
    """The student's targets at P positions.

    Attributes:
        x_0: clean tokens (J, P), int64.
        teacher: its prediction at the student's states, for one lambda or several.
        target: predictions of the target network after the teacher's step, one for each of its N
            samples; None: no consistency terms.
        u: U[0, 1) (N, P), float64, which decides x_s^j ~ `target`; None without one.
        x_s: these samples (N, P), if they are drawn already.
    """

    x_0: Tensor
    teacher: Prediction
    target: Prediction | None = None
    u: Tensor | None = None
    x_s: Tensor | None = None


@dataclass(frozen=True)
class ChunkTargets:
    """`Targets` at c positions: x_s is (N, c), q and q_s are log-marginals (c, S)."""

    x_0: Tensor
    q: Tensor
    x_s: Tensor | None
    q_s: Tensor | None


def chunks_for(student: Prediction, targets: Targets, max_bytes: int) -> list[slice]:
    """Cut the P positions into parts whose tensors of (N, c, S) fit the budget, at least one."""
    most = max(p.count for p in (student, targets.teacher, targets.target) if p is not None)
    return chunks(targets.x_0.shape[1], most, student.tokens, max_bytes)


def chunk_targets(targets: Targets, part: slice) -> ChunkTargets:
    """Form the targets of some positions."""
    with torch.no_grad():
        x_0, q = targets.x_0[:, part], log_mean_exp(targets.teacher.log_p(part))
        if targets.target is None:
            return ChunkTargets(x_0, q, None, None)
        log_p_s = targets.target.log_p(part)
        if targets.x_s is not None:
            x_s = targets.x_s[:, part]
        else:
            assert targets.u is not None, "x_s is neither given nor can it be drawn"
            x_s = inverse_cdf(log_p_s, targets.u[:, part])
        return ChunkTargets(x_0, q, x_s, log_mean_exp(log_p_s))


def chunk_terms(log_p: Tensor, active: Tensor, targets: ChunkTargets) -> list[Tensor]:
    """Return the fields of `PositionTerms` for log_p (N, c, S); inactive positions give 0."""
    bar = log_mean_exp(log_p)
    negative_entropy = (targets.q.exp() * targets.q).sum(-1)
    # One product instead of a tensor of (N, c, S); it needs equal dtypes.
    cross = torch.einsum("cs,ncs->c", targets.q.exp().to(log_p.dtype), log_p) / len(log_p)
    terms = [pick(log_p, targets.x_0), negative_entropy - cross, kl(targets.q, bar)]
    if targets.x_s is not None and targets.q_s is not None:
        terms += [pick(log_p, targets.x_s), kl(targets.q_s, bar)]
    return [term.where(active, 0) for term in terms]


def pick(log_p: Tensor, x: Tensor) -> Tensor:
    """Return log_p[n, c, x[j, c]], shape (N, J, c), for log_p (N, c, S) and x (J, c)."""
    return log_p.gather(-1, x.T.expand(len(log_p), -1, -1)).transpose(1, 2)
