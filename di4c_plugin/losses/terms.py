r"""The terms of Di4C from predictions of student, teacher and target, in one of three ways.

With \ell[n, j, p] = log p_n(x_j[p]) for the N lambda of the student, the marginals
\bar p = mean_n p_n, and at each position p
  distil       E_lambda KL(q || p_n),  q = mean over the teacher's lambda (a product model has one),
  data_marg    KL(q || \bar p),
  consis_marg  KL(mean_j p^target_j || \bar p),  x_s^j ~ p^target_j,
only \ell couples positions: sums over a position's S tokens can be computed chunk by chunk.
  naive        all positions at once, by autograd: the reference of the others
  checkpoint   c positions at a time, computed again in the backward pass (`by_chunks`)
  chunked      the same with an analytic backward pass (`di4c_plugin.losses.chunked`)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.losses.chunk import Targets, chunk_targets, chunk_terms, chunks_for
from di4c_plugin.losses.chunked import chunked
from di4c_plugin.losses.positions import DEFAULT_BYTES, by_chunks
from di4c_plugin.losses.windows import Windows, correlation, independent_log_prob
from di4c_plugin.networks.predictions import Prediction

__all__ = ["IMPLEMENTATIONS", "PositionTerms", "Targets", "example_terms", "position_terms"]


@dataclass(frozen=True)
class PositionTerms:
    """The terms at each position, in nats; the consistency ones are None without a target.

    Attributes:
        ell_data: log p_n(x_0), (N, J, P).
        distil, data_marg, consis_marg: see the module, (P,).
        ell_consis: log p_n(x_s^j), (N, N, P).
    """

    ell_data: Tensor
    distil: Tensor
    data_marg: Tensor
    ell_consis: Tensor | None = None
    consis_marg: Tensor | None = None


# A compiler would unroll the chunks, and do so again for every number of active positions.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def position_terms(
    student: Prediction,
    targets: Targets,
    *,
    implementation: str = "chunked",
    max_bytes: int = DEFAULT_BYTES,
) -> PositionTerms:
    """Return the terms, differentiable in the student.

    Args:
        student: N predictions at P positions; for P = 0 the terms are still connected to it.
        targets: at the same positions, without gradients.
        implementation: "naive", "checkpoint" or "chunked", see the module; "chunked" takes a
            student of hidden states.
        max_bytes: memory budget of a chunk, for "checkpoint" and "chunked".

    Raises:
        UserError: for an unknown implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UserError(f"unknown loss {implementation!r}; there are {', '.join(IMPLEMENTATIONS)}")
    # Inside a host's bf16 autocast, products of log-probabilities would be bf16 too.
    with torch.autocast(targets.x_0.device.type, enabled=False):
        return PositionTerms(*BY_NAME[implementation](student, targets, max_bytes))


def example_terms(
    terms: PositionTerms,
    example: Tensor,
    count: int,
    windows: Sequence[Windows] = (),
    bound: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of Di4C for each example, shape (count,), in nats.

    Args:
        terms: at P positions.
        example: index of each position's example, (P,).
        count: number of examples.
        windows: see `correlation`.
        bound: on log p(x_0), (count,), in place of the mixture's estimate; None: that estimate.
    """

    def of_examples(values: Tensor) -> Tensor:
        return values.new_zeros(count).index_add(-1, example, values)

    if bound is None:
        data_corr = correlation(terms.ell_data, example, count, windows)
    else:
        independent = independent_log_prob(terms.ell_data, example, count)
        data_corr = (independent - bound).to(terms.ell_data.dtype)
    by_name = {
        "distil": of_examples(terms.distil),
        "data_corr": data_corr,
        "data_marg": of_examples(terms.data_marg),
    }
    if terms.ell_consis is not None and terms.consis_marg is not None:
        by_name["consis_corr"] = correlation(terms.ell_consis, example, count, windows)
        by_name["consis_marg"] = of_examples(terms.consis_marg)
    return by_name


def naive(student: Prediction, targets: Targets, max_bytes: int) -> list[Tensor]:
    """All positions at once."""
    everything = slice(None)
    formed = chunk_targets(targets, everything)
    return chunk_terms(student.log_p(everything), student.active(everything), formed)


def checkpointed(student: Prediction, targets: Targets, max_bytes: int) -> list[Tensor]:
    """Chunk by chunk; each is computed again in the backward pass."""

    def terms(part: slice, log_p: Tensor) -> list[Tensor]:
        return chunk_terms(log_p, student.active(part), chunk_targets(targets, part))

    return by_chunks(terms, [student], chunks_for(student, targets, max_bytes))


Terms = Callable[[Prediction, Targets, int], list[Tensor]]
BY_NAME: dict[str, Terms] = {
    "naive": naive,
    "checkpoint": checkpointed,
    "chunked": chunked,
}
IMPLEMENTATIONS = tuple(BY_NAME)
