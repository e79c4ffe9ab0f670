"""Generative perplexity: how likely samples are under a causal language model.

exp of the mean NLL of all tokens of all samples, as in MDLM, Duo and later papers. Samples of low
entropy are likely, so compare it at equal entropy. Three choices differ between papers, and are
reported: whether texts are retokenised, the longest sequence, and which tokens count after the
first end of text. Unlike in the hosts' code, an incomplete last batch counts, and padding never
does (theirs counts its first token where the end of text pads).
"""

from dataclasses import replace

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure, ratio_figure
from di4c_plugin.evaluation.text_metric import TextMetric, TextOptions
from di4c_plugin.evaluation.texts import Texts

AFTER_END = {
    "hosts": "as MDLM and Duo: all tokens count but further ends of text",
    "keep": "all tokens count",
    "cut": "nothing counts after the first end of text",
}


class GenPPL(TextMetric):
    """exp of the mean NLL per token; its standard error is the delta method's over sequences."""

    columns = ("gen_ppl",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        self._scorer = options.needed_scorer("gen_ppl")
        self._after_end = options.after_end
        if options.after_end not in AFTER_END:
            raise UserError(f"--after-end takes {', '.join(AFTER_END)}, not {options.after_end!r}")

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`.

        Raises:
            UserError: as `Scorer.encode`, and if there is no token to score.
        """
        rows = self._scorer.encode(samples)
        masks = [counted(row, self._scorer.end, self._after_end) for row in rows]
        nll = self._scorer.nll(rows)
        pairs = list(zip(nll, masks, strict=True))
        totals = torch.stack([x[keep].double().sum() for x, keep in pairs])
        counts = torch.stack([keep.double().sum() for keep in masks])
        if not counts.sum():
            raise UserError("gen_ppl has no token to score: each text has fewer than two")
        mean = ratio_figure(totals, counts)
        value = float(torch.tensor(mean.value, dtype=torch.float64).exp())
        error = None if mean.error is None else value * mean.error
        return {"gen_ppl": replace(mean, value=value, error=error)}

    def notes(self) -> dict[str, str]:
        """See `TextMetric`."""
        return self._scorer.notes() | {"after end": AFTER_END[self._after_end]}


def counted(row: Tensor, end: int | None, after_end: str) -> Tensor:
    """Return which of the tokens 1 ... L - 1 of a sequence (L,) count, bool."""
    ends = torch.zeros_like(row, dtype=torch.bool) if end is None else row == end
    if after_end == "keep":
        return torch.ones_like(ends)[1:]
    before = ends.cumsum(0) - ends.long()  # ends of text before each token
    counts = before == 0 if after_end == "cut" else ~ends | (before == 0)
    return counts[1:]
