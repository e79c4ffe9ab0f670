"""Several runs by one command, with one resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import api, load_student
from di4c_plugin.cli.main import main
from di4c_plugin.cli.phases import run_phases
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.training.compose import compose_config
from di4c_plugin.training.module import TrainingModule
from tests.training import toy

SIZES = {"patch": (4, 4), "hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 2}
PHASES = [
    "phases.di4c=['algo=di4c','latent=mask_noise']",
    "phases.dmmd=['algo=dmmd','algo.steps=2']",
]
SHORT = ["training.steps=4", "training.batch_size=2", "training.checkpoint_every=1"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    BUILTIN().new_teacher({"name": "absorbing"}, **SIZES).save(path)
    return path


def train(teacher: Path, out: Path, *more: str) -> int:
    phases = ["+phases={}", *(f"+{p}" for p in PHASES)]
    common = [f"teacher={teacher}", f"out={out}", *SHORT, "training.logger=none"]
    return main(["train", *phases, *common, "training.accelerator=cpu", *more])


@pytest.mark.parametrize("phase", ["di4c", "dmmd"])
def test_a_stopped_command_goes_on_where_it_was(
    phase: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(teacher, tmp_path / "whole") == 0
    step, done = TrainingModule.optimizer_step, []

    def killed(self: TrainingModule, *arguments: Any, **options: Any) -> None:
        done.append(1)
        if len(done) == (3 if phase == "di4c" else 7):
            raise RuntimeError("power cut")
        step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", killed)
        with pytest.raises(RuntimeError, match="power cut"):
            train(teacher, tmp_path / "broken")
    assert (tmp_path / "broken/dmmd").exists() == (phase == "dmmd")
    taken: list[int] = []

    def counted(self: TrainingModule, *arguments: Any, **options: Any) -> None:
        taken.append(1)
        step(self, *arguments, **options)

    monkeypatch.setattr(TrainingModule, "optimizer_step", counted)
    assert train(teacher, tmp_path / "broken", "resume=true") == 0
    assert len(taken) == (6 if phase == "di4c" else 2)
    for name in ("di4c", "dmmd"):
        one, other = (
            load_student(tmp_path / run / name / "student.safetensors")
            for run in ("whole", "broken")
        )
        assert toy.same(toy.weights(one), toy.weights(other))
    assert one.latent is not None
    assert one.latent["name"] == "mask_noise"
    assert one.sampling == {"steps": 2, "latents": "fresh"}
    assert one.info["start"].endswith("di4c/student.safetensors")


def test_each_phase_starts_from_the_one_before_and_ends_the_command_if_it_fails() -> None:
    seen: list[list[str]] = []
    codes = iter([0, 130])

    def run(overrides: list[str]) -> tuple[int, Path]:
        seen.append(overrides)
        return next(codes), Path("o/a/student.safetensors")

    phases = {"a": ["x=1"], "b": ["x=2"], "c": []}
    typed = ["experiment=e", "out=o", "student=s", "phases.a=[x=1]", "y=3", "resume=true"]
    assert run_phases(phases, typed, Path("o"), run) == 130
    assert seen == [
        ["x=1", "y=3", "resume=true", "student=s", 'out="o/a"'],
        ["x=2", "y=3", "resume=true", 'student="o/a/student.safetensors"', 'out="o/b"'],
    ]


def test_a_phase_names_what_its_teacher_is() -> None:
    seen: list[list[str]] = []

    def run(overrides: list[str]) -> tuple[int, Path]:
        seen.append(overrides)
        return 0, Path(json.loads(overrides[-1].removeprefix("out="))) / "student.safetensors"

    phases = {"a": ["x=1"], "b": ["teacher=@a", "student=null"], "c": ["x=3"], "d": ["student=@a"]}
    assert run_phases(phases, ["out=o", "teacher=t"], Path("o"), run) == 0
    of_a, of_b = ('"o/a/student.safetensors"', '"o/b/student.safetensors"')
    assert seen == [
        ["x=1", "teacher=t", 'out="o/a"'],
        [f"teacher={of_a}", "student=null", 'out="o/b"'],
        ["x=3", "teacher=t", f"student={of_b}", 'out="o/c"'],
        [f"student={of_a}", "teacher=t", 'out="o/d"'],
    ]
    with pytest.raises(UserError, match="^teacher=@b: no phase 'b' is before it; there are a$"):
        run_phases({"a": [], "c": ["teacher=@b"]}, [], Path("o"), run)


def test_rounds_then_a_mixture_then_moments_in_one_command(teacher: Path, tmp_path: Path) -> None:
    """The student of SDTT is the teacher of Di4C, whose student D-MMD goes on from."""
    sdtt = ["algo=sdtt", "algo.teacher_steps=4", "algo.steps=2"]
    phases = {
        "sdtt": sdtt,
        "di4c": ["algo=di4c", "latent=mask_noise", "teacher=@sdtt", "student=null"],
        "dmmd": ["algo=dmmd", "algo.steps=2"],
    }
    typed = [f"+phases.{name}={[*own]}" for name, own in phases.items()]
    common = ["+phases={}", *typed, f"teacher={teacher}", *SHORT, "training.logger=none"]
    common += ["training.accelerator=cpu", f"out={tmp_path}"]
    assert main(["train", *common]) == 0
    first, second, third = (
        load_student(tmp_path / name / "student.safetensors") for name in phases
    )
    assert first.latent is None
    assert first.sampling == {"steps": 2, "latents": "fresh"}
    assert second.info["teacher"].endswith("sdtt/student.safetensors")
    assert (second.latent or {})["name"] == (third.latent or {})["name"] == "mask_noise"
    assert third.info["teacher"] == str(teacher)
    assert third.info["start"].endswith("di4c/student.safetensors")


def test_json_names_the_student_of_each_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "load_teacher", lambda *args, **options: None)
    monkeypatch.setattr(api, "load_student", lambda *args, **options: None)
    monkeypatch.setattr(api, "distill", lambda *args, **options: None)
    phases = ["+phases={}", "+phases.a=['training.adapter={r: 2}']", "+phases.b=[]"]
    report = tmp_path / "report.json"
    assert main(["train", *phases, f"out={tmp_path}", "--json", str(report)]) == 0
    names = ["a/adapter_model.safetensors", "b/student.safetensors"]
    assert json.loads(report.read_text())["files"] == [str(tmp_path / name) for name in names]


def test_mistakes() -> None:
    with pytest.raises(UserError, match="^phases are options for each run by its name"):
        run_phases({"a": "x=1"}, [], Path("o"), lambda overrides: (0, Path()))
    with pytest.raises(UserError, match="^phases run on one process"):
        run_phases({"a": []}, ["training.devices=2"], Path("o"), lambda overrides: (0, Path()))


@pytest.mark.parametrize(
    "name",
    [p.stem for p in (configs_dir() / "experiment").glob("*.yaml") if "\nphases:" in p.read_text()],
)
def test_the_phases_of_an_experiment_are_composed(name: str) -> None:
    phases = compose_config("train", [f"experiment={name}"])["phases"]
    algos = [compose_config("train", own)["algo"]["name"] for own in phases.values()]
    assert algos == list(phases)
