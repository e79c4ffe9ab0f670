"""Hydra configs, found as `pkg://di4c_example.configs`."""
