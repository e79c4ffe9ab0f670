"""The files of an adapter, as plain peft reads them, with the weights of a latent beside it."""

import json
import re
from pathlib import Path
from typing import Any

from di4c_plugin.files import atomic_write

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # of all names in such a file
OWN = re.compile(r"(\.lora_\w+)\.default\b")


def file_name(name: str) -> str:
    """Return the name in the file of a weight with this name in its network."""
    return PREFIX + OWN.sub(r"\1", name)


def write_config(network: Any, base: str | None, path: Path) -> None:
    """Write adapter_config.json for a network with an adapter; raises UserError.

    Args:
        network: with an adapter.
        base: file, folder or hub id of the base; None: not known.
        path: the file.
    """
    (config,) = network.peft_config.values()
    content = config.to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    content = {k: sorted(v) if isinstance(v, set) else v for k, v in content.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
