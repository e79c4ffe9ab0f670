"""Model files as their two parts."""

from pathlib import Path
from typing import Any

from torch import Tensor

from di4c_plugin.checkpoints.content import read_content


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the weights of a model file."""
    found = read_content(path)
    assert found.description is not None
    return found.description, dict(found.entries)
