"""Adapters on one base: losses, gradients, averages and memory are those of whole networks."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("peft", reason="adapters are by peft")

from di4c_plugin.networks.sharing import base_names, base_weights, own_state
from tests.families.hf.adapters import (
    ADAPTER,
    METHODS,
    batch_of,
    engine_of,
    gradients,
    networks_on_base,
    teacher_of,
    whole,
)
from tests.families.hf.snapshots import load_teacher, native


@pytest.mark.parametrize(
    ("name", "recomputing"),
    [*product(METHODS, ["nothing", "blocks", "chunks"]), ("di4c", "loss"), ("di4c", "passes")],
)
def test_gradients_are_those_of_whole_networks(name: str, recomputing: str, tmp_path: Path) -> None:
    """dB = s dW A^T and dA = s B^T dW, for all roles in one backward pass.

    So no gradient is lost, none is another role's, the teacher has no adapter, and recomputed
    blocks have that of their forward pass.
    """
    teacher = teacher_of("bert", tmp_path / "teacher")
    losses = {"chunks": "chunked", "loss": "checkpoint", "passes": "two_pass"}
    algo = METHODS[name] | {"loss": losses.get(recomputing, "naive")}
    method, base, models = networks_on_base(teacher, algo)
    batch = batch_of(teacher)
    wholes = {role: whole(model) for role, model in models.items()}
    other = teacher_of("bert", tmp_path / "teacher")
    totals, expected = gradients(engine_of(method, wholes, other), batch)
    engine = engine_of(method, models, base)
    if recomputing == "blocks":
        for network in engine.trained_networks.values():
            network.network.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[union-attr, operator]
    found, grads = gradients(engine, batch)
    assert found.keys() == totals.keys() == models.keys()
    for role, total in totals.items():
        assert found[role] == pytest.approx(float(total), rel=1e-9)
        compare(models[role].denoiser.network, grads[role], expected[role])


def compare(network: Any, grads: dict[str, Any], expected: dict[str, Any]) -> None:
    scale, adapted = ADAPTER.alpha / ADAPTER.r, 0
    for name, grad in grads.items():
        place, _, kind = name.partition(".lora_")
        if not kind:
            base = name in base_names(network)
            assert (grad is None) == base, name
            if not base:
                assert torch.allclose(grad, expected[name], atol=1e-12), name
            continue
        layer, dw = network.get_submodule(place), expected[f"{place}.weight"]
        a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
        want = scale * (b.T @ dw if kind.startswith("A") else dw @ a.T).detach()
        assert want.abs().max() > 0, name
        assert torch.allclose(grad, want, atol=1e-12 + 1e-8 * float(want.abs().max())), name
        adapted += 1
    assert adapted == 2 * 2 * 6


def test_a_step_moves_adapters_and_averages_alone(tmp_path: Path) -> None:
    teacher = teacher_of("bert", tmp_path / "teacher")
    method, base, models = networks_on_base(teacher, METHODS["di4c"])
    engine = engine_of(method, models, base)
    average = engine.averages["student"].network
    before = {k: v.clone() for k, v in models["student"].denoiser.state_dict().items()}
    mean = {k: v.clone() for k, v in own_state(average).items()}
    optimiser = torch.optim.AdamW(engine.groups(0.1))
    gradients(engine, batch_of(teacher))
    optimiser.step()
    engine.finish(0, 4)
    after = models["student"].denoiser.state_dict()
    own = own_state(models["student"].denoiser)
    assert own.keys() == mean.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (name not in own), name
    for name, value in own_state(average).items():
        assert torch.allclose(value, mean[name].lerp(own[name], 1 - 0.1)), name
        assert not torch.equal(value, mean[name]), name


@pytest.mark.parametrize("name", ["di4c", "dmmd"])
def test_the_base_is_in_memory_once(name: str, tmp_path: Path) -> None:
    teacher = teacher_of("bert", tmp_path / "teacher")
    method, base, models = networks_on_base(teacher, METHODS[name])
    engine = engine_of(method, models, base)
    everyone = [*engine.trained_networks.values(), *engine.averages.values(), engine.teacher]
    places = {id(p) for network in everyone for p in network.parameters()}  # type: ignore[union-attr]
    own = {
        id(p)
        for network in everyone
        for n, p in network.named_parameters()  # type: ignore[union-attr]
        if n not in base_names(network)  # type: ignore[arg-type]
    }
    assert places - own == {id(p) for p in teacher.denoiser.parameters()}
    weights = {id(p) for m in models.values() for p in base_weights(m.denoiser)}
    assert weights == places - own


def test_heads_of_half_precision_have_one_copy(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf", "dtype": "bfloat16"})
    _, base, models = networks_on_base(teacher, METHODS["dmmd"])
    heads = [m.denoiser.head for m in (base, *models.values())]
    assert len({head.exact()[0].data_ptr() for head in heads if head is not None}) == 1
    assert {p.dtype for p in models["student"].denoiser.parameters() if p.requires_grad} == {
        torch.float32
    }
