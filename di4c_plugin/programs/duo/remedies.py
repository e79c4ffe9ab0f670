"""A remedy of Duo's own. Standard library only at module level: this runs before torch."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Remedy


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


PERPLEXITY_ON_ITS_DEVICE = Remedy(
    module="metrics",
    patch=perplexity_on_its_device,
    when="no GPU",
    what="record_generative_perplexity gets the device, which main.py passes as retokenize",
    only_without_gpu=True,
)
