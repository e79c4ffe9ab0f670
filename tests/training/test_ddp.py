"""Two processes through the real command line, against the same draws in this one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.hosts.start import start_networks
from di4c_plugin.training import shards
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.checkpoint_file import read_checkpoint
from di4c_plugin.training.data import BatchStream
from di4c_plugin.training.recipes import recipe
from di4c_plugin.training.rng import step_generator
from tests.conftest import Run
from tests.training import toy

SIZES = {"patch": (4, 4), "hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 2}
DI4C = {"name": "di4c"}
PER_RANK, MICRO_STEPS, RANKS = 3, 2, 2


def losses_of(
    rank: int, step: int, batch: Batch, networks: Networks, algo: dict[str, Any] = DI4C
) -> LossTerms:
    options = recipe("builtin", algo["name"]).algo_with(algo)
    algorithm = make_algorithm(options, toy_process())
    generator = step_generator(0, rank, step)
    return algorithm.losses(batch, networks, Update(generator))


def toy_process() -> Any:
    return BUILTIN().new_teacher({"name": "absorbing"}, **SIZES).process


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small untrained teacher of the digits."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    BUILTIN().new_teacher({"name": "absorbing"}, **SIZES).save(path)
    return path


def networks(teacher: Path, latent: dict[str, Any], algo: dict[str, Any] = DI4C) -> Networks:
    """The networks as `di4c train` makes them."""
    host = BUILTIN()
    model = host.load_teacher(str(teacher))
    method = make_algorithm(algo, model.process)
    made = start_networks(host, method, model, latent, None, 0)
    trained = {name: start.denoiser.train() for name, start in made.items()}
    return trained | {"teacher": model.denoiser.requires_grad_(False)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent", "algo", "strategy"),
    [
        ("adaln", DI4C, "ddp"),
        ("token", DI4C, "ddp"),
        ("mask_noise", {"name": "di4c", "encoder": 1, "encoder_hidden": 32}, "ddp"),
        ("mask_noise", {"name": "dmmd", "together": True}, "ddp"),
        ("mask_noise", {"name": "sdtt", "teacher_steps": 8, "steps": 4}, "ddp"),
        ("token", DI4C, "fsdp"),
        ("mask_noise", {"name": "dmmd", "together": True}, "fsdp"),
        ("mask_noise", {"name": "di4c", "encoder": 1, "encoder_hidden": 32}, "fsdp"),
    ],
)
def test_the_gradient_of_two_processes_is_that_of_one_with_their_draws(
    di4c: Run, teacher: Path, tmp_path: Path, latent: str, algo: dict[str, Any], strategy: str
) -> None:
    roles = list(make_algorithm(algo, toy_process()).roles)
    options = ["steps=1", f"batch_size={PER_RANK}", f"accumulate={MICRO_STEPS}", "clip=0"]
    options += [f"devices={RANKS}", "accelerator=cpu", f"strategy={strategy}", "log_every=1"]
    result = di4c(
        "train",
        f"teacher={teacher}",
        f"latent={latent}",
        *(f"algo={v}" if k == "name" else f"algo.{k}={json.dumps(v)}" for k, v in algo.items()),
        f"out={tmp_path}",
        *(f"training.{option}" for option in options),
        OMP_NUM_THREADS="1",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'student.safetensors'}\n"

    state = checkpoint(tmp_path)
    moments = state["optimizer_states"][0]["state"]
    # After one update AdamW's first moment is (1 - beta_1) times the gradient.
    rate = 1 - state["optimizer_states"][0]["param_groups"][0]["betas"][0]
    found = [moments[index]["exp_avg"] / rate for index in range(len(moments))]
    # The configs of latents have no option but their defaults.
    made = networks(teacher, {"name": latent}, algo)
    total = mean_loss(made, algo)
    total.backward()
    value = total.item()
    expected = [p.grad for role in roles for p in made[role].parameters()]  # type: ignore[attr-defined]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6 * value)
    assert float(toy.rows(tmp_path)[1]["loss"]) == pytest.approx(value, rel=1e-4)


@pytest.mark.slow
def test_two_killed_processes_go_on_bit_for_bit(di4c: Run, teacher: Path, tmp_path: Path) -> None:
    options = ["steps=40", "batch_size=3", "checkpoint_every=2", "logger=none"]
    options += [f"devices={RANKS}", "accelerator=cpu"]
    command = ["train", f"teacher={teacher}", "latent=mask_noise", "algo=dmmd"]
    command += [f"training.{option}" for option in options]
    for name in ("whole", "broken"):
        out = [*command, f"out={tmp_path / name}"]
        if name == "broken":
            kill_at_the_first_checkpoint(out, tmp_path / name / "last.ckpt")
            assert not (tmp_path / name / "student.safetensors").exists()
            out.append("resume=true")
        result = di4c(*out, OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stderr
    whole, broken = (checkpoint(tmp_path / name) for name in ("whole", "broken"))
    assert whole["global_step"] == broken["global_step"]
    state, other = (
        {key: x for key, x in saved["state_dict"].items() if isinstance(x, Tensor)}
        for saved in (whole, broken)
    )
    assert toy.same(state, other)  # student, auxiliary and averages
    student, other = (load_file(tmp_path / n / "student.safetensors") for n in ("whole", "broken"))
    assert toy.same(student, other)


def kill_at_the_first_checkpoint(command: list[str], file: Path) -> None:
    """Start the run with its two processes, and kill both without warning."""
    program = [sys.executable, "-m", "di4c_plugin", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        program, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not file.exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert file.exists()


def checkpoint(folder: Path) -> Any:
    """What last.ckpt holds, shards as whole tensors."""
    state = read_checkpoint(folder / "last.ckpt")
    if shards.KEY not in state:
        return state
    place = shards.folder_of(state[shards.KEY], folder)
    return shards.joined(state, place, lambda shape, dtype: torch.empty(shape, dtype=dtype))


def mean_loss(made: Networks, algo: dict[str, Any]) -> Tensor:
    """The mean over all ranks and micro-steps."""
    data = BUILTIN().data()
    totals = []
    for rank in range(RANKS):
        stream = BatchStream(data, PER_RANK, seed=0, rank=rank, world_size=RANKS)
        for step in range(MICRO_STEPS):
            batch = Batch(stream.batch(step).x_0)
            totals.append(losses_of(rank, step, batch, made, algo).total)
    return torch.stack(totals).mean()


def test_ranks_and_steps_draw_differently(teacher: Path) -> None:
    made = networks(teacher, {"name": "adaln"})
    batch = Batch(BUILTIN().data().x_0[:PER_RANK])
    with torch.no_grad():
        totals = {
            float(losses_of(rank, step, batch, made).total) for rank in (0, 1) for step in (0, 1)
        }
    assert len(totals) == 4
