"""The entropy of the tokens within each sequence, as MDLM's followers and Duo report it."""

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure, mean_figure
from di4c_plugin.evaluation.text_metric import TextMetric, TextOptions
from di4c_plugin.evaluation.texts import Texts


class Entropy(TextMetric):
    """The mean over sequences of the entropy of a sequence's token counts, in nats.

    High for noise, low for samples that repeat themselves.
    """

    columns = ("entropy",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        pass

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`; raises UserError where there is no token."""
        return {"entropy": mean_figure(entropies(samples))}


def entropies(texts: Texts) -> Tensor:
    """Return the entropy of each sequence that has tokens, in nats, float64."""
    groups = texts.by_length()
    if not groups:
        raise UserError("the entropy of samples needs tokens")
    return torch.cat([row_entropies(x) for x in groups])


def row_entropies(tokens: Tensor) -> Tensor:
    """Return the entropy (n,) of the token counts within each row of tokens (n, D), in nats."""
    shares = (row.unique(return_counts=True)[1].double() / len(row) for row in tokens)
    return torch.stack([torch.special.entr(p).sum() for p in shares])


def sample_entropy(tokens: Tensor) -> float:
    """Return the mean of `row_entropies` of tokens (n, D).

    Raises:
        UserError: if there is no sample.
    """
    if tokens.dim() != 2 or tokens.numel() == 0:
        raise UserError(f"the entropy of samples needs tokens (n, D), not {tuple(tokens.shape)}")
    return float(row_entropies(tokens).mean())
