"""Stand-in for torch-fidelity: Halton-MaskGIT imports it for its evaluation."""

__version__ = "0.0"
