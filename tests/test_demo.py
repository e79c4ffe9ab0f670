import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from di4c_plugin import demo
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.sweep import Cell
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.training.folder import add_names

N = 12


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    """An untrained teacher and a student of it."""
    torch.manual_seed(0)
    host = BUILTIN()
    teacher = host.new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1, num_heads=1)
    return teacher, host.build_student(teacher, {"name": "adaln"})


@pytest.fixture(scope="module")
def cells(models: tuple[Model, Model]) -> list[Cell]:
    return list(demo.measure_all(*models, N, seed=3))


@pytest.fixture
def recipe() -> demo.Recipe:
    return replace(demo.recipe("digits_quick", seed=3, steps=1), samples=N)


@pytest.mark.parametrize(
    ("name", "samples"), [("digits", 10_000), ("digits_full", 10_000), ("digits_quick", 500)]
)
def test_the_recipes_are_the_shipped_configs(name: str, samples: int) -> None:
    recipe = demo.recipe(name, seed=5)
    assert (recipe.samples, recipe.training.seed) == (samples, 5)
    assert recipe.algo["name"] == "di4c"
    assert demo.recipe(name, seed=5, steps=7).training == replace(recipe.training, steps=7)


@pytest.mark.parametrize(
    ("seed", "steps", "message"),
    [(-1, None, "seed must be at least 0, not -1"), (0, 0, "steps must be at least 1, not 0")],
)
def test_a_recipe_out_of_range_is_refused(seed: int, steps: int | None, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        demo.recipe("digits", seed=seed, steps=steps)


def test_every_sampler_is_measured_at_every_number_of_steps(cells: list[Cell]) -> None:
    expected = [(name, steps) for steps in demo.STEPS for name in demo.SAMPLERS]
    assert [(cell.sampler, cell.steps) for cell in cells] == expected
    assert len(cells) == demo.CELLS
    assert {cell.samples.shape for cell in cells} == {(N, 64)}


def test_half_of_the_hybrids_steps_are_the_teachers(models: tuple[Model, Model]) -> None:
    calls = {"teacher": 0, "student": 0}

    def count(name: str) -> None:
        calls[name] += 1

    hooks = [
        model.denoiser.register_forward_hook(lambda *_, name=name: count(name))
        for name, model in zip(calls, models, strict=True)
    ]
    hybrid = demo.samplers(*models, N, seed=0)["hybrid"]
    for steps in (1, 2, 8):
        hybrid(steps=steps)
    for hook in hooks:
        hook.remove()
    assert calls == {"teacher": 0 + 1 + 4, "student": 1 + 1 + 4}


def test_the_report_has_the_documented_form(
    cells: list[Cell], recipe: demo.Recipe, tmp_path: Path
) -> None:
    paths = demo.write_report(cells, recipe, {"distil": 1.26, "total": 2.0}, tmp_path)
    assert paths == [tmp_path / name for name in ("report.json", "quality.png", "samples.png")]
    report = json.loads(paths[0].read_text())
    table = {name: dict.fromkeys(map(str, demo.STEPS), float) for name in demo.SAMPLERS}
    assert {
        name: {steps: type(value) for steps, value in line.items()}
        for name, line in report.pop("fd").items()
    } == table
    assert report.pop("seconds_per_sample").keys() == table.keys()
    assert 100 < report.pop("peak_rss_mb") < 10_000
    assert report.pop("versions").keys() == {"python", "di4c_plugin", "lightning", "numpy", "torch"}
    assert report == {
        "seed": 3,
        "seconds": {"distil": 1.3, "total": 2.0},
        "samples": N,
        "updates": 1,
    }


def test_a_new_student_is_not_left_beside_the_report_of_an_old_one(
    models: tuple[Model, Model], cells: list[Cell], recipe: demo.Recipe, tmp_path: Path
) -> None:
    make = partial(demo.make_student, models[0], recipe, tmp_path)
    make(resume=False, overwrite=False)
    for again in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        paths = demo.write_report(cells, recipe, {}, tmp_path)
        assert all(path.exists() for path in paths)
        make(**again)
        assert (tmp_path / "student.safetensors").exists()
        assert not any(path.exists() for path in paths)


@pytest.mark.parametrize(("resume", "overwrite"), [(True, False), (False, True)])
def test_a_finished_demo_is_replaced_only_when_told(
    resume: bool, overwrite: bool, tmp_path: Path
) -> None:
    demo.check_folder(tmp_path, resume=False, overwrite=False)
    add_names(tmp_path, [demo.REPORT])
    (tmp_path / demo.REPORT).touch()
    demo.check_folder(tmp_path, resume=resume, overwrite=overwrite)
    with pytest.raises(UserError, match="holds another run; choose another --out, or --overwrite"):
        demo.check_folder(tmp_path, resume=False, overwrite=False)


@pytest.mark.parametrize("name", [demo.REPORT, demo.PLOT, demo.SHEET])
def test_files_of_the_user_are_not_replaced_by_a_report(
    name: str, models: tuple[Model, Model], recipe: demo.Recipe, tmp_path: Path
) -> None:
    demo.make_student(models[0], recipe, tmp_path, resume=False, overwrite=False)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        record = folder / "run.json"
        if record.exists():
            record.write_text(record.read_text().replace(name, "x"))
        (folder / name).write_text("mine")
        for resume, overwrite in ((False, False), (True, False), (False, True)):
            again = {"resume": resume, "overwrite": overwrite}
            with pytest.raises(UserError, match=f"^{folder / name} is in the way, and no run"):
                demo.check_folder(folder, **again)
        assert (folder / name).read_text() == "mine"
    with pytest.raises(UserError, match=f"^{tmp_path / name} is in the way"):
        demo.make_student(models[0], recipe, tmp_path, resume=False, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_a_demo_holds_its_folder(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with demo.opened(tmp_path / "run", resume=False, overwrite=True):
                raise AssertionError
        except UserError as error:
            refused.append(str(error))

    with demo.opened(tmp_path / "run", resume=False, overwrite=False):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [f"{tmp_path / 'run'} is in use by another run"]
    assert not (tmp_path / "run").exists()
