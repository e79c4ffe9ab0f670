import json
import threading
from dataclasses import replace
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
def models() -> dict[str, Model]:
    """An untrained teacher and students of it."""
    torch.manual_seed(0)
    host = BUILTIN()
    teacher = host.new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1, num_heads=1)
    students = [host.build_student(teacher, {"name": "adaln"}) for _ in range(2)]
    return dict(zip(demo.STEPS, [teacher, *students], strict=True))


@pytest.fixture(scope="module")
def cells(models: dict[str, Model]) -> list[Cell]:
    return list(demo.measure_all(models, N, seed=3))


def told(path: Path, name: str) -> None:
    """Listen, as the command line does."""
    assert path.exists()


@pytest.fixture
def recipe() -> demo.Recipe:
    return replace(demo.recipe("digits_quick", seed=3, steps=1), samples=N)


@pytest.mark.parametrize("name", demo.SIZES)
def test_the_recipes_are_the_shipped_configs(name: str) -> None:
    recipe = demo.recipe(name, seed=5)
    assert (recipe.dmmd_steps, recipe.samples) == demo.SIZES[name]
    assert recipe.training.seed == 5
    assert recipe.algo["name"] == "di4c"
    short = demo.recipe(name, seed=5, steps=7)
    assert short.training == replace(recipe.training, steps=7)
    assert short.dmmd_steps == 7


@pytest.mark.parametrize(
    ("seed", "steps", "message"),
    [(-1, None, "seed must be at least 0, not -1"), (0, 0, "steps must be at least 1, not 0")],
)
def test_a_recipe_out_of_range_is_refused(seed: int, steps: int | None, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        demo.recipe("digits_demo", seed=seed, steps=steps)


def test_every_sampler_is_measured_at_every_number_of_steps(cells: list[Cell]) -> None:
    expected = [(name, steps) for name in demo.STEPS for steps in demo.STEPS[name]]
    assert [(cell.sampler, cell.steps) for cell in cells] == expected
    assert len(cells) == demo.CELLS
    assert {cell.samples.shape for cell in cells} == {(N, 64)}


def test_the_report_has_the_documented_form(
    cells: list[Cell], recipe: demo.Recipe, tmp_path: Path
) -> None:
    written = demo.write_report(cells, recipe, {"Di4C": 1.26, "total": 2.0}, tmp_path)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"report.json", "quality.png", "samples.png"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == written
    table = {name: dict.fromkeys(map(str, demo.STEPS[name]), float) for name in demo.STEPS}
    assert {
        name: {steps: type(value) for steps, value in line.items()}
        for name, line in report.pop("fd").items()
    } == table
    assert report.pop("seconds_per_sample").keys() == table.keys()
    assert 100 < report.pop("peak_rss_mb") < 10_000
    assert report.pop("versions").keys() == {"python", "di4c_plugin", "lightning", "numpy", "torch"}
    assert report == {
        "seed": 3,
        "seconds": {"Di4C": 1.3, "total": 2.0},
        "samples": N,
        "updates": {"Di4C": 1, "D-MMD": 1},
    }


def test_new_students_are_not_left_beside_the_report_of_old_ones(
    models: dict[str, Model], cells: list[Cell], recipe: demo.Recipe, tmp_path: Path
) -> None:
    def make(*, resume: bool, overwrite: bool) -> list[str]:
        gallery = demo.Gallery(tmp_path, models["teacher"], 0, told)
        made = demo.make_students(recipe, tmp_path, gallery, resume=resume, overwrite=overwrite)
        assert [name for name, _, _ in made] == ["Di4C", "D-MMD"]
        return list(gallery.rows)

    fresh = ["teacher", "Di4C, 1 of 1 updates", "D-MMD, 1 of 1 updates"]
    assert make(resume=False, overwrite=False) == fresh
    for again in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        demo.write_report(cells, recipe, {}, tmp_path)
        assert all(path.exists() for path in demo.written_files(tmp_path))
        assert make(**again) == (fresh[:1] if again["resume"] else fresh)
        missing = {path.name for path in demo.written_files(tmp_path) if not path.exists()}
        assert missing == {demo.REPORT, demo.PLOT, demo.SHEET}


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


def test_the_second_trainings_folder_is_looked_at_first(tmp_path: Path) -> None:
    folder = tmp_path / demo.DMMD
    folder.mkdir()
    with pytest.raises(UserError, match="holds another run"):
        demo.check_folder(tmp_path, resume=False, overwrite=False)
    (folder / "student.safetensors").write_text("mine")
    for resume, overwrite in ((True, False), (False, True)):
        with pytest.raises(UserError, match="student.safetensors is in the way, and no run"):
            demo.check_folder(tmp_path, resume=resume, overwrite=overwrite)


@pytest.mark.parametrize("name", [demo.REPORT, demo.PLOT, demo.SHEET, demo.PROGRESS])
def test_files_of_the_user_are_not_replaced_by_a_report(
    name: str, models: dict[str, Model], recipe: demo.Recipe, tmp_path: Path
) -> None:
    def make(*, overwrite: bool) -> None:
        gallery = demo.Gallery(tmp_path, models["teacher"], 0, told)
        next(demo.make_students(recipe, tmp_path, gallery, resume=False, overwrite=overwrite))

    make(overwrite=False)
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
        make(overwrite=True)
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
