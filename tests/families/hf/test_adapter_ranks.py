"""Two processes train adapters as one does with their draws, and go on bit for bit."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="adapters are by peft")

from di4c_plugin.families.adapted import shared
from di4c_plugin.hosts import host_for
from di4c_plugin.hosts.start import start_networks
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.data import BatchStream
from di4c_plugin.training.recipes import recipe
from tests.families.hf import adapter_ranks
from tests.families.hf.adapter_ranks import CASES, MICRO_STEPS, PER_RANK, RANKS, SEED, UPDATES
from tests.families.hf.adapters import engine_of
from tests.families.hf.snapshots import load_teacher, native
from tests.hosts.test_hf import texts
from tests.stand_ins.ranks import run_ranks
from tests.training import toy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Run the processes once for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    native("bert", folder / "teacher")
    texts(folder)
    run_ranks(adapter_ranks.__name__, RANKS, folder, repository, seconds=900)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_two_processes_is_that_of_one(results: Path, case: str) -> None:
    found = torch.load(results / f"{case}.pt", weights_only=True)["gradients"]
    teacher = load_teacher(results / "teacher")
    host = host_for(teacher, data=str(results / "texts.jsonl"))
    defaults = recipe("hf", CASES[case]["name"])
    method = make_algorithm(defaults.algo_with(CASES[case]), teacher.process)
    latent, base = defaults.latent_with(None), shared(teacher)
    models = start_networks(host, method, base, latent, None, SEED, Adapter(r=3))
    engine, device = engine_of(method, models, base), torch.device("cpu")
    engine.begin(0, UPDATES)
    for rank in range(RANKS):
        stream = BatchStream(host.data(), PER_RANK, seed=SEED, rank=rank, world_size=RANKS)
        for step in range(MICRO_STEPS):
            batch = stream.batch(step)
            losses = engine.losses(batch, 0, UPDATES, rank=rank, step=step, device=device)
            (losses.total / (RANKS * MICRO_STEPS)).backward()
    want = adapter_ranks.gradients(engine)
    learn = {name.split()[0] for name, grad in found.items() if grad.abs().max() > 1e-3}
    assert learn == set(engine.trained(0, UPDATES))
    assert {n for n in found if found[n].any()} == {n for n in want if want[n].any()}
    for name, grad in want.items():
        atol = 1e-4 * float(grad.abs().max())
        assert torch.allclose(found.get(name, torch.zeros(())), grad, rtol=1e-3, atol=atol), name


@pytest.mark.parametrize("case", CASES)
def test_what_died_goes_on_bit_for_bit(results: Path, case: str) -> None:
    found = torch.load(results / f"{case}.pt", weights_only=True)
    assert toy.same(found["resumed"], found["whole"])
    assert any(value.any() for name, value in found["whole"].items() if "lora_B" in name)
