"""What `di4c evaluate` judges samples by: a function on tokens, or a metric of pictures."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.sampling import picture_batches, picture_size
from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.api import LoadedModel
    from di4c_plugin.evaluation.picture_metric import PictureMetric, Reference
    from di4c_plugin.hosts import OpenHost

PICTURES_ONLY = ("reference", "statistics", "inception")


@dataclass(frozen=True)
class Judge:
    """Names of the values, what gives them for samples (n, D), and what to know about them."""

    columns: tuple[str, ...]
    values: "Callable[[Tensor], dict[str, float]]"
    notes: dict[str, str]


def make_judge(args: argparse.Namespace, host: "OpenHost", model: "LoadedModel") -> Judge:
    """Return what --metric names; raises UserError."""
    from di4c_plugin.evaluation.picture_metric import MetricOptions, PictureMetric
    from di4c_plugin.plugins import lookup

    found = lookup("metric", args.metric)
    if not (isinstance(found, type) and issubclass(found, PictureMetric)):
        return _of_tokens(args, host, found)
    reference = _reference(args, host, model)
    options = MetricOptions(args.inception, args.statistics, args.device)
    return _of_pictures(host, found(reference, options))


def _of_tokens(args: argparse.Namespace, host: "OpenHost", metric: Any) -> Judge:
    for name in PICTURES_ONLY:
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for metrics of pictures, such as fid")
    reference = host.data().x_0
    return Judge((args.metric,), lambda x: {args.metric: metric(x, reference)}, {})


def _of_pictures(host: "OpenHost", metric: "PictureMetric") -> Judge:
    return Judge(metric.columns, lambda x: metric(picture_batches(host, x)), dict(metric.notes()))


def _reference(args: argparse.Namespace, host: "OpenHost", model: "LoadedModel") -> "Reference":
    """Return the pictures in --reference, or those of the host's data, at the samples' size."""
    from di4c_plugin.evaluation.folder import folder_reference
    from di4c_plugin.evaluation.picture_metric import Reference

    host.check_drawing()
    size = picture_size(host, model)
    if args.reference is not None:
        return folder_reference(Path(args.reference), size)
    return Reference(
        f"pictures of {data_name(args, host, model)}",
        f"none, {'x'.join(map(str, size))} as the host draws its data",
        size,
        lambda: picture_batches(host, host.data().x_0),
    )


def data_name(args: argparse.Namespace, host: "OpenHost", model: "LoadedModel") -> str:
    """Return what the data of a host are called: its name, and what makes its pictures."""
    described = host.described().get("host", {})
    told = [f"{k}={described[k]}" for k in ("data", "vqgan") if described.get(k) is not None]
    return f"the data of host {host.name}" + (f" ({', '.join(told)})" if told else "")
