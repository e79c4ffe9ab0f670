"""Samples of a module: what they depend on, how they are reported, texts longer than a window."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.programs.text import generation
from di4c_plugin.programs.text.averages import averages
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.student import Plan
from tests.stand_ins.text import stand_in

TOKEN = {"name": "token", "dim": 1, "features": 128}


def sampler(settings: SamplerSettings | None = None, **plan: Any) -> stand_in.Student:
    weights = stand_in.weights(latent=TOKEN)
    return stand_in.student(Plan(settings or SamplerSettings(), None, weights, **plan))


def test_the_same_seed_gives_the_same_samples_and_every_call_others() -> None:
    one, other = sampler(), sampler()
    torch.rand(3)
    first, second = one.draw(8, 3), one.draw(8, 3)
    assert torch.equal(first, other.draw(8, 3))
    assert torch.equal(second, other.draw(8, 3))
    assert not torch.equal(first, second)
    weights = stand_in.weights(latent=TOKEN)
    another = stand_in.student(Plan(SamplerSettings(), None, weights), seed=2)
    assert not torch.equal(another.draw(8, 3), first)
    assert (first != stand_in.MASK).all()
    assert first.shape == (8, stand_in.D)


def test_processes_draw_apart_and_together_what_one_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the host's evaluation has no trainer that numbers them, as SDTT's has none."""
    one = sampler()
    whole = [one.draw(8, 3) for _ in range(4)]
    monkeypatch.setattr(generation, "world_size", lambda: 2)
    for number in range(2):
        monkeypatch.setattr(generation, "rank", lambda number=number: number)
        part = sampler()
        assert all(torch.equal(part.draw(8, 3), x) for x in whole[number::2])


def test_given_tokens_take_no_step() -> None:
    """Two masks open in two steps, one by one, however many tokens are given beside them."""
    module, seen = sampler(SamplerSettings("maskgit", steps=2)), list[Tensor]()
    module.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    known = torch.zeros(1, stand_in.D, dtype=torch.int64), torch.arange(stand_in.D)[None] >= 2
    module.draw(3, 2, known)
    assert [(x == stand_in.MASK).sum(1).tolist() for x in seen] == [[2] * 3, [1] * 3]


def test_dropout_is_off_and_comes_back() -> None:
    training = sampler().train()
    assert torch.equal(training.draw(8, 3), sampler().eval().draw(8, 3))
    assert all(part.training for part in training.modules())


def test_validation_samples_from_the_averages(tmp_path: Path) -> None:
    student = stand_in.student()
    for average in student.ema.shadow_params:
        average.mul_(1.5)
    drawn: list[Tensor] = []
    student._sample = lambda: drawn.append(student.draw(4, 3))  # type: ignore[method-assign]
    stand_in.trainer(tmp_path).validate(student, stand_in.loader(3), verbose=False)
    weights = stand_in.weights(latent=TOKEN)
    weights = replace(weights, tensors=averages(student))
    alone = stand_in.student(Plan(SamplerSettings(), None, weights))
    assert torch.equal(drawn[0], alone.draw(4, 3))
    assert not torch.equal(drawn[0], student.draw(4, 3))


@pytest.mark.parametrize("steps", [1, 2])
def test_what_was_done_is_reported(capsys: pytest.CaptureFixture[str], steps: int) -> None:
    module = sampler(SamplerSettings("di4c", steps=steps))
    x = module.draw(5, 7)
    line = capsys.readouterr().err
    entropies = []
    for row in x.tolist():
        shares = torch.tensor([row.count(token) / len(row) for token in set(row)])
        entropies.append(-(shares * shares.log()).sum())
    entropy = torch.stack(entropies).mean()
    assert re.fullmatch(
        f"di4c: 5 samples of 6 tokens: sampler di4c, {steps} steps, network float32, draws "
        f"float64, entropy {entropy:.3f} nat, [0-9.]+ s\n",
        line,
    )
    assert module.entropies == [pytest.approx(entropy.item(), abs=1e-6)]


def test_prefix_and_known_tokens_are_kept(tmp_path: Path) -> None:
    x = sampler(SamplerSettings(prefix="cafe")).draw(9, 3)
    assert (x[:, :4] == torch.tensor([2, 0, 5, 4])).all()
    (tmp_path / "known.json").write_text("[-1, 3, -1, -1, 1, -1]")
    x = sampler(SamplerSettings(known=str(tmp_path / "known.json"))).draw(9, 3)
    assert (x[:, [1, 4]] == torch.tensor([3, 1])).all()
    assert len(x.unique(dim=0)) > 1


def test_a_user_mistake_while_sampling_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sampler(SamplerSettings(prefix="abcdef")).draw(2, 3)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_hybrid_ends_with_its_teacher_which_is_in_no_checkpoint() -> None:
    teacher = stand_in.weights(seed=4)
    settings = SamplerSettings("hybrid", teacher="x", options={"teacher_steps": 3})
    module = sampler(settings, hybrid=teacher)
    assert {name.split(".")[0] for name in module.state_dict()} == {"backbone"}
    alone = stand_in.student(Plan(SamplerSettings(), None, teacher))
    assert torch.equal(module.draw(8, 3), alone.draw(8, 3))


class Recorder:
    """Calls the module's `draw`, and keeps what it drew."""

    def __init__(self, module: Any) -> None:
        self.draw, self.windows = module.draw, list[Tensor]()

    def __call__(self, count: int, steps: int, known: Any = None) -> Tensor:
        x = self.draw(count, steps, known)
        self.windows.append(x)
        return x


@pytest.mark.parametrize("prefix", [None, "ab"])
def test_strides_keep_the_context(prefix: str | None) -> None:
    module: Any = sampler(SamplerSettings(steps=2, prefix=prefix))
    module.draw = recorder = Recorder(module)
    calls, texts, lengths = module.draw_strides(3, 2, 3, 1000)
    windows = recorder.windows
    assert calls == 4 * 2
    assert len(windows) == 4
    for before, after in pairwise(windows):
        assert torch.equal(after[:, :-2], before[:, 2:])
    whole = torch.cat([windows[0], *(window[:, -2:] for window in windows[1:])], 1)
    assert whole.shape == (3, stand_in.D + 3 * 2)
    assert texts[-1] == module.tokenizer.batch_decode(whole)
    assert [len(part[0]) for part in texts] == [4, 6, 8, 12]
    assert all(text.startswith(prefix or "") for text in texts[-1])
    ends = [row[1:].index(5) if 5 in row[1:] else len(row) - 1 for row in whole.tolist()]
    assert lengths.tolist() == ends


@pytest.mark.parametrize("stride", [-1, 0, stand_in.D, stand_in.D + 1])
def test_windows_without_a_common_token_are_one_line(
    stride: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        sampler().draw_strides(2, stride, 1, 3)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"di4c: error: a stride of {stride} tokens leaves windows of 6 without")
