"""Fréchet Inception distance and Inception score.

FID (Heusel et al. 2017): the Fréchet distance of Inception's pooled features to those of the
reference. IS (Salimans et al. 2016): exp of the mean KL of each picture's class distribution to
that of all; higher is better. The features are torch-fidelity's, as are the order and the splits of
pictures for IS.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.frechet import gaussian_distance
from di4c_plugin.evaluation.inception import RESIZING, Inception
from di4c_plugin.evaluation.moments import Moments
from di4c_plugin.evaluation.picture_metric import MetricOptions, PictureMetric, Reference
from di4c_plugin.evaluation.statistics import (
    Statistics,
    check_path,
    read_statistics,
    write_statistics,
)

SPLITS, SHUFFLE = 10, 2020


class FID(PictureMetric):
    """FID and IS of pictures."""

    columns = ("fid", "is")

    def __init__(self, reference: Reference, options: MetricOptions) -> None:
        """See `PictureMetric`; missing statistics are computed and written."""
        self._inception = Inception(options.weights, options.device)
        path = options.statistics
        record = {
            "reference": reference.name,
            "resizing": f"{reference.resizing}; then {RESIZING}",
            "size": list(reference.size),
            "inception": self._inception.fingerprint,
        }
        if path is not None:
            check_path(path)
        if path is not None and path.exists():
            self._reference = read_statistics(path, record)
        else:
            self._reference = self._gather(reference, record)
            if path is not None:
                write_statistics(self._reference, path)

    def _gather(self, reference: Reference, record: dict[str, Any]) -> Statistics:
        moments = Moments()
        for pooled, _ in self._inception.all_features(reference.batches()):
            moments.add(pooled)
        return Statistics(*moments.result(), record | {"pictures": moments.count})

    def __call__(self, pictures: Iterable[Tensor]) -> dict[str, float]:
        """See `PictureMetric`.

        Raises:
            UserError: for fewer pictures than the splits of IS.
        """
        moments, logits = Moments(), []
        for pooled, out in self._inception.all_features(pictures):
            moments.add(pooled)
            logits.append(out)
        score = inception_score(torch.cat(logits))
        statistics = self._reference
        tell_if_few(moments.count, len(statistics.mu))
        return {
            "fid": gaussian_distance(moments.result(), (statistics.mu, statistics.sigma)),
            "is": score,
        }

    def notes(self) -> dict[str, str]:
        """See `PictureMetric`."""
        record = self._reference.record
        return {
            "reference": f"{record['reference']}, {record['pictures']} of them",
            "resizing": record["resizing"],
            "inception": record["inception"],
        }


def tell_if_few(pictures: int, features: int) -> None:
    """Announce that the FID of so few pictures is too large."""
    if pictures <= features:
        announce_once(
            f"{pictures} pictures are few for {features} features: FID is too large; usual are "
            "50000, and as many for all that are compared"
        )


def inception_score(logits: Tensor, splits: int = SPLITS) -> float:
    """Return the mean over `splits` of exp E_x KL(p(y|x) || p(y)), for logits (n, classes).

    Raises:
        UserError: for fewer pictures than splits.
    """
    if len(logits) < splits:
        raise UserError(f"IS takes at least {splits} pictures, not {len(logits)}")
    order = np.random.RandomState(SHUFFLE).permutation(len(logits))
    shuffled = logits[torch.from_numpy(order)].double()
    ends = [k * len(logits) // splits for k in range(splits + 1)]
    parts = (shuffled[a:b].log_softmax(-1) for a, b in pairwise(ends))
    return float(np.mean([_score(log_p) for log_p in parts]))


def _score(log_p: Tensor) -> float:
    p = log_p.exp()
    kl = (p * (log_p - p.mean(0).log())).sum(-1)
    return float(kl.mean().exp())
