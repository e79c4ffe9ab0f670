"""Training in the stand-in: what is drawn, what is trained, what is logged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.student import Plan
from di4c_plugin.training.rng import step_generator
from tests.stand_ins.text import stand_in, stand_in_parts

TERMS = ("distil", "consis_corr", "consis_marg", "data_corr", "data_marg")


def fit(folder: Path, *, rank: int = 0, steps: int = 2, seed: int = 1, **options: Any) -> Any:
    """A run; `calls` of the module are the (x_t, t, lambda) that its student saw in training."""

    class Ranked(stand_in.student_class(stand_in.distilling())):  # type: ignore[misc]
        @property
        def global_rank(self) -> int:
            return rank

    module: Any = Ranked(stand_in.config(seed=seed), stand_in_parts.Tokenizer())
    module.calls = []

    hidden = module.student.hidden

    def remember(x_t: Tensor, t: Tensor, *, cond: None, latent: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            module.calls.append((x_t, t, latent))
        return hidden(x_t, t, cond=cond, latent=latent)

    def remember_dropped(layer: Any, args: tuple[Tensor], output: Tensor) -> None:
        if torch.is_grad_enabled():
            module.dropped.append(output == 0)

    module.dropped = []
    module.backbone.blocks[0].mlp[-1].register_forward_hook(remember_dropped)
    module.student.hidden = remember
    module.before = {n: p.detach().clone() for n, p in module.named_parameters()}
    trainer = stand_in.trainer(folder, max_steps=steps, **options)
    validation = stand_in.loader(4, shuffle=False) if "val_check_interval" in options else None
    # One batch, the whole of the data: what differs is drawn.
    trainer.fit(module, stand_in.loader(3), validation)
    return module


def alike(one: Any, other: Any) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(one.calls[0], other.calls[0], strict=True)]


def test_every_process_and_step_draws_its_own_states_times_and_latents(tmp_path: Path) -> None:
    one, other = fit(tmp_path, rank=0), fit(tmp_path, rank=1)
    assert alike(one, other) == [False] * 3
    assert all(not torch.equal(a, b) for a, b in zip(one.calls[0], one.calls[1], strict=True))
    assert not torch.equal(one.dropped[0], one.dropped[1])
    assert not torch.equal(one.dropped[0], other.dropped[0])
    assert alike(one, fit(tmp_path, rank=0)) == [True] * 3
    assert alike(one, fit(tmp_path, rank=0, seed=2)) == [False] * 3


def test_the_backbone_is_trained_and_the_teacher_is_not(tmp_path: Path) -> None:
    module = fit(tmp_path)
    after = dict(module.named_parameters())
    assert {name.split(".")[0] for name in after} == {"backbone"}
    assert all(p.grad is not None for p in after.values())
    changed = {n for n, p in after.items() if not torch.equal(p, module.before[n])}
    assert changed == after.keys()
    teacher: Any = module.engine.teacher
    assert not teacher.training
    want = stand_in.weights().tensors
    assert all(torch.equal(v, want[n]) for n, v in teacher.backbone.state_dict().items())
    assert {name.split(".")[0] for name in module.state_dict()} == {"backbone"}


def test_the_loss_is_the_algorithms_in_nats_per_token(tmp_path: Path) -> None:
    module, totals = stand_in.student(), list[float]()
    # Dropout off: then the second evaluation below is the same function.
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert module.engine is not None
    algorithm = module.engine.algorithm

    def losses(batch: Batch, networks: Networks, update: Update) -> LossTerms:
        same = Update(step_generator(1, 0, len(totals)), len(totals), 2)
        want = type(algorithm).losses(algorithm, batch, networks, same)
        terms = type(algorithm).losses(algorithm, batch, networks, update)
        assert torch.equal(want.total, terms.total)
        assert update.progress == len(totals) / 2
        totals.append(terms.total.item())
        return terms

    algorithm.losses = losses  # type: ignore[method-assign]
    trainer = stand_in.trainer(tmp_path, max_steps=2)
    trainer.fit(module, stand_in.loader(3))
    assert trainer.callback_metrics["trainer/loss"] == pytest.approx(totals[-1] / stand_in.D)


def test_validation_logs_ours_beside_the_hosts(tmp_path: Path) -> None:
    module = fit(tmp_path, val_check_interval=1)
    logged = module.trainer.callback_metrics
    assert {f"di4c/{term}" for term in TERMS} <= logged.keys()
    assert {f"val/di4c/{term}" for term in TERMS} <= logged.keys()
    assert {"val/nll", "val/di4c/sample_entropy", "trainer/loss"} <= logged.keys()
    assert all(value.isfinite() for value in logged.values())


def test_validation_is_repeatable(tmp_path: Path) -> None:
    module, trainer = stand_in.student(), stand_in.trainer(tmp_path)
    loader = stand_in.loader(4, shuffle=False)
    first, second = (trainer.validate(module, loader, verbose=False)[0] for _ in range(2))
    ours = [name for name in first if name.startswith("val/di4c/") and "entropy" not in name]
    assert len(ours) == len(TERMS)
    assert {n: first[n] for n in ours} == {n: second[n] for n in ours}


def test_every_process_starts_from_the_same_student() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(stand_in.student().state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_evaluation_has_the_weights_and_nothing_else() -> None:
    for weights in (stand_in.weights(), stand_in.weights(latent={"name": "token"})):
        plan = Plan(SamplerSettings(), None, weights)
        module = stand_in.student(plan)
        assert module.engine is None
        assert module.ema is None
        assert (module.student.latent_shape is None) == (weights.latent is None)
        own = module.backbone.state_dict()
        assert all(torch.equal(own[name], value) for name, value in weights.tensors.items())


@pytest.mark.parametrize("role", ["weights", "hybrid"])
def test_weights_of_another_kind_are_refused_whatever_they_are_for(role: str) -> None:
    wrong: Any = {role: replace(stand_in.weights(), config={"algo": {"name": "duo_base"}})}
    with pytest.raises(UserError, match="name differs"):
        stand_in.student(replace(stand_in.distilling(), **wrong))


@pytest.mark.parametrize("fault", ["loss", "weights"])
def test_numbers_that_are_not_finite_end_the_run_and_are_not_kept(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = stand_in.student()
    assert module.engine is not None
    algorithm = module.engine.algorithm

    def losses(batch: Batch, networks: Networks, update: Update) -> LossTerms:
        terms = type(algorithm).losses(algorithm, batch, networks, update)
        total = terms.total
        if update.index == 2 and fault == "loss":
            total = total * float("nan")
        elif update.index == 2:
            total.register_hook(lambda gradient: gradient * float("inf"))
        return LossTerms({"student": total}, terms.terms)

    algorithm.losses = losses  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as stop:
        stand_in.trainer(tmp_path).fit(module, stand_in.loader())
    assert stop.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("di4c: error")]
    told = {"loss": "the loss is not finite at update 3;", "weights": "not finite at update 3;"}
    assert told[fault] in line
    assert {file.name for file in tmp_path.glob("*.ckpt")} == {"step=1.ckpt", "step=2.ckpt"}


def test_padded_texts_and_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="data.wrap=false pads sequences"):
        stand_in.student(data={"wrap": False})
    with pytest.raises(UserError, match="'latens'"):
        stand_in.student(stand_in.distilling(latens=3))


def test_too_few_examples_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few: Any = DataLoader(stand_in.Texts(2), batch_size=3, drop_last=True)
    with pytest.raises(SystemExit) as stop:
        stand_in.trainer(tmp_path).fit(stand_in.student(), few)
    assert stop.value.code == 2
    assert "error: a process has fewer training examples" in capsys.readouterr().err


def test_streamed_texts_keep_the_hosts_loader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loader: Any = DataLoader(stand_in.Stream(), batch_size=3)
    trainer = stand_in.trainer(tmp_path, max_steps=4, limit_val_batches=0)
    trainer.fit(stand_in.student(), loader)
    assert trainer.global_step == 4
    assert "the data are streamed: a resumed run begins the stream anew" in capsys.readouterr().err
