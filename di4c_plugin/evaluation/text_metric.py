"""The contract of metrics of texts; those of this package are registered by `di4c_metrics` too.

A plugin registers a subclass of `TextMetric`. It is constructed once for a run of `di4c evaluate`
and called for the samples of each model, number of steps, temperature and seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.texts import Texts

if TYPE_CHECKING:
    from di4c_plugin.evaluation.scorer import Scorer


@dataclass(frozen=True)
class TextOptions:
    """The user's options for metrics of texts.

    Attributes:
        scorer: the causal language model that scores; None: there is none.
        features: the model whose hidden states MAUVE compares; None: the scorer.
        after_end: which tokens count after the first end of text, see `GenPPL`.
        ngram_order: of the n-gram model of `bits`.
        mauve_buckets: clusters of MAUVE; None: a tenth of the samples.
    """

    scorer: "Scorer | None" = None
    features: "Scorer | None" = None
    after_end: str = "hosts"
    ngram_order: int = 5
    mauve_buckets: int | None = None

    def needed_scorer(self, metric: str) -> "Scorer":
        """Return the scorer; raises UserError where there is none."""
        if self.scorer is None:
            raise UserError(f"{metric} needs a language model: --scorer FOLDER or hub id")
        return self.scorer


UNSEEN = 0.01  # share of the samples' tokens that is told


class TextMetric(ABC):
    """Measures texts, alone or against a reference."""

    columns: tuple[str, ...]
    """Names of the values."""

    @abstractmethod
    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        """Take the reference, None where the user named none; raises UserError if it is needed."""

    @abstractmethod
    def __call__(self, samples: Texts) -> Mapping[str, Figure]:
        """Return the values by `columns`; raises UserError."""

    def notes(self) -> dict[str, str]:
        """Return what a reader of the values must know."""
        return {}


def needed_reference(reference: Texts | None, metric: str) -> Texts:
    """Return the reference; raises UserError where there is none."""
    if reference is None:
        raise UserError(f"{metric} compares with real text: --reference FILE")
    return reference


def tell_unseen(samples: Texts, reference: Texts, metric: str) -> None:
    """Announce that tokens of the samples are nowhere in the reference, if they are not few.

    Such are the BOS of blocks, against running text. A model that places them as it was taught
    would look worse than one that has not learnt them.
    """
    drawn, real = samples.counts, reference.counts
    absent = torch.ones_like(drawn, dtype=torch.bool)
    absent[: len(real)] = real[: len(drawn)] == 0
    unseen = drawn.where(absent, 0)
    share = float(unseen.sum() / drawn.sum())
    if share > UNSEEN:
        announce_once(
            f"{metric}: {share:.0%} of the samples' tokens are nowhere in the reference, most of "
            f"them {int(unseen.argmax())}: cut the reference as the samples are (.npy)"
        )
