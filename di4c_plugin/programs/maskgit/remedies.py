"""Remedies of MaskGIT v1's own. Standard library only at module level: this runs before torch."""

import contextlib
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Remedy


def metrics_without_gpu(metrics: ModuleType) -> None:
    """Make MaskGIT's metrics run without a GPU: they move a network and features to "cuda"."""
    kind = metrics.MultiInceptionMetrics
    for name in ("__init__", "compute"):
        setattr(kind, name, _without_gpu(getattr(kind, name)))


def _without_gpu(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        from unittest import mock

        import torch

        if torch.cuda.is_available():
            return method(*args, **kwargs)
        announce_once("no GPU: the metrics run on the CPU")
        with contextlib.ExitStack() as stack:
            for kind in (torch.Tensor, torch.nn.Module):
                stack.enter_context(mock.patch.object(kind, "to", _not_to_cuda(kind.to)))
            return method(*args, **kwargs)

    return run


def _not_to_cuda(to: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: x if args == ("cuda",) else to(x, *args, **kwargs)


def numpy_float(numpy: ModuleType) -> None:
    """Restore `numpy.float_`, which numpy 2 has removed, for MaskGIT's metrics."""
    if not hasattr(numpy, "float_"):
        numpy.float_ = numpy.float64  # type: ignore[attr-defined]


METRICS_WITHOUT_GPU = Remedy(
    module="Metrics.inception_metrics",
    patch=metrics_without_gpu,
    when="no GPU",
    what="--test-only computes its metrics on the CPU",
    only_without_gpu=True,
)
NUMPY_FLOAT = Remedy(
    module="numpy",
    patch=numpy_float,
    when="numpy 2",
    what="numpy.float_, which the metrics use, is numpy.float64",
)
