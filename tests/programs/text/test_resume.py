"""A whole run in the stand-in, stopped anywhere and resumed: bit for bit the unbroken one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from di4c_plugin.algorithms.base import LossTerms
from di4c_plugin.programs.text.student import Plan
from tests.stand_ins.text import stand_in, stand_in_parts

# Where the folder is another one, and what Lightning thinks of resuming in an epoch.
pytestmark = pytest.mark.filterwarnings("ignore:.*(irpath|heckpoint directory)")
STEPS = 6


@dataclass
class Run:
    """What a run did: batches and losses by micro-step, and where it ended."""

    x_0: dict[int, Tensor] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    validations: dict[int, int] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    averages: list[Tensor] = field(default_factory=list)
    teacher: dict[str, Tensor] = field(default_factory=dict)


def run(
    folder: Path,
    plan: Plan,
    *,
    resume: Path | None = None,
    examples: int = 10,
    batch: int = 3,
    **options: Any,
) -> Run:
    done = Run()

    class Spy(stand_in.student_class(plan)):  # type: ignore[misc]
        def losses(self, x_0: Tensor, generator: torch.Generator) -> LossTerms:
            step = self.state.micro_step
            done.validations[step] = done.validations.get(step, 0) + 1
            return super().losses(x_0, generator)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            step = self.state.micro_step
            loss: Tensor = super().training_step(batch, batch_idx)
            done.x_0[step], done.losses[step] = batch["input_ids"], loss.item() * stand_in.D
            done.rounds[step] = self.state.round
            return loss

    module = Spy(stand_in.config(), stand_in_parts.Tokenizer())
    # More moves of the global generator than the run itself makes.
    torch.rand(1 if resume is None else 7)
    trainer = stand_in.trainer(folder, **{"max_steps": STEPS} | options)
    loader: Any = DataLoader(stand_in.Texts(examples), batch_size=batch, shuffle=True)
    trainer.fit(module, loader, stand_in.loader(4, shuffle=False), ckpt_path=resume)
    done.weights = module.state_dict()
    done.averages = module.ema.shadow_params
    done.teacher = module.engine.teacher.backbone.state_dict()
    return done


def same(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
    )


VALIDATING = {"val_check_interval": 2, "check_val_every_n_epoch": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        (VALIDATING, 1),
        ({}, 2),
        ({"accumulate_grad_batches": 2}, 2),
        ({"limit_train_batches": 2}, 1),
        ({"saving": {"save_on_train_epoch_end": True}}, 1),
        ({"saving": {"monitor": "val/nll", "save_on_train_epoch_end": False}} | VALIDATING, 1),
    ],
    ids=["validating", "rounds", "accumulating", "part-epochs", "after-epochs", "after-validation"],
)
def test_a_resumed_run_is_the_unbroken_one(
    tmp_path: Path, options: dict[str, Any], rounds: int
) -> None:
    plan = stand_in.distilling(rounds=rounds)
    whole = run(tmp_path / "whole", plan, **options)
    assert len(set(whole.losses.values())) == len(whole.losses) >= STEPS
    assert set(whole.rounds.values()) == set(range(rounds))
    files = sorted((tmp_path / "whole").glob("*.ckpt"))[:-1]
    assert files
    for file in files:
        rest = run(tmp_path / "rest", plan, resume=file, **options)
        first = min(rest.losses)
        assert first > 0
        assert rest.losses == {k: v for k, v in whole.losses.items() if k >= first}, file.name
        assert same(rest.x_0, {k: v for k, v in whole.x_0.items() if k >= first})
        assert rest.rounds == {k: v for k, v in whole.rounds.items() if k >= first}
        later = {k: v for k, v in whole.validations.items() if k > first}
        assert {k: v for k, v in rest.validations.items() if k > first} == later
        assert same(rest.weights, whole.weights)
        assert all(map(torch.equal, rest.averages, whole.averages))
        assert same(rest.teacher, whole.teacher)


@pytest.mark.parametrize("ends", [(1, 2, 3, 4, 5), (4, 5), (4,), (3, 4)])
def test_a_run_that_ends_again_and_again_is_the_unbroken_one(
    tmp_path: Path, ends: tuple[int, ...]
) -> None:
    """Also between two epochs, after the fourth update."""
    plan, whole = stand_in.distilling(), run(tmp_path / "whole", stand_in.distilling())
    x_0, losses, resume = dict[int, Tensor](), dict[int, float](), None
    for steps in (*ends, STEPS):
        part = run(tmp_path / "parts", plan, resume=resume, max_steps=steps)
        x_0, losses = x_0 | part.x_0, losses | part.losses
        resume = tmp_path / "parts" / f"step={steps}.ckpt"
    assert losses == whole.losses
    assert same(x_0, whole.x_0)
    assert same(part.weights, whole.weights)


def test_the_second_rounds_teacher_is_the_students_average(tmp_path: Path) -> None:
    whole = run(tmp_path, stand_in.distilling(rounds=2))
    file = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    average = dict(zip(file["di4c"]["ema_names"], file["ema"]["shadow_params"], strict=True))
    assert same({k: whole.teacher[k] for k in average}, average)
    assert not same({k: whole.weights[f"backbone.{k}"] for k in average}, average)


def test_epochs_have_every_example_once_each_in_its_order(tmp_path: Path) -> None:
    seen = run(tmp_path, stand_in.distilling(), max_steps=8).x_0
    first, second = (torch.cat([seen[k] for k in batches]) for batches in (range(4), range(4, 8)))
    assert len(first) == len(second) == 10
    assert len(first.unique(dim=0)) == len(second.unique(dim=0)) == 10
    assert not torch.equal(first, second)


def test_validation_comes_where_the_host_asks_for_it(tmp_path: Path) -> None:
    """After the last batch of the host's epoch, which is not full."""
    options: dict[str, Any] = {"val_check_interval": 4, "check_val_every_n_epoch": None}
    whole = run(tmp_path, stand_in.distilling(), max_steps=9, **options)
    assert sorted(whole.validations) == [4, 8]


def test_a_run_with_other_batches_goes_on_at_the_next_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 24 examples: 4 batches of 3 are trained on, then batches of 2 and of 5."""
    plan, texts = stand_in.distilling(), stand_in.Texts(24).x
    first = run(tmp_path / "first", plan, examples=24, max_steps=4)
    for size, batches in ((2, 6), (5, 3)):
        capsys.readouterr()
        resume = tmp_path / "first" / "step=4.ckpt"
        steps = {"max_steps": 4 + batches + 2}
        rest = run(tmp_path / "rest", plan, resume=resume, examples=24, batch=size, **steps)
        assert f"di4c: warning: a batch had 3 examples, and has {size} now" in (
            capsys.readouterr().err
        )
        epoch = [rest.x_0[4 + i] for i in range(batches)]
        seen = torch.cat([*(first.x_0[i] for i in range(4)), *epoch])
        assert sorted(seen.tolist()) == sorted(texts.tolist())
        assert len(rest.x_0[4]) == len(rest.x_0[4 + batches]) == size
