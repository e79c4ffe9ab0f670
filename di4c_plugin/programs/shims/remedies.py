"""Remedies that several programs take, each active only where needed.

A remedy wraps one function after its module is imported. Standard library only at module level:
this runs before torch.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Program, Remedy
from di4c_plugin.programs.shims.after_import import after_import


@functools.cache
def install(program: Program) -> None:
    """Install the remedies of a program, once.

    Its modules may be loaded already: the hosts look these functions up at every call.
    """
    for remedy in program.remedies:
        after_import(remedy.module, remedy.patch)


def old_checkpoints(torch: ModuleType) -> None:
    """Make `torch.load` read files as data, by the one reader of this package.

    Many checkpoints pickle a config and a tokenizer, which torch refuses since 2.6, so
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
    """Make `get_dataloaders`, as MDLM and its kin have it, count processes without a GPU.

    It divides the batch by `torch.cuda.device_count()`, which is zero. While the loaders are built,
    the count is trainer.devices; a lasting patch would make autocast look for a driver.
    """
    build: Callable[..., Any] = dataloader.get_dataloaders

    @functools.wraps(build)
    def get_dataloaders(config: Any, *args: Any, **kwargs: Any) -> Any:
        from unittest import mock

        import torch

        if torch.cuda.device_count():
            return build(config, *args, **kwargs)
        announce_once("no GPU: the data loaders divide the batch by trainer.devices")
        with mock.patch("torch.cuda.device_count", return_value=int(config.trainer.devices)):
            return build(config, *args, **kwargs)

    dataloader.get_dataloaders = get_dataloaders  # type: ignore[attr-defined]


OLD_CHECKPOINTS = Remedy(
    module="torch",
    patch=old_checkpoints,
    when="a checkpoint is read; some hold objects that torch refuses",
    what="torch.load reads it as data and leaves objects out",
)
LOADERS_WITHOUT_GPU = Remedy(
    module="dataloader",
    patch=loaders_without_gpu,
    when="no GPU",
    what="get_dataloaders divides the batch by trainer.devices instead",
    only_without_gpu=True,
)
