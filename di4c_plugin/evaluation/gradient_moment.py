r"""The gradient moment of D-MMD (Hoogeboom et al. 2026, arXiv 2603.20155).

GM = |E_gen g(x) - E_data g(x)|^2 with g(x) the gradient, by the weights of a language model, of a
sequence's mean next-token NLL. Unlike gen_ppl, it does not favour likely nonsense.

With samples and reference each in two independent halves, and d_k = mean g(gen_k) - mean g(data_k),
d_1 . d_2 is unbiased. Its variance is estimated by Var(d_1 . v) + Var(d_2 . w) at v = d_2, w = d_1,
from the projections of single sequences. That is too large by tr(C_1 C_2), C_k the covariance of
d_k: the standard error is never too small, and at most sqrt 2 too large, for equal distributions.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.progress import tracked
from di4c_plugin.evaluation.scorer import Scorer
from di4c_plugin.evaluation.text_metric import TextMetric, TextOptions, needed_reference
from di4c_plugin.evaluation.texts import Texts

Gradient = list[Tensor]


class GradientMoment(TextMetric):
    """Needs a scorer, a reference, and two sequences of two tokens in each half of both.

    The reference is reduced to as many sequences as there are samples, evenly spaced.
    """

    columns = ("gradient_moment",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        self._scorer = options.needed_scorer("gradient_moment")
        self._reference = needed_reference(reference, "gradient_moment")
        self._count = 0  # of samples that the reference was last reduced to

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`.

        Raises:
            UserError: for fewer than four sequences of two tokens, and as `Scorer.encode`.
        """
        scorer, (first, second) = self._scorer, halves(self._scorer, samples, "the samples")
        if self._count != len(samples):
            self._data = halves(scorer, self._reference.spread(len(samples)), "the reference")
            self._means = [mean_gradient(scorer, half) for half in self._data]
            self._count = len(samples)
        d_1 = minus(mean_gradient(scorer, first), self._means[0])
        along_1 = [self._along(second, d_1), self._along(self._data[1], d_1)]
        d_2 = minus(mean_gradient(scorer, second), self._means[1])
        along_2 = [self._along(first, d_2), self._along(self._data[0], d_2)]
        variance = sum(float(x.var()) / len(x) for x in (*along_1, *along_2))
        count = len(first) + len(second)
        return {"gradient_moment": Figure(dot(d_1, d_2), variance**0.5, count)}

    def _along(self, rows: Sequence[Tensor], direction: Gradient) -> Tensor:
        """Return g(x) . direction for each sequence, float64."""
        projections = [dot(g, direction) for g in gradients(self._scorer, rows)]
        return torch.tensor(projections, dtype=torch.float64)

    def notes(self) -> dict[str, str]:
        """See `TextMetric`."""
        return self._scorer.notes() | {
            "gradient moment": "against as many real sequences as there are samples"
        }


def halves(scorer: Scorer, texts: Texts, whose: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return the sequences that have a gradient, in two halves; raises UserError for too few."""
    rows = [row for row in scorer.encode(texts) if len(row) > 1]
    if len(rows) < 4:
        raise UserError(
            f"gradient_moment takes at least 4 sequences of two tokens, not {len(rows)} of {whose}"
        )
    return rows[::2], rows[1::2]


def gradients(scorer: Scorer, rows: Sequence[Tensor]) -> Iterator[Gradient]:
    """Yield the gradient of each sequence."""
    return (scorer.gradient(row) for row in tracked(rows, "gradients of sequences"))


def mean_gradient(scorer: Scorer, rows: Sequence[Tensor]) -> Gradient:
    """Return the mean of the sequences' gradients."""
    total: Gradient | None = None
    for g in gradients(scorer, rows):
        if total is None:
            total = [part.clone() for part in g]
        else:
            torch._foreach_add_(total, g)
    assert total is not None
    torch._foreach_div_(total, len(rows))
    return total


def minus(one: Gradient, other: Gradient) -> Gradient:
    """Return the difference of two gradients."""
    return [a - b for a, b in zip(one, other, strict=True)]


def dot(one: Gradient, other: Gradient) -> float:
    """Return the inner product of two gradients, summed in float64."""
    parts = [(a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)]
    return float(torch.stack(parts).sum())
