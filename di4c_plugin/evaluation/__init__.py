"""Metrics, sweeps over steps, pictures and reports."""
