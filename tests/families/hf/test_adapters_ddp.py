"""Two processes train adapters as one does with their draws."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("peft", reason="adapters are by peft")

from di4c_plugin.families.adapted import shared
from di4c_plugin.hosts import host_for
from di4c_plugin.hosts.start import start_networks
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.training import make_algorithm
from di4c_plugin.training.data import BatchStream
from tests.conftest import Run
from tests.families.hf.adapters import engine_of
from tests.families.hf.snapshots import load_teacher, native
from tests.hosts.test_hf import texts

RANKS, PER_RANK, MICRO_STEPS = 2, 2, 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo", [{"name": "di4c", "latents": 2}, {"name": "dmmd", "together": True}]
)
def test_the_gradient_of_two_processes_is_that_of_one(
    algo: dict[str, Any], di4c: Run, tmp_path: Path
) -> None:
    folder, out = tmp_path / "teacher", tmp_path / "out"
    folder.mkdir()
    native("bert", folder)
    data = texts(tmp_path)
    options = ["steps=1", f"batch_size={PER_RANK}", f"accumulate={MICRO_STEPS}", "clip=0"]
    options += [f"devices={RANKS}", "accelerator=cpu", "strategy=ddp", "seed=5", "adapter={r: 3}"]
    result = di4c(
        *("train", "host=hf", f"teacher={folder}", f"host.data={data}", f"out={out}"),
        *(f"algo={v}" if k == "name" else f"algo.{k}={json.dumps(v)}" for k, v in algo.items()),
        *(f"training.{option}" for option in options),
        OMP_NUM_THREADS="1",
    )
    assert result.returncode == 0, result.stderr
    state = torch.load(out / "last.ckpt", weights_only=True)["optimizer_states"][0]
    found = {
        index: state["state"][index]["exp_avg"] / (1 - group["betas"][0])
        for group in state["param_groups"]
        for index in group["params"]
    }
    teacher = load_teacher(folder)
    host = host_for(teacher, data=data)
    method, base = make_algorithm(algo, teacher.process), shared(teacher)
    models = start_networks(host, method, base, None, None, 5, Adapter(r=3))
    engine = engine_of(method, models, base)
    groups = engine.groups(1.0)
    for rank in range(RANKS):
        stream = BatchStream(host.data(), PER_RANK, seed=5, rank=rank, world_size=RANKS)
        for step in range(MICRO_STEPS):
            engine.begin(0, 1)
            device = torch.device("cpu")
            total = engine.losses(stream.batch(step), 0, 1, rank=rank, step=step, device=device)
            (total.total / (RANKS * MICRO_STEPS)).backward()
    expected = [p.grad for group in groups for p in group["params"]]
    assert len(expected) == len(found)
    scale = max(float(grad.abs().max()) for grad in expected)
    assert scale > 0
    for index, grad in enumerate(expected):
        assert torch.allclose(found[index], grad, rtol=1e-3, atol=1e-5 * scale), index
