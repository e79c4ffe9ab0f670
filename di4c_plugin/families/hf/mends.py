"""Names that the modelling code of diffusion language models misses in transformers 5.

Their classes were written for transformers 4: without these names they do not import, or cannot be
constructed. Their code is not edited. Each name that is put back is announced.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from di4c_plugin.announce import announce_once


def mend() -> None:
    """Put back the missing names, once."""
    mended = [*_default_rope(), *_attention_masks(), *_fx()]
    if mended:
        announce_once(f"put back into transformers for this model's code: {', '.join(mended)}")


def _default_rope() -> list[str]:
    """Rotary tables without scaling; classes look them up as "default"."""
    from transformers import modeling_rope_utils as rope

    if "default" in rope.ROPE_INIT_FUNCTIONS:
        return []
    rope.ROPE_INIT_FUNCTIONS["default"] = default_rope
    return ["ROPE_INIT_FUNCTIONS['default']"]


def default_rope(
    config: Any, device: Any = None, seq_len: Any = None, **_: Any
) -> tuple[Any, float]:
    """Return the inverse frequencies, (width of a head / 2,), and the factor 1 on attention."""
    import torch

    parameters = getattr(config, "rope_parameters", None) or {}
    theta = getattr(config, "rope_theta", None) or parameters.get("rope_theta") or 10000.0
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(width * (getattr(config, "partial_rotary_factor", None) or 1.0))
    steps = torch.arange(0, width, 2, dtype=torch.int64).to(device=device, dtype=torch.float)
    return 1.0 / (theta ** (steps / width)), 1.0


def _attention_masks() -> list[str]:
    """The functions that made 4-d masks; here masks have the network's form already."""
    name = "transformers.modeling_attn_mask_utils"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return []
    module: Any = ModuleType(name)
    module._prepare_4d_causal_attention_mask = _as_given
    module._prepare_4d_causal_attention_mask_for_sdpa = _as_given
    module._prepare_4d_attention_mask = _as_given
    sys.modules[name] = module
    return [name]


def _as_given(attention_mask: Any, *_: Any, **__: Any) -> Any:
    return attention_mask


def _fx() -> list[str]:
    utils: Any = importlib.import_module("transformers.utils.import_utils")
    if hasattr(utils, "is_torch_fx_available"):
        return []
    utils.is_torch_fx_available = _no
    return ["is_torch_fx_available"]


def _no() -> bool:
    return False
