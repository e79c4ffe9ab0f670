from importlib import import_module
from pathlib import Path

import pytest
import torch

from di4c_plugin.programs.sdtt import remedies


def test_a_scripted_function_is_compiled_as_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in SDTT: the name that the scripted one calls is defined anew behind it."""
    (tmp_path / "stand_in_of_dit.py").write_text(
        "import torch\n"
        "def modulate(x, shift, scale):\n"
        "    return x * (1 + scale) + shift\n"
        "@torch.jit.script\n"
        "def modulate_fused(x, shift, scale):\n"
        "    return modulate(x, shift, scale)\n"
        "def modulate(x, shift, scale):\n"
        "    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    models = import_module("stand_in_of_dit")
    x, shift, scale = torch.randn(3, 2, 4), torch.randn(3, 1, 4), torch.randn(3, 1, 4)
    expected = models.modulate_fused(x, shift, scale)

    def block(*args: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = models.modulate_fused(*args)
        return result

    torch.compiler.reset()
    assert torch.compile(block, backend="eager")(x, shift, scale).shape == (3, 3, 2, 4)
    remedies.modulation_as_scripted(models)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(block, backend="eager")(x, shift, scale), expected)
    torch.testing.assert_close(models.modulate_fused(x, shift, scale), expected)
