"""A model as a folder, ready for the hub: weights, config.json and a model card.

Tests: tests/models/test_folder.py.
"""

import json
from pathlib import Path
from typing import Any

from di4c_plugin.files import atomic_write
from di4c_plugin.models.checkpoint import Model, describe, save_model
from di4c_plugin.models.dit import DiTConfig

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

TEMPLATE = """---
library_name: di4c_plugin
tags:
- discrete-diffusion
- di4c
---
# {title}

{what}

Load and sample, in any folder or from the hub, without the program it was trained in:

```python
from di4c_plugin import {load}

model = {load}("path/to/this/folder")  # or "owner/name@revision"
tokens = model.sample(4, steps=8, seed=0)
```

Weights have the names of the teacher's; `config.json` says the sizes.

| | |
|---|---|
{rows}
"""


def save_folder(model: Model, folder: str | Path) -> None:
    """Write the model into `folder`, which is made if need be; the weights last.

    Raises:
        UserError: when the system refuses.
    """
    folder = Path(folder)
    for name, text in ((CARD, card(model)), (CONFIG, config_json(model))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    save_model(model, folder / WEIGHTS)


def config_json(model: Model) -> str:
    """Return what stands in config.json: the sizes as on the hub, and our whole description."""
    sizes: dict[str, Any] = {}
    network = model.network
    if isinstance(network, DiTConfig):
        names = ("vocab_size", "cond_dim", "n_blocks", "n_heads", "time_conditioning")
        sizes = {name: getattr(network, name) for name in names}
        sizes |= {"hidden_dim": network.hidden_size, "model_length": network.length}
    content = {"model_type": "di4c"} | sizes | {"di4c": describe(model)}
    return json.dumps(content, indent=2) + "\n"


def card(model: Model) -> str:
    """Return the model card: what it is, how to load it, what made it."""
    if model.is_student:
        title = "A few-step student (Di4C)"
        what = (
            "A mixture over a latent, distilled from the teacher below with "
            "[Di4C](https://arxiv.org/abs/2410.08709) by `di4c_plugin`."
        )
    else:
        title, what = "A discrete diffusion model", "A product model, as `di4c_plugin` keeps it."
    facts = {"latent": model.latent, "process": model.process.config} | model.info
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    load = "load_student" if model.is_student else "load_teacher"
    return TEMPLATE.format(title=title, what=what, load=load, rows=rows)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "`" + text.replace("|", "\\|").replace("\n", " ") + "`"
