"""The example plugin, installed, does what its files say."""

import importlib
import math
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from di4c_plugin.algorithms.base import Batch, Networks
from di4c_plugin.diffusion import time_grid
from di4c_plugin.files import configs_dir
from di4c_plugin.plugins import GROUP, PluginManager


@pytest.fixture
def manager(example_plugin: str, monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    monkeypatch.syspath_prepend(example_plugin)
    return PluginManager(metadata.entry_points(group=GROUP, name="di4c_example"))


@pytest.fixture
def toy(manager: PluginManager) -> ModuleType:
    return importlib.import_module(manager.lookup("host", "two_bits").__module__)


@pytest.mark.parametrize(("steps", "wrong"), [(1, 0.5), (2, 0.0)])
def test_one_step_of_the_exact_teacher_breaks_the_pair(
    manager: PluginManager, toy: ModuleType, steps: int, wrong: float
) -> None:
    sampler = manager.lookup("sampler", "confidence")
    generator = torch.Generator().manual_seed(0)
    x = toy.PROCESS.prior((4000, 2), generator=generator, device=torch.device("cpu"))
    x = sampler(toy.exact_teacher, x, time_grid(steps), process=toy.PROCESS, generator=generator)
    assert (x[:, 0] != x[:, 1]).double().mean() == pytest.approx(wrong, abs=0.03)


# A student that always says 1/2 pays log 2 for each masked bit whose twin is known; there are
# 2 E[t (1 - t)] = 0.3483 of these, t uniform in [0.05, 1].
@pytest.mark.parametrize(("sharpness", "loss"), [(1.0, 0.0), (0.0, 0.3483 * math.log(2))])
def test_the_marginal_loss_vanishes_only_at_the_teacher(
    manager: PluginManager, toy: ModuleType, sharpness: float, loss: float
) -> None:
    def student(
        x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        return torch.log_softmax(sharpness * toy.exact_teacher(x_t, t, cond=cond), -1)

    x_0 = toy.TwoBits().data().x_0.repeat(16, 1)
    losses = manager.lookup("algorithm", "marginal")(toy.PROCESS).losses(
        Batch(x_0),
        Networks(student=student, teacher=toy.exact_teacher),
        generator=torch.Generator().manual_seed(0),
        progress=0.0,
    )
    assert losses.total.item() == pytest.approx(loss, abs=0.02)


def test_its_host_makes_networks_and_pictures(manager: PluginManager, tmp_path: Path) -> None:
    host = manager.lookup("host", "two_bits")()
    x = host.data().x_0
    teacher = host.new_teacher({"name": "absorbing"}, num_blocks=1)
    log_p_0 = teacher.denoiser(x, torch.ones(len(x), dtype=torch.float64))
    assert log_p_0.shape == (256, 2, 2)
    host.picture(x, tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 0


def test_its_config_is_found(manager: PluginManager) -> None:
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        path = f"hydra.searchpath={manager.config_paths()}"
        config = compose(overrides=[path, "+algo=marginal"])
    assert config.algo.name == "marginal"
