"""Networks of a method on one base, and the whole networks that they stand for, without peft."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Batch
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.families.adapted import shared, without_adapter
from di4c_plugin.hosts.hf import HOST
from di4c_plugin.hosts.start import start_networks
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine
from tests.families.hf.snapshots import foreign, load_teacher, native

METHODS: dict[str, dict[str, Any]] = {
    "di4c": {"name": "di4c", "latents": 2, "target": "average"},
    "dmmd": {"name": "dmmd", "together": True},
    "sdtt": {"name": "sdtt", "teacher_steps": 8, "steps": 4},
    "rsmmd": {"name": "rsmmd", "candidates": 2},
}
ADAPTER = Adapter(r=3, alpha=6.0)


def teacher_of(kind: str, folder: Path) -> Any:
    """A random teacher in float64."""
    folder.mkdir(exist_ok=True)
    (native if kind in ("bert", "modernbert") else foreign)(kind, folder)
    options = {"name": "hf", "trust_remote_code": True, "dtype": "float64"}
    return load_teacher(folder, host=options)


def shaken(models: dict[str, Model]) -> dict[str, Model]:
    """The same models with adapters that change something."""
    torch.manual_seed(3)
    for model in models.values():
        for name, weight in model.denoiser.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.3)
    return models


def networks_on_base(teacher: Model, algo: dict[str, Any]) -> tuple[Any, Model, dict[str, Model]]:
    """A method, its teacher, and a network for each of its roles."""
    method = make_algorithm(algo, teacher.process)
    base = shared(teacher)
    models = start_networks(HOST(), method, base, None, None, 0, ADAPTER)
    return method, base, shaken(models)


def whole(model: Model) -> Model:
    """A model whose network holds W + (alpha / r) B A as its own, by plain products."""
    by_peft = without_adapter(model).denoiser
    found = replace(model, denoiser=by_peft, adapter=None)
    network = found.denoiser.network
    for name, weight in model.denoiser.network.named_parameters():
        if ".base_layer.weight" in name:
            place = name.removesuffix(".base_layer.weight")
            layer: Any = model.denoiser.network.get_submodule(place)
            a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
            own = weight + ADAPTER.alpha / ADAPTER.r * (b @ a)
            made: Any = network.get_submodule(place)
            assert torch.allclose(made.weight, own)
            made.weight = nn.Parameter(own.detach())
    # No weight is that of another network.
    for module in network.modules():
        for key, each in module.named_parameters(recurse=False):
            module._parameters[key] = nn.Parameter(each.detach().clone())
    return found


def engine_of(method: Any, models: dict[str, Model], teacher: Model) -> Engine:
    """An engine over these networks, in train mode."""
    networks = {name: model.denoiser.train() for name, model in models.items()}
    averages = {name: EMA(networks[name], 0.9) for name in networks if method.roles[name].averaged}
    frozen = teacher.denoiser.eval().requires_grad_(False)
    return Engine(method, networks, frozen, averages=averages, seed=5)


def batch_of(teacher: Model) -> Batch:
    """Texts of two lengths, with a prompt and padding."""
    x_0 = torch.randint(5, 33, (3, 10), generator=torch.Generator().manual_seed(1))
    given = torch.zeros_like(x_0, dtype=torch.bool)
    given[0, :3] = True
    if teacher.network.pad is not None:  # type: ignore[attr-defined]
        x_0[1, 7:], given[1, 7:] = teacher.network.pad, True  # type: ignore[attr-defined]
    return Batch(x_0, given=given)


def gradients(engine: Engine, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The losses by role, and the gradients by role and name."""
    engine.begin(0, 4)
    found = engine.losses(batch, 0, 4, rank=0, step=0, device=torch.device("cpu"))
    found.total.backward()
    grads = {
        role: {name: p.grad for name, p in network.network.named_parameters()}  # type: ignore[union-attr]
        for role, network in engine.trained_networks.items()
    }
    return {k: v.detach() for k, v in found.totals.items()}, grads
