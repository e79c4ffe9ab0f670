"""Di4C as a loss and a training step of tauLDR's own program."""

import copy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.digest import digest_of
from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import latent_shape
from di4c_plugin.programs.tauldr.step import Di4CStep
from di4c_plugin.programs.tauldr.training import (
    let_latents_in,
    make_student,
    register_loss,
    register_train_step,
)
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_maskgit import LAM
from tests.stand_ins.images.small_tauldr import NETS, SIZES, T, X
from tests.stand_ins.images.tauldr_train import BATCH, Writer, started
from tests.stand_ins.images.trainers import GaussianModel


def test_updates_train_the_hosts_model(cfg: Any, root: Root, tmp_path: Path) -> None:
    place, writer = root("tauldr"), Writer()
    model, loss, state = started(cfg, place)
    step = Di4CStep(cfg)
    weights = NETS.read(read_content(cfg.loss.teacher))
    first = float(step.step(state, BATCH, loss, writer))
    assert state["optimizer"].param_groups[0]["lr"] == pytest.approx(5e-4)  # warm-up
    assert {"loss", "di4c/distil", "di4c/consis_corr", "di4c/gradient_norm"} <= writer.keys()
    assert writer["loss"] == pytest.approx(first)
    # It has started from the teacher's averages: one update of at most lr away.
    now = model.net.state_dict()
    moved = [float((now[name] - value).abs().max()) for name, value in weights.tensors.items()]
    assert 0 < max(moved) <= 6e-4
    # The teacher is not of the host's modules, and does not move.
    teacher = loss.engine.teacher
    assert not any(part is teacher.network for part in model.modules())
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(value, weights.tensors[name])
    assert model.num_updates == 1
    assert len(model.shadow_params) == len(list(model.parameters()))
    for update in range(1, 6):
        state["n_iter"] = update
        step.step(state, BATCH.flatten(1), loss, writer)
    assert state["optimizer"].param_groups[0]["lr"] == pytest.approx(1e-3)
    # Its checkpoint is the host's own, and ours to load.
    torch.save({"model": model.state_dict(), "n_iter": 5}, tmp_path / "student.pt")
    weights = NETS.read(read_content(tmp_path / "student.pt"))
    assert weights.latent == {"name": "unet"}
    student = NETS.at(place).restore(weights, SIZES)
    model.eval()
    with torch.no_grad():
        out = model.net(X.view(2, 3, 4, 4), T.float(), latent=LAM)
        found = student.network(X.float().view(2, 3, 4, 4), T.float(), latent=LAM)
    torch.testing.assert_close(found, out)


def test_every_weight_learns_and_the_teacher_has_no_dropout(cfg: Any, root: Root) -> None:
    model, loss, state = started(cfg, root("tauldr"))
    value = loss.calc_loss(BATCH, state, Writer())
    value.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    networks = loss.engine.networks()
    assert model.training
    assert networks["student"].network is model.net
    assert networks.keys() == {"student", "teacher"}
    assert not any(m.training for m in networks["teacher"].modules())


def test_equal_updates_draw_equally_and_others_differently(cfg: Any, root: Root) -> None:
    model, loss, state = started(cfg, root("tauldr"))
    model.net.eval()  # no dropout
    values = []
    for update in (3, 3, 4):
        state["n_iter"] = update
        values.append(float(loss.calc_loss(BATCH, state, Writer()).detach()))
    assert values[0] == values[1] != values[2]


def test_a_run_that_goes_on_keeps_its_weights(cfg: Any, root: Root) -> None:
    model, loss, state = started(cfg, root("tauldr"))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.01)
    model.init_ema()
    model.num_updates, state["n_iter"] = 4, 4
    before = copy.deepcopy(model.net.state_dict())
    loss.calc_loss(BATCH, state, Writer())
    assert all(torch.equal(v, before[k]) for k, v in model.net.state_dict().items())


