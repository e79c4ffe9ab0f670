"""Bits per token of real text under an n-gram model of the samples: what the samples lack."""

import math

import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure, ratio_figure
from di4c_plugin.evaluation.ngram import NGram
from di4c_plugin.evaluation.text_metric import (
    TextMetric,
    TextOptions,
    needed_reference,
    tell_unseen,
)
from di4c_plugin.evaluation.texts import Texts

ORDER = 3  # samples are few


class Coverage(TextMetric):
    """The mean of -log2 p(x_i | x_<i) over the tokens of the reference, by `NGram` of the samples.

    `Bits` the other way round: it grows where samples repeat one another, which neither `bits` nor
    the entropy within a sequence shows. It falls with the number of samples, so compare at one
    number. The standard error is over the sequences of the reference.
    """

    columns = ("coverage",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        del options
        self._reference = needed_reference(reference, "coverage")

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`; raises UserError where samples or the reference have no token."""
        groups, real = samples.by_length(), self._reference.by_length()
        if not groups or not real:
            raise UserError("coverage needs tokens")
        tell_unseen(samples, self._reference, "coverage")
        num_tokens = max(samples.num_tokens, self._reference.num_tokens)
        model = NGram(groups, num_tokens=num_tokens, order=ORDER)
        totals = [-model.log_prob(x).sum(1) / math.log(2) for x in real]
        counts = [torch.full((len(x),), x.shape[1], dtype=torch.float64) for x in real]
        return {"coverage": ratio_figure(torch.cat(totals), torch.cat(counts))}

    def notes(self) -> dict[str, str]:
        """See `TextMetric`."""
        count = sum(len(row) for row in self._reference.tokens)
        return {"coverage": f"of {count} tokens of real text, by {ORDER}-grams of the samples"}
