"""Two processes with sharded networks, against one process with the draws of both."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.families.maskgit import MaskGITNetworks
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.run import train
from tests.stand_ins.images.checkouts import empty_checkout, stand_in
from tests.stand_ins.ranks import run_ranks
from tests.training import sharded_ranks, toy
from tests.training.sharded_ranks import CASES, EXACT, RANKS, made, run

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Run the processes once for all tests."""
    from tests.families.hf.snapshots import foreign, native

    folder = tmp_path_factory.mktemp("ranks")
    for kind in ("bert", "modernbert"):
        native(kind, folder / kind)
    for kind in ("lladalike", "dreamlike"):
        (folder / kind).mkdir()
        foreign(kind, folder / kind)
    empty_checkout(folder / "halton_maskgit")
    stand_in(folder / "halton_maskgit", "halton_maskgit")
    os.environ["DI4C_TEST_SNAPSHOTS"] = str(folder)
    run_ranks(sharded_ranks.__name__, RANKS, folder, repository, seconds=900)
    return folder


@pytest.mark.parametrize("case", [*CASES, "mixed"])
def test_sharded_updates_are_those_of_one_process(results: Path, case: str) -> None:
    found = torch.load(results / f"{case}.pt", weights_only=True)
    assert isinstance(found, dict), found
    precision = "bf16-mixed" if case == "mixed" else "32-true"
    name = "dit di4c" if case == "mixed" else case
    want = run(made(name, sharded=False, precision=precision), range(RANKS))
    assert found.keys() == want.keys()
    near = 0.1 if case == "mixed" or case.startswith("bf16") else 2e-5
    for key, value in want.items():
        if key.startswith("gradient 0"):
            assert value.any(), key
        scale = float(value.abs().max()) or 1.0
        error = float((found[key].float() - value.float()).abs().max()) / scale
        assert error < near, (key, error)


@pytest.mark.parametrize(("case", "precision"), EXACT)
def test_no_head_in_bf16_reaches_the_log_sum(results: Path, case: str, precision: str) -> None:
    found = torch.load(results / f"exact {precision}.pt", weights_only=True)
    assert isinstance(found, dict), found
    formed, by_hidden, coarse = found["errors"].tolist()
    assert max(formed, by_hidden) < 1e-5
    assert coarse > 1e-3


def test_the_fp32_head_follows_weights_in_bf16(results: Path) -> None:
    """Gathered anew they lie where they were, and count as unchanged."""
    found = torch.load(results / "head anew.pt", weights_only=True)
    assert isinstance(found, dict), found
    assert torch.equal(found["after"], found["weights"])
    assert torch.equal(found["before"] * 2, found["after"])


def test_networks_without_known_blocks_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    teacher = replace(toy.teacher(), family=MaskGITNetworks())
    student = toy.student()
    config = TrainingConfig(strategy="fsdp")
    out = tmp_path / "run"
    with pytest.raises(UserError, match="by their blocks, and MaskGIT-pytorch v1 has none") as told:
        train(toy.Distil(student.process), student, teacher, toy.data(), config, out)
    assert "\n" not in str(told.value)
    assert not out.exists()


def test_a_head_that_was_sharded_again_has_the_mean_gradient(results: Path) -> None:
    """Gathered without a word about gradients, it has another: this test would see it."""
    right, bare = (
        torch.load(results / f"{n}.pt", weights_only=True)["weight"] for n in ("head", "bare head")
    )
    # Each of 2 x 5 positions has ones on one process and twos on the other.
    assert torch.equal(right, torch.full_like(right, 15.0))
    assert not torch.equal(bare, right)
