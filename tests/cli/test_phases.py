"""Several runs by one command, with one resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import api, load_student
from di4c_plugin.cli import train as command
from di4c_plugin.cli.main import main
from di4c_plugin.cli.phases import compose_phases
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.training.compose import RunConfig, compose_config
from di4c_plugin.training.config import TrainingConfig
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


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["di4c", "dmmd"])
def test_a_stopped_command_goes_on_even_if_its_folder_was_moved(
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
    (tmp_path / "broken").rename(tmp_path / "moved")
    taken: list[int] = []

    def counted(self: TrainingModule, *arguments: Any, **options: Any) -> None:
        taken.append(1)
        step(self, *arguments, **options)

    monkeypatch.setattr(TrainingModule, "optimizer_step", counted)
    assert train(teacher, tmp_path / "moved", "resume=true") == 0
    assert len(taken) == (6 if phase == "di4c" else 2)
    for name in ("di4c", "dmmd"):
        one, other = (
            load_student(tmp_path / run / name / "student.safetensors")
            for run in ("whole", "moved")
        )
        assert toy.same(toy.weights(one), toy.weights(other))
    assert one.latent is not None
    assert one.latent["name"] == "mask_noise"
    assert one.sampling == {"steps": 2, "latents": "fresh"}
    assert one.info["start"].endswith("di4c/student.safetensors")


class Composed:
    """Stands in for what composes a run: keeps the overrides it is given."""

    def __init__(self, **training: Any) -> None:
        self.seen: list[list[str]] = []
        self.training = TrainingConfig(**training)

    def __call__(self, overrides: list[str]) -> RunConfig:
        self.seen.append(overrides)
        out = Path(overrides[-1].partition("=")[2].strip('"'))
        return RunConfig(self.training, out, False, False, {"phases": None})


def test_each_phase_starts_from_the_one_before() -> None:
    compose = Composed()
    phases = {"a": ["x=1"], "b": ["x=2"]}
    typed = ["experiment=e", "out=o", "student=s", "phases.a=[x=1]", "y=3", "resume=true"]
    compose_phases(phases, typed, Path("o"), compose)
    assert compose.seen == [
        ["x=1", "y=3", "resume=true", "student=s", 'out="o/a"'],
        ["x=2", "y=3", "resume=true", 'student="o/a/student.safetensors"', 'out="o/b"'],
    ]


def test_after_an_adapter_comes_its_file() -> None:
    compose = Composed(adapter={"r": 2})
    compose_phases({"a": [], "b": ["++teacher=@a"]}, ["out=o"], Path("o"), compose)
    assert compose.seen[1][0] == '++teacher="o/a/adapter_model.safetensors"'


def test_a_phase_that_fails_ends_the_command(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def run(config: RunConfig) -> int:
        begun.append(config.out.name)
        return 130

    monkeypatch.setattr(command, "run_one", run)
    assert train(teacher, tmp_path / "out") == 130
    assert begun == ["di4c"]


def test_a_phase_names_what_its_teacher_is() -> None:
    compose = Composed()
    phases = {"a": ["x=1"], "b": ["teacher=@a", "student=null"], "c": ["x=3"], "d": ["student=@a"]}
    compose_phases(phases, ["out=o", "teacher=t"], Path("o"), compose)
    of_a, of_b = ('"o/a/student.safetensors"', '"o/b/student.safetensors"')
    assert compose.seen == [
        ["x=1", "teacher=t", 'out="o/a"'],
        [f"teacher={of_a}", "student=null", 'out="o/b"'],
        ["x=3", "teacher=t", f"student={of_b}", 'out="o/c"'],
        [f"student={of_a}", "teacher=t", 'out="o/d"'],
    ]
    with pytest.raises(UserError, match="^teacher=@b: no phase 'b' is before it; there are a$"):
        compose_phases({"a": [], "c": ["teacher=@b"]}, [], Path("o"), compose)


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


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("{}", "phases are options for each run by its name"),
        ("[a]", "phases are options for each run by its name"),
        ("{a:[algo=di4c]}", "phases are options for each run by its name"),
        ("{a/b:['algo=di4c']}", "the name of a phase is that of a folder in"),
        ("{../up:['algo=di4c']}", "the name of a phase is that of a folder in"),
        ("{1:['algo=di4c']}", "the name of a phase is that of a folder in"),
        ("{true:['algo=di4c']}", "the name of a phase is that of a folder in"),
        ("{a:['algo=di4c'],b:['experiment=digits_dmmd']}", "phase b has phases itself"),
        ("{a:['algo=di4c'],b:['+phases.c=[x]']}", "phase b has phases itself"),
        ("{a:['algo=di4c'],b:['out=other']}", "phase b: its folder is"),
        ("{a:['algo=di4c'],b:['training.devices=2']}", "phases run on one process"),
        ("{a:['algo=di4c'],b:['teacher=@c']}", "teacher=@c: no phase 'c' is before it"),
        ("{a:['algo=di4c'],b:['++teacher=@c']}", "++teacher=@c: no phase 'c' is before it"),
        ("{a:['algo=di4c'],b:['student=x.ckpt']}", "no such model file: student=x.ckpt"),
        ("{a:['algo=di4c'],b:['student=./x']}", "no such model file: student=./x"),
        ("{a:['algo=di4c'],b:['algo=dmmd','algo.latents=2']}", "unknown option 'algo.latents'"),
        (
            "{a:['algo=di4c'],b:['host=mdlm']}",
            "phase b has host=mdlm, but its student is of phase a with host=builtin",
        ),
        (
            "{a:['algo=di4c'],b:['host=mdlm','teacher=@a','student=null']}",
            "phase b has host=mdlm, but its teacher is of phase a with host=builtin",
        ),
        (
            "{a:['latent=token'],b:['algo=dmmd','latent=token','latent.dim=3']}",
            "phase b goes on from a: the student to start from has the latent {'name': 'token'",
        ),
        (  # the host's latent
            "{a:['algo=di4c'],b:['algo=dmmd','latent=token','latent.dim=3']}",
            "phase b goes on from a: the student to start from has the latent {'name': 'adaln'}, "
            "not {'name': 'token', ",
        ),
        (  # the recipe's latent
            "{a:['algo=dmmd'],b:['latent=token'],c:['algo=sdtt']}",
            "phase b goes on from a: the student to start from has the latent "
            "{'name': 'mask_noise', 'dim': 16, 'std': 0.5}, not {'name': 'token', ",
        ),
        (
            "{a:['algo=sdtt'],b:['algo=dmmd','latent=token']}",
            "phase b goes on from a: the student to start from has the latent None, not {'name'",
        ),
        (
            "{a:['algo=sdtt'],b:['algo=di4c']}",
            "phase b goes on from a: the student to start from has no latent, and this method n",
        ),
        (
            "{a:['algo=di4c'],b:['algo=dmmd','algo.input_noise=false']}",
            "phase b goes on from a: the student to start from has a latent, and this method's h",
        ),
        (  # what is carried on through several phases
            "{a:['algo=sdtt'],b:['algo=sdtt'],c:['algo=di4c']}",
            "phase c goes on from b: the student to start from has no latent",
        ),
        (
            "{a:['algo=di4c'],b:['algo=denoising']}",
            "phase b goes on from a: algorithm 'denoising' trains teachers: use di4c train-teacher",
        ),
        ("{a:['algo=denoising']}", "phase a: algorithm 'denoising' trains teachers"),
        (
            "{a:[],b:['algo=dmmd','algo.input_noise=false','latent=token','student=null']}",
            "phase b: algorithm 'dmmd' makes no mixture: leave out the latent",
        ),
        (
            "{a:['algo=di4c'],b:['algo=dmmd','algo.steps=0']}",
            "phase b goes on from a: algorithm 'd",
        ),
        (
            "{a:['algo=di4c','student=null'],b:['algo=dmmd','algo.target=soft','algo.weight=elbo'],"
            "c:['algo=sdtt','algo.trajectory=data']}",
            "phase c goes on from b: trajectory=data is for uniform-state diffusion",
        ),
    ],
)
def test_mistakes_are_told_before_the_first_phase_begins(
    phases: str, message: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "in" / "out"
    arguments = [f"phases={phases}", f"teacher={teacher}", f"out={out}", *SHORT]
    assert main(["train", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"di4c: error: {message}")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    "phases",
    [
        {"a": ["algo=di4c"], "b": ["algo=dmmd"]},
        {"a": ["algo=di4c"], "b": ["algo=dmmd", "latent=adaln"]},
        {"a": ["algo=dmmd"], "b": ["algo=di4c"]},
        {"a": ["algo=sdtt"], "b": ["algo=di4c", "teacher=@a", "student=null"]},
        {"a": ["algo=sdtt"], "b": ["algo=dmmd"]},  # right if the process is uniform
        {"a": ["algo=dmmd", "algo.input_noise=false"], "b": ["algo=sdtt"]},
        {"a": ["student=other", "algo=sdtt"], "b": ["algo=di4c"]},  # it may have any latent
        {"a": ["student=other", "algo=sdtt"], "b": ["latent=token"]},
        {"a": ["algo=di4c"], "b": ["teacher=./OUT/b/../a/student.safetensors", "student=null"]},
        {"a": ["algo=di4c"], "b": ["student=file:OUT/a/student.safetensors", "algo=dmmd"]},
        {"a": ["host=halton"], "b": ["host=halton_maskgit", "algo=dmmd"]},
        {"a": ["host=mdlm"], "b": ["host=duo", "algo=dmmd"]},  # one family of networks
        {"a": ["host=mdlm", "algo=sdtt"], "b": ["host=duo", "teacher=@a", "student=null"]},
        {"a": ["host=mdlm", "training.adapter={r: 2}"], "b": ["host=builtin", "student=null"]},
    ],
)
def test_phases_that_may_work_are_begun(
    phases: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begun: list[str] = []
    monkeypatch.setattr(command, "run_one", lambda run: begun.append(run.out.name))
    typed = [f"+phases.{name}={[*own]}" for name, own in phases.items()]
    assert main(["train", "phases={}", *(v.replace("OUT", "out") for v in typed), "out=out"]) == 0
    assert begun == [*phases]


@pytest.mark.parametrize("name", ["mdlm_dmmd", "mdlm_chain", "digits_dmmd", "digits_chain"])
def test_the_phases_of_our_experiments_are_begun(
    name: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[RunConfig] = []
    monkeypatch.setattr(command, "run_one", begun.append)
    assert main(["train", f"experiment={name}", f"teacher={teacher}", f"out={tmp_path}"]) == 0
    assert [run.info["algo"]["name"] for run in begun] == [run.out.name for run in begun]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [p.stem for p in (configs_dir() / "experiment").glob("*.yaml") if "\nphases:" in p.read_text()],
)
def test_the_phases_of_an_experiment_are_composed(name: str) -> None:
    phases = compose_config("train", [f"experiment={name}"])["phases"]
    algos = [compose_config("train", own)["algo"]["name"] for own in phases.values()]
    assert algos == list(phases)
