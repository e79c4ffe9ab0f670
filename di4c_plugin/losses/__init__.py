"""Log-probabilities and losses of mixtures of product models."""
