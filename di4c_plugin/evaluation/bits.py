"""Bits per token under an n-gram model of real text, which needs no download."""

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


class Bits(TextMetric):
    """The mean of -log2 p(x_i | x_<i) over all tokens, by `NGram` counted on the reference.

    The reference should be text that neither teacher nor student was trained on.
    """

    columns = ("bits",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        self._reference = needed_reference(reference, "bits")
        self._order = options.ngram_order
        self._model = NGram(
            self._reference.by_length(),
            num_tokens=self._reference.num_tokens,
            order=options.ngram_order,
        )

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`; raises UserError for tokens that the reference's tokenizer lacks."""
        groups = samples.by_length()
        if not groups:
            raise UserError("bits needs tokens")
        tell_unseen(samples, self._reference, "bits")
        totals = [-self._model.log_prob(x).sum(1) / math.log(2) for x in groups]
        counts = [torch.full((len(x),), x.shape[1], dtype=torch.float64) for x in groups]
        return {"bits": ratio_figure(torch.cat(totals), torch.cat(counts))}

    def notes(self) -> dict[str, str]:
        """See `TextMetric`."""
        count = sum(len(row) for row in self._reference.tokens)
        return {"bits": f"{self._order}-grams of {count} tokens of real text"}
