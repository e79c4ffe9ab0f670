"""Whether a file is a model file of ours, and of which kind."""

import json
from pathlib import Path

from di4c_plugin.checkpoints.model_file import described_in


def our_kind(path: Path) -> str | None:
    """Return the kind of network in a file that `save_model` wrote; None for any other file.

    Of a damaged one it is "": who reads it says what is wrong.
    """
    text = described_in(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    kind = content.get("kind", "transformer") if isinstance(content, dict) else ""
    return kind if isinstance(kind, str) else ""
