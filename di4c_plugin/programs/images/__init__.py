"""The networks of MaskGIT, Halton-MaskGIT and tauLDR as teachers and students of ours.

What is exported is loaded when first asked for: `di4c run` imports this package before torch. These
are our samplers with the interfaces of the hosts', for programs of one's own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from di4c_plugin.programs.halton_maskgit.sampler import ConfidenceSampler, HaltonSampler
    from di4c_plugin.programs.maskgit.sampler import MaskGITSampler
    from di4c_plugin.programs.tauldr.sampler import TauLDRSampler

__all__ = ["ConfidenceSampler", "HaltonSampler", "MaskGITSampler", "TauLDRSampler"]
_PLACES = {
    "ConfidenceSampler": "halton_maskgit",
    "HaltonSampler": "halton_maskgit",
    "MaskGITSampler": "maskgit",
    "TauLDRSampler": "tauldr",
}


def __getattr__(name: str) -> Any:
    """Load an exported name."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"di4c_plugin.programs.{_PLACES[name]}.sampler"), name)
