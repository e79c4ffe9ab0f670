"""Stand-in for flash-attn where it is not installed: the functions that the hosts call, in torch.

Same arguments, shapes and results as flash-attn 2; slower on a GPU, and it runs on a CPU.
"""

from .flash_attn_interface import flash_attn_qkvpacked_func, flash_attn_varlen_qkvpacked_func

__all__ = ["flash_attn_qkvpacked_func", "flash_attn_varlen_qkvpacked_func"]

# Below what any library accepts: transformers asks, and must not take this for the real thing.
__version__ = "0.0"
