"""Stand-in for clean-fid: Halton-MaskGIT imports it for its evaluation."""

from . import resize as resize

__version__ = "0.0"
