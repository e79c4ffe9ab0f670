"""MAUVE (Pillutla et al. 2021), computed by mauve-text, the extra `text`.

The features are the last layer's hidden state at the last token, as in that package, of any causal
language model. Higher is better; it grows with fewer samples and buckets, so both are reported.
"""

from importlib import import_module
from typing import Any

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError, reason
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.scorer import Scorer
from di4c_plugin.evaluation.text_metric import TextMetric, TextOptions, needed_reference
from di4c_plugin.evaluation.texts import Texts

FEWEST = 20  # two buckets, the fewest, of ten samples


class Mauve(TextMetric):
    """Compares the samples with as many texts of the reference, evenly spaced."""

    columns = ("mauve",)

    def __init__(self, reference: Texts | None, options: TextOptions) -> None:
        self._library = _library()
        self._scorer: Scorer = options.features or options.needed_scorer("mauve")
        self._reference = needed_reference(reference, "mauve")
        self._buckets = options.mauve_buckets
        self._features: Any = None
        self._ends = 0.0
        _check(len(self._reference), "the reference")

    def __call__(self, samples: Texts) -> dict[str, Figure]:
        """See `TextMetric`.

        Raises:
            UserError: for too few samples, or more buckets than samples.
        """
        _check(len(samples), "the samples")
        count = min(len(samples), len(self._reference))
        if self._buckets is not None and not 2 <= self._buckets <= count:
            raise UserError(f"--mauve-buckets is from 2 to the {count} samples")
        if self._features is None or len(self._features) != count:
            self._features, self._ends = self._of(self._reference.spread(count))
        features, ends = self._of(samples.spread(count))
        if abs(ends - self._ends) > 0.5:
            announce_once(
                "mauve compares texts at their last token, which is the end of text in "
                f"{ends:.0%} of the samples and {self._ends:.0%} of the reference: cut the "
                "reference as the samples are (.npy)"
            )
        result = self._library.compute_mauve(
            p_features=features,
            q_features=self._features,
            num_buckets="auto" if self._buckets is None else self._buckets,
        )
        return {"mauve": Figure(float(result.mauve), None, count)}

    def _of(self, texts: Texts) -> tuple[Any, float]:
        """Return the features (n, H), and the share of texts that end in the end of text."""
        rows = self._scorer.encode(texts)
        ends = sum(int(row[-1]) == self._scorer.end for row in rows if len(row))
        return self._scorer.features(rows).numpy(), ends / len(rows)

    def notes(self) -> dict[str, str]:
        """See `TextMetric`."""
        buckets = "a tenth of the samples" if self._buckets is None else str(self._buckets)
        return {
            "mauve": f"features by {self._scorer.name}, sha256 {self._scorer.fingerprint[:16]}; "
            f"against as many real texts; buckets: {buckets}"
        }


def _check(count: int, whose: str) -> None:
    if count < FEWEST:
        raise UserError(f"mauve takes at least {FEWEST} texts, not {count} of {whose}")


def _library() -> Any:
    try:
        return import_module("mauve")
    except ImportError as error:
        raise UserError(
            f"mauve needs mauve-text: pip install 'di4c_plugin[text]' ({reason(error)})"
        ) from error