def test_a_student_may_be_the_teacher(cfg: Any, root: Root, tmp_path: Path) -> None:
    place = root("tauldr")
    model, loss, state = started(cfg, place)
    Di4CStep(cfg).step(state, BATCH, loss, Writer())
    torch.save({"model": model.state_dict()}, tmp_path / "first.pt")
    cfg.loss.teacher = str(tmp_path / "first.pt")
    second, loss, state = started(cfg, place)
    loss.calc_loss(BATCH, state, Writer())
    assert loss.engine.teacher.latent_shape == (1,)
    name = "tlam_mix.weight"
    expected = NETS.read(read_content(cfg.loss.teacher)).tensors[name]
    assert torch.equal(second.net.state_dict()[name], expected)


def test_a_latent_that_the_student_has_not_is_named(
    cfg: Any, root: Root, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = root("tauldr")
    model, _, _ = started(cfg, place)
    torch.save({"model": model.state_dict()}, tmp_path / "first.pt")
    cfg.loss.teacher, cfg.loss.options = str(tmp_path / "first.pt"), {"name": "sdtt"}
    cfg.loss.options |= {"teacher_steps": 4, "steps": 2}
    announce_once.cache_clear()
    for latent in ({"std": 0.1}, None):
        cfg.loss.latent = latent
        _, loss, state = started(cfg, place)
        loss.calc_loss(BATCH, state, Writer())
        told = capfd.readouterr().err
        line = "latent {'name': 'unet'} is not carried over: the student has none\n"
        assert (line in told) == (latent is None)


@pytest.mark.parametrize("name", ["di4c", "sdtt"])
def test_more_rounds_than_updates_are_refused(cfg: Any, root: Root, name: str) -> None:
    cfg.loss.options = {"name": name}
    cfg.loss.rounds = 11
    _, loss, state = started(cfg, root("tauldr"))
    with pytest.raises(UserError, match="^11 rounds take at least 11 updates, not 10$"):
        loss.calc_loss(BATCH, state, Writer())


def test_new_weights_are_of_the_runs_seed(cfg: Any, root: Root) -> None:
    """The host seeds nothing; a run that was killed before its first checkpoint starts anew."""
    cfg.loss.options |= {"encoder": 1, "encoder_hidden": 32}
    found = []
    for seed in (0, 0, 1):
        cfg.loss.seed = seed
        model = GaussianModel(root("tauldr"))
        before = torch.get_rng_state()
        make_student(model, cfg)
        assert torch.equal(torch.get_rng_state(), before)
        state = model.state_dict()
        names = [n for n, v in state.items() if "tlam" in n or "encoder" in n]
        found.append({n: state[n] for n in names if isinstance(state[n], torch.Tensor)})
    assert any("tlam" in n for n in found[0])
    assert any("encoder" in n for n in found[0])
    assert digest_of(found[0]) == digest_of(found[1])
    assert digest_of(found[0]) != digest_of(found[2])


def test_training_goes_on_from_a_student(cfg: Any, root: Root, tmp_path: Path) -> None:
    place = root("tauldr")
    model, loss, state = started(cfg, place)
    Di4CStep(cfg).step(state, BATCH, loss, Writer())
    torch.save({"model": model.state_dict()}, tmp_path / "first.pt")
    cfg.loss.student = str(tmp_path / "first.pt")
    second, loss, state = started(cfg, place)
    loss.calc_loss(BATCH, state, Writer())
    expected = NETS.read(read_content(cfg.loss.student)).tensors
    assert all(torch.equal(second.net.state_dict()[name], v) for name, v in expected.items())
    assert loss.engine.teacher.latent_shape is None
    assert len(second.shadow_params) == len(list(second.parameters()))
    cfg.loss.latent = {"std": 0.1}  # as the file, which says no option
    assert type(loss)(cfg).start is not None
    cfg.loss.latent = {"std": 0.7}
    with pytest.raises(UserError, match="the student to start from has the latent .*'std': 0.7"):
        type(loss)(cfg)
    cfg.loss.student, cfg.loss.latent = cfg.loss.teacher, None
    with pytest.raises(UserError, match="the student to start from has no latent"):
        type(loss)(cfg)


@pytest.mark.parametrize("clip", [True, False])
def test_numbers_that_are_not_finite_end_the_run_before_the_step(
    cfg: Any, root: Root, clip: bool
) -> None:
    cfg.training.clip_grad = clip
    model, loss, state = started(cfg, root("tauldr"))
    Di4CStep(cfg).step(state, BATCH, loss, Writer())
    before, state["n_iter"] = copy.deepcopy(dict(model.named_parameters())), 1
    calculate = loss.calc_loss

    def spoilt(*arguments: Any) -> Any:
        value = calculate(*arguments)
        value.register_hook(lambda gradient: gradient * float("inf"))
        return value

    loss.calc_loss = spoilt
    with pytest.raises(UserError, match="^the gradient is not finite at update 2; a smaller lr"):
        Di4CStep(cfg).step(state, BATCH, loss, Writer())
    assert all(torch.equal(v, before[k]) for k, v in model.named_parameters())
    loss.calc_loss = calculate
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=" is not finite at update [12]; a smaller lr"):
        loss.calc_loss(BATCH, state, Writer())


