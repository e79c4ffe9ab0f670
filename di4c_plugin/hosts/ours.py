"""Whether a file is a model file of ours, and of which kind. Tests: tests/hosts/test_sources.py."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


def our_kind(path: Path) -> str | None:
    """Return the kind of network in a file that `save_model` wrote; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get("di4c")
    except (SafetensorError, OSError):
        return None
    try:
        content = json.loads(described) if described is not None else None
    except ValueError:
        return ""  # ours, and damaged: who reads it says so
    return None if content is None else str(content.get("kind", "transformer"))
