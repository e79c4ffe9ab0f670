"""A complete third-party plugin: one file for each thing it adds, and `plugin.py` that says so."""