def test_models_are_made_with_a_latent_where_the_config_asks(cfg: Any, root: Root) -> None:
    place = root("tauldr")
    module: Any = ModuleType("lib.models.model_utils")
    module.create_model = lambda cfg, device, rank: GaussianModel(place)
    let_latents_in(module)
    cfg.loss.latent = {"std": 0.5}
    made = module.create_model(cfg, "cpu")
    assert latent_shape(made.net) == (1,)
    assert len(made.shadow_params) == len(list(made.parameters()))
    cfg.loss.name = "GenericAux"
    assert latent_shape(module.create_model(cfg, "cpu").net) is None
    assert latent_shape(module.create_model(SimpleNamespace(), "cpu").net) is None
    cfg.loss.name, cfg.distributed = "Di4C", True
    with pytest.raises(UserError, match="one process: di4c train host=tauldr runs on several"):
        module.create_model(cfg, "cpu", 0)


def test_mistakes(cfg: Any, root: Root) -> None:
    place = root("tauldr")
    model, loss, state = started(cfg, place)
    with pytest.raises(UserError, match=r"levels of a pixel are 0 ... 16 here, and there are"):
        loss.calc_loss(BATCH + 10, state, Writer())
    with pytest.raises(UserError, match="this model has no latent: start train.py by di4c run"):
        type(loss)(cfg).calc_loss(BATCH, state | {"model": GaussianModel(place)}, Writer())
    cfg.model["rate_sigma"] = 5.0
    with pytest.raises(UserError, match="the teacher has rate_sigma 5.0, and this config 6.0"):
        type(loss)(cfg).calc_loss(BATCH, state, Writer())
    cfg.loss.options = {"latent": 3}
    with pytest.raises(UserError, match="algorithm 'di4c': got an unexpected keyword .*'latent'"):
        type(loss)(cfg)
    cfg.loss.teacher = "nowhere.pt"
    with pytest.raises(UserError, match="no such model file: nowhere.pt"):
        type(loss)(cfg)
    cfg.loss.teacher = None
    with pytest.raises(UserError, match="loss Di4C distils a teacher: cfg.loss.teacher = PATH"):
        type(loss)(cfg)
    cfg.loss.options = {}
    with pytest.raises(UserError, match="has a latent already"):
        make_student(model, cfg)
    bad = SimpleNamespace(calc_loss=lambda *args: torch.tensor(float("nan")))
    with pytest.raises(UserError, match="the loss is not finite at update 1;"):
        Di4CStep(cfg).step(state, BATCH, bad, Writer())


def test_both_are_registered_by_their_name(cfg: Any, root: Root) -> None:
    place = root("tauldr")
    found: dict[int, Any] = {}
    module: Any = ModuleType("utils")
    module.register_loss = module.register_train_step = lambda kind: found.setdefault(
        len(found), kind
    )
    register_loss(module, place)
    register_train_step(module)
    assert [kind.__name__ for kind in found.values()] == ["Di4C", "Di4C"]
    assert found[0](cfg).root == place
    assert found[1](cfg).warmup == 2
