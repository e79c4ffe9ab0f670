"""A program with Hydra and Lightning: how it is recognised, repaired and entered.

Nothing but the standard library is imported before the program itself is.
"""

from types import ModuleType

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Program, Remedy


def on_the_cpu(letters: ModuleType) -> None:
    """Train on the CPU where there is no GPU, which the program asks for."""
    import torch

    if not torch.cuda.is_available():
        announce_once("no GPU: the letters are learnt on the CPU")
        letters.ACCELERATOR = "cpu"  # type: ignore[attr-defined]


PROGRAM = Program(
    name="letters",
    url="https://example.org/letters.git",
    commit="0" * 40,
    marks=("main.py", "letters.py", "settings/letters.yaml"),
    script="main.py",
    remedies=(
        Remedy(
            module="letters",
            patch=on_the_cpu,
            when="no GPU",
            what="letters.ACCELERATOR is the CPU",
            only_without_gpu=True,
        ),
    ),
    configs="settings",
    adapter="di4c_example.letters.adapter:install",
    files=("start_from", "weights"),
)
