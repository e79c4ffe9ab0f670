"""A run inside a host has the tokenizer of its teacher, of what it evaluates and resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.announce import announce_once
from di4c_plugin.api import load_student
from di4c_plugin.checkpoints.vocabulary import Tokenizer, vocabulary_in
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.student import Plan
from tests.stand_ins.text import stand_in, stand_in_parts

IDS = {letter: i for i, letter in enumerate("abcdef")}
OTHER = {letter: i for i, letter in enumerate("abcdfe")}
PROCESS = {"num_tokens": 7, "mask": 6}
BOTH = r"has the tokenizer theirs \(6 tokens, sha256 .*\), this .* has .*\(6 tokens, sha256 .*\): "


class Speaking(stand_in_parts.Tokenizer):
    """One that says its tokens, a padding token under the mask's id among them."""

    name_or_path = "/somewhere/mine"
    ids = IDS

    def get_vocab(self) -> dict[str, int]:
        return self.ids | {"[PAD]": 6}


class Other(Speaking):
    ids = OTHER


def student(plan: Plan, tokenizer: Any = None) -> stand_in.Student:
    return stand_in.student_class(plan)(stand_in.config(), tokenizer or Speaking())


def weights(ids: dict[str, int] | None, origin: str = "teacher.ckpt") -> Any:
    return stand_in.weights(
        origin=origin, tokenizer=None if ids is None else Tokenizer("theirs", ids)
    )


PLANS: dict[str, Callable[[Any], Plan]] = {
    "teacher": lambda given: stand_in.distilling(teacher=given),
    "evaluation": lambda given: Plan(SamplerSettings(), None, given),
    "hybrid": lambda given: Plan(
        SamplerSettings("hybrid", teacher="x", options={"teacher_steps": 1}),
        None,
        weights(IDS),
        given,
    ),
}


@pytest.mark.parametrize("place", PLANS)
def test_weights_of_other_tokens_are_refused(place: str) -> None:
    student(PLANS[place](weights(IDS)))
    with pytest.raises(UserError, match=f"^file.ckpt {BOTH}[^\n]*$"):
        student(PLANS[place](weights(OTHER, "file.ckpt")))


@pytest.mark.parametrize("place", PLANS)
def test_weights_that_say_no_tokens_are_taken_and_it_is_said(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    given = weights(None, "old.ckpt")
    student(PLANS[place](given), stand_in_parts.Tokenizer())  # nothing to compare with
    assert capsys.readouterr().err == ""
    student(PLANS[place](given))
    line = capsys.readouterr().err
    assert line.startswith("di4c: old.ckpt does not say which tokens it knows: taken for those of ")
    assert line.count("\n") == 1
    assert "/somewhere" not in line
    assert "mine (6 tokens, sha256 " in line


@pytest.mark.parametrize(("name", "lines"), [("mine", 0), ("gpt2", 1)])
def test_a_name_alone_is_told_where_it_is_another(
    name: str, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    student(stand_in.distilling(teacher=stand_in.weights(tokenizer=Tokenizer(name))))
    said = capsys.readouterr().err
    assert said.count("does not say which tokens its tokenizer gpt2 has: taken for") == lines
    assert said.count("\n") == lines


def fit(folder: Path, tokenizer: Any, resume: Path | None = None) -> Path:
    module = student(stand_in.distilling(), tokenizer)
    trainer = stand_in.trainer(folder, max_steps=2, limit_val_batches=0)
    trainer.fit(module, stand_in.loader(), ckpt_path=resume)
    return folder / "step=2.ckpt"


def test_checkpoints_say_their_tokens_and_resume_with_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fit(tmp_path / "run", Speaking())
    wanted = Tokenizer("mine", IDS).vocabulary(PROCESS)
    assert vocabulary_in(load_student(path).info, "") == wanted
    fit(tmp_path / "same", Speaking(), path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path / "other", Other(), path)
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if line.startswith("di4c: error: ")]
    assert line.startswith(f"di4c: error: the run to resume has the tokenizer {wanted}, this one ")
    older = fit(tmp_path / "old", stand_in_parts.Tokenizer())
    fit(tmp_path / "goes_on", Speaking(), older)
