"""A method that trains two networks, on the stand-in host: averages, rates, clipping, resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.settings import Distillation
from di4c_plugin.programs.text.student import Plan
from tests.stand_ins.text import stand_in, stand_in_parts

Snapshot = dict[str, Tensor]


@pytest.fixture
def plan(mutual: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Plan:
    distillation = Distillation({"name": "mutual"}, None, "x")
    monkeypatch.setattr(Distillation, "make", lambda self, process: mutual(process))
    return Plan(SamplerSettings(), distillation, stand_in.weights())


def run(folder: Path, plan: Plan, *, resume: Path | None = None, **options: Any) -> Any:
    """A run that remembers network, average and rates before each update."""

    class Spy(stand_in.student_class(plan)):  # type: ignore[misc]
        def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
            before = copied(self)
            super().optimizer_step(*arguments, **keywords)
            after = copied(self)
            index = self.trainer.global_step  # counted once all of the update is done
            self.moved[index] = {k for k in before if not same(before[k], after[k])}

    module = Spy(stand_in.config(), stand_in_parts.Tokenizer())
    module.moved = {}
    torch.rand(1 if resume is None else 5)
    trainer = stand_in.trainer(folder, max_steps=6, **options)
    trainer.fit(module, stand_in.loader(10), ckpt_path=resume)
    return module


def copied(module: Any) -> dict[str, Snapshot]:
    return {
        "student": {n: p.detach().clone() for n, p in module.backbone.named_parameters()},
        "ema": {str(i): p.clone() for i, p in enumerate(module.ema.shadow_params)},
        "peer": {n: p.detach().clone() for n, p in module.di4c_networks.named_parameters()},
        "peer_average": {n: p.clone() for n, p in module.di4c_averages.named_parameters()},
    }


def same(one: Snapshot, other: Snapshot) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_networks_and_averages_move_in_turn(tmp_path: Path, plan: Plan) -> None:
    module = run(tmp_path, plan)
    student, peer = {"student", "ema"}, {"peer", "peer_average"}
    # The first update has the learning rate 0: the host's warm-up.
    assert module.moved == {0: set(), 1: student, 2: peer, 3: student, 4: student, 5: peer}
    groups = module.trainer.optimizers[0].param_groups
    assert [(g["role"], g["initial_lr"]) for g in groups] == [("student", 1e-2), ("peer", 5e-3)]


def test_a_schedule_that_knows_one_rate_is_put_right(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_cycle(self: Any) -> Any:
        optimizer = torch.optim.AdamW(self._weights(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=7)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    monkeypatch.setattr(stand_in.Host, "configure_optimizers", one_cycle)
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(tmp_path, plan)
    assert len({one for one, _ in seen}) == len(seen) == 6
    for one, other in seen:
        assert other == pytest.approx(one / 2)


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, plan: Plan) -> None:
    whole = run(tmp_path / "whole", plan, gradient_clip_val=0.5)
    files = sorted((tmp_path / "whole").glob("*.ckpt"))[:-1]
    assert files
    for file in files:
        rest = run(tmp_path / "rest", plan, resume=file, gradient_clip_val=0.5)
        for name, snapshot in copied(whole).items():
            assert same(snapshot, copied(rest)[name]), (file.name, name)


def test_each_role_is_clipped_by_itself(tmp_path: Path, plan: Plan) -> None:
    module = run(tmp_path, plan)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    module.configure_gradient_clipping(module.trainer.optimizers[0], 0.5, "norm")
    for part in (module.backbone, module.di4c_networks):
        norm = torch.stack([p.grad.norm() for p in part.parameters()]).norm()
        assert norm.item() == pytest.approx(0.5, rel=1e-4)


def test_a_student_without_a_latent_is_one_all_the_same(tmp_path: Path, plan: Plan) -> None:
    module = run(tmp_path, plan)
    assert module.latent is None
    assert module.student.latent_shape is None
    notes = torch.load(tmp_path / "step=3.ckpt", weights_only=True)["di4c"]
    assert (notes["latent"], notes["role"]) == (None, "student")
