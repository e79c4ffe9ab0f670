"""Methods of several networks, and rounds, as a loss of tauLDR's own program."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.diffusion import build_process
from di4c_plugin.errors import UserError
from di4c_plugin.programs.tauldr.sampler import averaged
from di4c_plugin.programs.tauldr.step import Di4CStep
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_tauldr import NETS, SIZES
from tests.stand_ins.images.tauldr_train import BATCH, Writer, started


def test_a_method_of_two_networks(
    cfg: Any, root: Root, tmp_path: Path, mutual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn, with averages of their own; a run that was broken off goes on exactly."""
    place, path = root("tauldr"), "di4c_plugin.programs.tauldr.training.method_of"
    monkeypatch.setattr(path, lambda cfg, sizes: mutual(build_process(NETS.process(sizes))))

    def parts(model: Any) -> dict[str, list[torch.Tensor]]:
        found = {
            "student": model.net.parameters(),
            "mean": model.shadow_params[: len(list(model.net.parameters()))],
            "peer": model.di4c_networks.parameters(),
            "peer_mean": model.di4c_averages.parameters(),
        }
        return {name: [p.detach().clone() for p in group] for name, group in found.items()}

    def run(state: Any, loss: Any, updates: range) -> list[set[str]]:
        moved, step = [], Di4CStep(cfg)
        for state["n_iter"] in updates:
            loss.engine = loss.engine or loss._engine(state["model"])
            before = parts(state["model"])
            step.step(state, BATCH, loss, Writer())
            after = parts(state["model"])
            moved.append({k for k in before if any(map(differ, before[k], after[k]))})
        return moved

    def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
        return not torch.equal(one, other)

    model, loss, state = started(cfg, place)
    student, peer = {"student", "mean"}, {"peer", "peer_mean"}
    assert run(state, loss, range(4)) == [student, student, peer, student]
    assert all(p.requires_grad for p in model.net.parameters())
    saved = copy.deepcopy({k: v.state_dict() for k, v in state.items() if k != "n_iter"})
    run(state, loss, range(4, 7))
    again, loss, other = started(cfg, place)
    again.load_state_dict(saved["model"])
    other["optimizer"].load_state_dict(saved["optimizer"])
    run(other, loss, range(4, 7))
    for name, group in parts(model).items():
        assert all(map(torch.equal, group, parts(again)[name])), name
    torch.save({"model": model.state_dict()}, tmp_path / "student.pt")
    weights = NETS.read(read_content(tmp_path / "student.pt"))
    assert weights.latent is None
    NETS.at(place).restore(weights, SIZES)
    state["optimizer"].di4c_step = False  # as under the host's own step
    with pytest.raises(UserError, match="this method trains several networks"):
        loss.calc_loss(BATCH, state, Writer())


def test_rounds_make_the_average_the_teacher(cfg: Any, root: Root) -> None:
    cfg.loss.rounds = 2
    model, loss, state = started(cfg, root("tauldr"))
    step = Di4CStep(cfg)
    for state["n_iter"] in range(5):
        step.step(state, BATCH, loss, Writer())
    assert loss.engine.teacher.latent_shape is None
    want = copy.deepcopy(averaged(model))
    state["n_iter"] = 5
    step.step(state, BATCH, loss, Writer())
    teacher = loss.engine.teacher
    assert teacher.latent_shape == (1,)
    assert all(torch.equal(v, want[k]) for k, v in teacher.network.state_dict().items())
