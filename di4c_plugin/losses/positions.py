r"""Any function of log-probabilities at P positions, at once or by chunks of them.

A loss such as \sum_c p_c (\log \phi_c - \log \theta_c) takes all S tokens of a position and one or
several predictions. From hidden states and heads, log p of c positions is formed at a time, once in
the forward and once in the backward pass, so that a tensor of P x S numbers never exists. Gradients
of hidden states and heads are added up in place, in the head's precision.

    def kl(part, log_q, log_p):
        return [(log_q.exp() * (log_q - log_p)).sum(-1).mean(0)]

    (kl_of_positions,) = position_sums(kl, teacher, student)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from di4c_plugin.errors import UserError
from di4c_plugin.networks.predictions import Hidden, Prediction

DEFAULT_BYTES = 128 << 20
IMPLEMENTATIONS = ("naive", "chunked")
# (part, log p (N, c, S) of each prediction) -> values of the positions, each (..., c).
Function = Callable[..., Sequence[Tensor]]


# A compiler would unroll the chunks, and do so again for every number of active positions.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def position_sums(
    function: Function,
    *predictions: Prediction,
    implementation: str = "chunked",
    max_bytes: int = DEFAULT_BYTES,
) -> list[Tensor]:
    """Return the values of `function` of the predictions at each of P positions.

    Args:
        function: called as function(part, *log_p) with a slice of the positions and log p of each
            prediction there, (N, c, S); returns one tensor (..., c) or several, each position's
            values from that position alone. It is called again in the backward pass, with equal
            results: let it close over random numbers, not draw them.
        predictions: at the same P positions. By chunks, only they receive gradients, not what
            `function` closes over. For P = 0 the values are still connected to them.
        implementation: "naive", all positions at once by autograd, "chunked", or "auto": by chunks
            where there are hidden states.
        max_bytes: memory budget of a chunk.

    Returns:
        The tensors of `function` for all positions, each (..., P), outside autocast.

    Raises:
        UserError: for an unknown implementation.
    """
    if implementation == "auto":
        chunked = any(isinstance(p, Hidden) for p in predictions)
        implementation = "chunked" if chunked else "naive"
    if implementation not in IMPLEMENTATIONS:
        raise UserError(f"unknown implementation {implementation!r}: naive or chunked")
    first, everything = predictions[0], slice(None)
    with torch.autocast(first.active(everything).device.type, enabled=False):
        if implementation == "naive":
            return list(function(everything, *(p.log_p(everything) for p in predictions)))
        count = sum(p.count for p in predictions)
        length = len(first.active(everything))
        return by_chunks(function, predictions, chunks(length, count, first.tokens, max_bytes))


def chunks(positions: int, count: int, tokens: int, max_bytes: int) -> list[slice]:
    """Cut P positions into parts, at least one, whose tensors of (count, c, S) fit the budget."""
    # About three of them in fp32 live at a time.
    size = max(1, max_bytes // (12 * count * tokens))
    return [slice(i, min(i + size, positions)) for i in range(0, max(positions, 1), size)]


def by_chunks(
    function: Function, predictions: Sequence[Prediction], parts: list[slice]
) -> list[Tensor]:
    """See `position_sums`; `parts` cover all positions, in order."""
    leaves = [leaf for p in predictions for leaf in p.leaves]
    return list(_Chunks.apply(function, predictions, parts, *leaves))  # type: ignore[no-untyped-call]


class _Chunks(torch.autograd.Function):
    """From the leaves of predictions to the values of a function of them."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Function,
        predictions: Sequence[Prediction],
        parts: list[slice],
        *leaves: Tensor | None,
    ) -> tuple[Tensor, ...]:
        values = Filled(parts[-1].stop)
        for part in parts:
            values.put(part, function(part, *(p.log_p(part) for p in predictions)))
        ctx.function, ctx.predictions, ctx.parts = function, predictions, parts
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(v for v in values.tensors if not v.is_floating_point()))
        return tuple(values.tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needed = iter(ctx.needs_input_grad[3:])
        sums = [
            [
                torch.zeros_like(leaf) if next(needed) and leaf is not None else None
                for leaf in p.leaves
            ]
            for p in ctx.predictions
        ]
        device = ctx.predictions[0].active(slice(0)).device.type
        with torch.autocast(device, enabled=False):
            for part in ctx.parts:
                _add_gradients(ctx.function, ctx.predictions, part, grads, sums)
        return None, None, None, *(s for leaf_sums in sums for s in leaf_sums)


def _add_gradients(
    function: Function,
    predictions: Sequence[Prediction],
    part: slice,
    grads: Sequence[Tensor | None],
    sums: Sequence[Sequence[Tensor | None]],
) -> None:
    """Add the gradients from the positions `part` to those of all leaves."""
    start = torch.zeros((), requires_grad=True)
    with torch.enable_grad():
        # No list of log p: only what the graph needs may stay in memory.
        values = function(
            part,
            *(
                p.log_p(part, partial(_Logits.apply, start, p, leaf_sums))
                if any(s is not None for s in leaf_sums)
                else p.log_p(part).detach()
                for p, leaf_sums in zip(predictions, sums, strict=True)
            ),
        )
    pairs = [
        (value, grad[..., part])
        for value, grad in zip(values, grads, strict=True)
        if grad is not None and value.requires_grad
    ]
    if pairs:
        outputs, upstream = zip(*pairs, strict=True)
        torch.autograd.grad(outputs, [start], upstream, allow_unused=True)


class _Logits(torch.autograd.Function):
    """Logits whose gradient is added to those of the leaves immediately, and not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        start: Tensor,
        prediction: Prediction,
        sums: Sequence[Tensor | None],
        part: slice,
    ) -> Tensor:
        ctx.prediction, ctx.part, ctx.sums = prediction, part, sums
        return prediction.logits(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logits: Tensor) -> tuple[None, ...]:
        ctx.prediction.add_gradients(of_logits, ctx.part, ctx.sums)
        return None, None, None, None


class Filled:
    """Tensors (..., P) that are filled part by part.

    Parts that are joined at the end would fragment the memory of freed chunks.
    """

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self.tensors: list[Tensor] = []

    def put(self, part: slice, values: Sequence[Tensor]) -> None:
        """Write values (..., c)."""
        if not self.tensors:
            self.tensors = [v.new_empty(*v.shape[:-1], self.positions) for v in values]
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor[..., part] = value
