"""Small repairs of the hosts' programs and their libraries, each active only where needed.

A remedy wraps one function after its module is imported, and announces itself when it takes effect.
Standard library only at module level: this runs before torch.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import HOSTS
from di4c_plugin.programs.shims.after_import import Patch, after_import


@dataclass(frozen=True)
class Remedy:
    """One repair: `patch` is called with `module` after its import; `when` and `what` are texts."""

    hosts: tuple[str, ...]
    module: str
    patch: Patch
    when: str
    what: str
    only_without_gpu: bool = False


def remedies_of(host: str) -> list[Remedy]:
    """Return the remedies for the named host."""
    return [remedy for remedy in REMEDIES if host in remedy.hosts]


@functools.cache
def install(host: str) -> None:
    """Install the remedies for the named host, once.

    Its modules may be loaded already: the hosts look these functions up at every call.
    """
    for remedy in remedies_of(host):
        after_import(remedy.module, remedy.patch)


def old_checkpoints(torch: ModuleType) -> None:
    """Make `torch.load` read files as data, by the one reader of this package.

    Checkpoints of MDLM and Duo pickle a config and a tokenizer, which torch refuses since 2.6, so
    that resuming and `load_from_checkpoint` fail. Trusting the file would not help either if a
    newer transformers lacks the tokenizer's class. Nothing in the file is executed: no script, no
    tar archive. Callers that pass weights_only themselves get torch's own behaviour, and so does
    what is no file.
    """
    load: Callable[..., Any] = torch.load

    @functools.wraps(load)
    def load_inert(
        f: Any, map_location: Any = None, *args: Any, weights_only: bool | None = None, **kw: Any
    ) -> Any:
        named = f if isinstance(f, str | os.PathLike) else getattr(f, "name", None)
        path = Path(named) if isinstance(named, str | os.PathLike) else None
        if weights_only is not None or path is None or not path.is_file():
            safe = True if weights_only is None else weights_only  # before torch 2.6 None is False
            return load(f, map_location, *args, weights_only=safe, **kw)
        from di4c_plugin.checkpoints.torch_file import read_torch

        elsewhere = map_location is None or callable(map_location) or isinstance(map_location, dict)
        content = read_torch(path, device="cpu" if elsewhere else map_location)
        if _has_stub(content):
            announce_once(
                f"{path} holds objects that torch refuses: read without running any of it"
            )
        return content

    torch.load = load_inert  # type: ignore[attr-defined]


def _has_stub(content: Any) -> bool:
    """Return whether an object of a file stands in nested dicts and lists."""
    from di4c_plugin.checkpoints.stubs import Inert

    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return any(map(_has_stub, content))
    return isinstance(content, Inert)


def loaders_without_gpu(dataloader: ModuleType) -> None:
    """Make MDLM's and Duo's `get_dataloaders` count processes without a GPU.

    It divides the batch by `torch.cuda.device_count()`, which is zero. While the loaders are built,
    the count is trainer.devices; a lasting patch would make autocast look for a driver.
    """
    build: Callable[..., Any] = dataloader.get_dataloaders

    @functools.wraps(build)
    def get_dataloaders(config: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        if torch.cuda.device_count():
            return build(config, *args, **kwargs)
        announce_once("no GPU: the data loaders divide the batch by trainer.devices")
        with mock.patch("torch.cuda.device_count", return_value=int(config.trainer.devices)):
            return build(config, *args, **kwargs)

    dataloader.get_dataloaders = get_dataloaders  # type: ignore[attr-defined]


def perplexity_on_its_device(metrics: ModuleType) -> None:
    """Make Duo's generative perplexity run on the device of the samples.

    Duo passes the device as `retokenize`, and the default device is a GPU.
    """
    record: Callable[..., None] = metrics.Metrics.record_generative_perplexity

    @functools.wraps(record)
    def record_generative_perplexity(
        self: Any, text: Any, max_length: int, retokenize: Any = True, device: Any = "cuda"
    ) -> None:
        if not isinstance(retokenize, bool):
            retokenize, device = True, retokenize
        if str(device) == "cpu":
            announce_once("no GPU: generative perplexity on the CPU")
        record(self, text, max_length, retokenize, device)

    metrics.Metrics.record_generative_perplexity = record_generative_perplexity


def metrics_without_gpu(metrics: ModuleType) -> None:
    """Make MaskGIT's metrics run without a GPU: they move a network and features to "cuda"."""
    kind = metrics.MultiInceptionMetrics
    for name in ("__init__", "compute"):
        setattr(kind, name, _without_gpu(getattr(kind, name)))


def _without_gpu(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
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


def modulation_as_scripted(models: ModuleType) -> None:
    """Make SDTT's `modulate_fused` mean the same to `torch.compile` as it does uncompiled.

    TorchScript takes the first of two functions named `modulate`; `torch.compile` reads the source
    anew, finds the second, and broadcasts the batch with itself.
    """
    scripted: Callable[..., Any] = models.modulate_fused

    def modulate_fused(x: Any, shift: Any, scale: Any) -> Any:
        import torch

        if torch.compiler.is_compiling():
            return x * (1 + scale) + shift
        return scripted(x, shift, scale)

    models.modulate_fused = modulate_fused  # type: ignore[attr-defined]


REMEDIES = (
    Remedy(
        hosts=tuple(host.name for host in HOSTS),
        module="torch",
        patch=old_checkpoints,
        when="a checkpoint is read; those of MDLM, Duo and tauLDR hold objects that torch refuses",
        what="torch.load reads it as data and leaves objects out",
    ),
    Remedy(
        hosts=("mdlm", "duo"),
        module="dataloader",
        patch=loaders_without_gpu,
        when="no GPU",
        what="get_dataloaders divides the batch by trainer.devices instead",
        only_without_gpu=True,
    ),
    Remedy(
        hosts=("duo",),
        module="metrics",
        patch=perplexity_on_its_device,
        when="no GPU",
        what="record_generative_perplexity gets the device, which main.py passes as retokenize",
        only_without_gpu=True,
    ),
    Remedy(
        hosts=("sdtt",),
        module="sdtt.models.dit_orig",
        patch=modulation_as_scripted,
        when="compile=true",
        what="modulate_fused computes what it computes uncompiled",
    ),
    Remedy(
        hosts=("maskgit",),
        module="Metrics.inception_metrics",
        patch=metrics_without_gpu,
        when="no GPU",
        what="--test-only computes its metrics on the CPU",
        only_without_gpu=True,
    ),
    Remedy(
        hosts=("maskgit",),
        module="numpy",
        patch=numpy_float,
        when="numpy 2",
        what="numpy.float_, which the metrics use, is numpy.float64",
    ),
)
