"""The variety of samples: their distinct n-grams, and their similarity to each other."""

from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure, mean_figure
from di4c_plugin.evaluation.text_metric import TextMetric, TextOptions
from di4c_plugin.evaluation.texts import Texts

ORDERS = (1, 2, 3)
BLEU = 4  # its longest n-grams
MOST = 100  # sequences of self-BLEU: each is compared with all others


class DistinctN(TextMetric):
    """The share of distinct n-grams among all n-grams of all samples, n = 1, 2, 3.

    Li et al. 2016. It falls with the number of samples: compare equal numbers.
    """

    columns = tuple(f"distinct_{n}" for n in ORDERS)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        pass

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`; raises UserError where no sample has as many tokens."""
        values = (distinct([row.tolist() for row in samples.tokens], n) for n in ORDERS)
        return {
            name: Figure(value, None, len(samples))
            for name, value in zip(self.columns, values, strict=True)
        }


def distinct(rows: Sequence[Sequence[int]], n: int) -> float:
    """Return the share of different n-grams among all; raises UserError where there is none."""
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    if not grams:
        raise UserError(f"no sample has {n} tokens, as distinct_n takes")
    return len(set(grams)) / len(grams)


class SelfBLEU(TextMetric):
    """The mean BLEU-4 of each sample against all others (Zhu et al. 2018); lower is more varied.

    By torchmetrics, on tokens, without smoothing, for at most the first hundred samples. A prefix
    of all samples, such as a prompt, is left out if behind it one of them has 4-grams.
    """

    columns = ("self_bleu",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        self._shared: int | None = None

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`; raises UserError for fewer than two samples."""
        from torchmetrics.functional.text import bleu_score

        rows = samples.tokens[:MOST]
        if len(rows) < 2:
            raise UserError("self_bleu compares samples with each other: draw at least 2")
        start = shared_prefix(rows)
        start = start if max(map(len, rows)) - start >= BLEU else 0
        words = [" ".join(map(str, row[start:].tolist())) for row in rows]
        scores = [
            float(bleu_score([text], [[*words[:i], *words[i + 1 :]]]))
            for i, text in enumerate(words)
        ]
        return {"self_bleu": mean_figure(scores)}

    def notes(self) -> dict[str, str]:
        """See `TextMetric`."""
        return {"self-BLEU": f"BLEU-4 of the first {MOST} samples at most, shared prefix left out"}


def shared_prefix(rows: Sequence[Tensor]) -> int:
    """Return the length of the prefix that all sequences share."""
    columns = zip(*(row.tolist() for row in rows), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
