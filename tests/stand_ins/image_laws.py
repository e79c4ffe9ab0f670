"""The hosts' own samplers against ours with their interfaces, by the law of what they draw.

Run in a process of its own, see test_image_samplers.py: each prints, for several cases, how many
standard errors apart the two are at most, over all frequencies of a code at a position and of pairs
of codes at neighbouring positions.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from di4c_plugin.programs import maskgit as maskgit_program
from di4c_plugin.programs.shims import packages

SIDE, CODES, CLASSES, DRAWS = 4, 4, 3, 12_000
LABELS = torch.arange(DRAWS) % CLASSES


class Decoder:
    def decode_code(self, code: Tensor) -> Tensor:
        return code


def apart(a: Tensor, b: Tensor) -> float:
    """How far apart the laws of codes (n, h, w) are, in standard errors."""
    worst = 0.0
    for x, y in zip(statistics(a), statistics(b), strict=True):
        p, q = x.double().mean(0), y.double().mean(0)
        mean = (p + q) / 2
        error = (mean * (1 - mean) * (1 / len(x) + 1 / len(y))).sqrt()
        worst = max(worst, float(((p - q).abs() / error.clamp(min=1e-4)).max()))
    return worst


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Which code is where, and which pairs are beside each other."""
    flat = x.flatten(1).long()
    return one_hot(flat, CODES), one_hot(flat[:, :-1] * CODES + flat[:, 1:], CODES**2)


def sharpened(network: Any, bias: Callable[[Any], Tensor]) -> Any:
    """Weights with which codes depend on one another and on the class.

    A trained network does not predict the mask; the hosts' samplers might draw it, ours never do.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
        bias(network)[..., CODES] = -50
    return network


class Certain(nn.Module):
    """A network that predicts what is known; its weights are those of `module`.

    The host's ConfidenceSampler draws anew what it has opened; ours keeps it, as v1 does.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, y: Tensor, drop_label: Tensor) -> Tensor:
        logits, flat = self.module(x, y, drop_label), x.flatten(1)
        certain = 100.0 * one_hot(flat, CODES + 1)
        return torch.where((flat == CODES).unsqueeze(-1), logits, certain)


def report(name: str, host: Callable[[], Any], ours: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    sys.stdout.write(f"{name} {apart(host()[0], ours()[0]):.2f}\n")


def maskgit(root: Path) -> None:
    """`MaskGIT.sample` of v1."""
    packages.provide(maskgit_program.PROGRAM)
    sys.path.insert(0, str(root))
    from di4c_plugin.programs.maskgit.sampler import MaskGITSampler

    vit = importlib.import_module("Trainer.vit")
    sizes = {"hidden_dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "nclass": CLASSES}
    network = vit.MaskTransformer(codebook_size=CODES, f_factor=SIDE, **sizes)
    sharpened(network, lambda found: found.bias)

    class Trainer(vit.MaskGIT):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.vit, self.ae, self.codebook_size, self.patch_size = network, Decoder(), CODES, SIDE
            self.args = SimpleNamespace(mask_value=CODES, device="cpu")

    trainer, ours = Trainer(), MaskGITSampler(root=Path(root))
    cases: dict[str, dict[str, Any]] = {
        "plain": {"w": 0, "step": 3},
        "guided": {"w": 1.5, "step": 4, "sched_mode": "square", "sm_temp": 1.3, "r_temp": 2.0},
        "cosine": {"w": 0, "step": 5, "sched_mode": "cosine"},
    }
    for name, options in cases.items():
        asked = {"nb_sample": DRAWS, "labels": LABELS, **options}
        report(name, partial(trainer.sample, **asked), partial(ours, trainer, **asked))


def halton(root: Path) -> None:
    """Both samplers of Halton-MaskGIT.

    Its HaltonSampler rounds what is open after a step down, ours to the nearest: with 16 positions
    and 3 steps both are the same.
    """
    sys.path.insert(0, str(root))
    from di4c_plugin.programs.halton_maskgit.sampler import ConfidenceSampler, HaltonSampler

    kind = importlib.import_module("Network.transformer").Transformer
    sizes = {"hidden_dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "nclass": CLASSES}
    network = kind(input_size=SIDE, codebook_size=CODES, register=1, **sizes)
    trainer = SimpleNamespace(
        vit=Certain(sharpened(network, lambda found: found.head.bias)),
        ae=Decoder(),
        autocast=nullcontext(),
        input_size=SIDE,
        transformer_size=lambda size: (16, 1, 2),
        args=SimpleNamespace(
            mask_value=CODES, device="cpu", use_ema=False, codebook_size=CODES, vit_size="tiny"
        ),
    )
    cases: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "halton": (HaltonSampler, "halton_sampler", {"w": 0, "step": 3}),
        "warm": (
            HaltonSampler,
            "halton_sampler",
            {"w": 1.5, "step": 3, "sm_temp_min": 0.7, "sm_temp_max": 1.2, "temp_warmup": 1},
        ),
        "randomize": (HaltonSampler, "halton_sampler", {"w": 0, "step": 3, "randomize": True}),
        "confidence": (ConfidenceSampler, "confidence_sampler", {"w": 1.5, "step": 4}),
    }
    asked = {"nb_sample": DRAWS, "labels": LABELS, "verbose": False}
    for name, (ours, module, options) in cases.items():
        host = getattr(importlib.import_module(f"Sampler.{module}"), ours.__name__)
        other = ours(**options, root=Path(root))
        report(name, partial(host(**options), trainer, **asked), partial(other, trainer, **asked))
