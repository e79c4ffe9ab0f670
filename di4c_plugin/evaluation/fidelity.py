"""KID, precision and recall of pictures, by torch-fidelity on the features of FID.

KID (Bińkowski et al. 2018): the unbiased squared MMD of a cubic kernel. Precision and recall
(Kynkäänniemi et al. 2019): the share of samples among the real pictures' neighbours, and vice
versa.
"""

from abc import abstractmethod
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.errors import UserError, reason
from di4c_plugin.evaluation.inception import RESIZING, Inception
from di4c_plugin.evaluation.picture_metric import MetricOptions, PictureMetric, Reference

SUBSETS, SUBSET, SEED = 100, 1000, 2020  # of KID, as torch-fidelity's own defaults
NEIGHBOURS = 3
FEWEST = 10  # pictures


class FeatureMetric(PictureMetric):
    """Compares the features of all samples with those of all reference pictures."""

    def __init__(self, reference: Reference, options: MetricOptions) -> None:
        """See `PictureMetric`; statistics cannot replace the pictures here."""
        if options.statistics is not None:
            raise UserError("--statistics is for fid: kid and precision_recall take the pictures")
        self._inception = Inception(options.weights, options.device)
        self._name, self._resizing = reference.name, reference.resizing
        self._reference = self._features(reference.batches(), "the reference")

    def __call__(self, pictures: Iterable[Tensor]) -> dict[str, float]:
        """See `PictureMetric`; raises UserError for fewer than ten pictures."""
        return self._compare(self._features(pictures, "the samples"), self._reference)

    @abstractmethod
    def _compare(self, features: Tensor, reference: Tensor) -> dict[str, float]:
        """Return the values for features (n, 2048) and (m, 2048)."""

    def _features(self, batches: Iterable[Tensor], whose: str) -> Tensor:
        features = torch.cat([pooled for pooled, _ in self._inception.all_features(batches)])
        if len(features) < FEWEST:
            raise UserError(
                f"this takes at least {FEWEST} pictures, not {len(features)} of {whose}"
            )
        return features

    def notes(self) -> dict[str, str]:
        """See `PictureMetric`."""
        return {
            "reference": f"{self._name}, {len(self._reference)} of them",
            "resizing": f"{self._resizing}; then {RESIZING}",
            "inception": self._inception.fingerprint,
        }


class KID(FeatureMetric):
    """KID: the mean over subsets of a thousand pictures, or of all where there are fewer."""

    columns = ("kid",)

    def _compare(self, features: Tensor, reference: Tensor) -> dict[str, float]:
        subset = min(SUBSET, len(features), len(reference))
        options = {"kid_subsets": SUBSETS, "kid_subset_size": subset, "rng_seed": SEED}
        scores = _library("metric_kid").kid_features_to_metric(
            features.double(), reference.double(), verbose=False, **options
        )
        return {"kid": float(scores["kernel_inception_distance_mean"])}


class PrecisionRecall(FeatureMetric):
    """Precision and recall, by the third neighbour."""

    columns = ("precision", "recall")

    def _compare(self, features: Tensor, reference: Tensor) -> dict[str, float]:
        scores = _library("metric_prc").prc_features_to_metric(
            features,
            reference,
            prc_neighborhood=NEIGHBOURS,
            prc_batch_size=10_000,
            save_cpu_ram=True,
            verbose=False,
        )
        return {name: float(scores[name]) for name in self.columns}


def _library(module: str) -> Any:
    try:
        return import_module(f"torch_fidelity.{module}")
    except UserError:
        raise
    except Exception as error:  # a torchvision that does not go with torch raises anything
        raise UserError(
            "KID, precision and recall need torch-fidelity 0.4: pip install 'di4c_plugin[images]' "
            f"({reason(error)})"
        ) from error
