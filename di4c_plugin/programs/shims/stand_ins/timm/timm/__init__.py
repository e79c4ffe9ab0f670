"""Stand-in for timm: the hosts import it for one learning-rate schedule, which few runs use."""

__version__ = "0.0"
