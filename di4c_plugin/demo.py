"""The demo: distil the built-in teacher, measure teacher, student and hybrid, leave a report.

Printing is the command line's (`di4c_plugin/cli/demo.py`).
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from di4c_plugin.api import distill, sample
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.pictures import quality_plot, sample_sheet
from di4c_plugin.evaluation.report import by_sampler, peak_rss_mb, write_json
from di4c_plugin.evaluation.sweep import Cell, Draw, measure
from di4c_plugin.hosts.builtin import HOST, LEVELS, SIDE
from di4c_plugin.training import TrainingConfig
from di4c_plugin.training.compose import compose_config, training_config
from di4c_plugin.training.folder import REPORTS, add_names, check_free
from di4c_plugin.training.lock import held
from di4c_plugin.training.run import versions

STEPS = (1, 2, 4, 8, 16)
SAMPLERS = ("teacher", "student", "hybrid")
CELLS = len(STEPS) * len(SAMPLERS)
REPORT, PLOT, SHEET = REPORTS


@dataclass(frozen=True)
class Recipe:
    """How the student is made, from configs/experiment/, and how many samples are compared."""

    algo: dict[str, Any]
    latent: dict[str, Any]
    training: TrainingConfig
    samples: int


def recipe(name: str, *, seed: int, steps: int | None = None) -> Recipe:
    """Return the recipe configs/experiment/`name`.yaml, with the seed and perhaps the length given.

    Raises:
        UserError: for a seed or a length out of range.
    """
    overrides = [f"experiment={name}", f"training.seed={seed}"]
    if steps is not None:
        overrides.append(f"training.steps={steps}")
    config = compose_config("train", overrides)
    samples = 500 if name == "digits_quick" else 10_000
    return Recipe(config["algo"], config["latent"], training_config(config["training"]), samples)


@contextlib.contextmanager
def opened(out: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Keep other runs out of the folder of the demo while the block runs.

    Raises:
        UserError: as `check_folder`, and if another run is there now.
    """
    with held(out):
        check_folder(out, resume=resume, overwrite=overwrite)
        yield


def check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder with a finished demo in it, or with files that the report would replace.

    Raises:
        UserError: for a demo unless it is to be overwritten or resumed; for other files always.
    """
    check_free(out, REPORTS)
    if (out / REPORT).exists() and not (resume or overwrite):
        raise UserError(f"{out} holds another run; choose another --out, or --overwrite it")


def make_student(
    teacher: Model, recipe: Recipe, out: Path, *, resume: bool, overwrite: bool
) -> tuple[Model, float]:
    """Distil, leaving out/student.safetensors; return the student and the seconds it took.

    What an earlier demo reported in `out` is then gone: it would tell of another student.
    """
    start = time.perf_counter()
    student = distill(
        teacher,
        algo=recipe.algo,
        latent=recipe.latent,
        training=recipe.training,
        out=out,
        resume=resume,
        overwrite=overwrite,
    )
    add_names(out, REPORTS)
    return student, time.perf_counter() - start


def measure_all(teacher: Model, student: Model, samples: int, seed: int) -> Iterator[Cell]:
    """Yield the measurements, sampler by sampler within each number of steps."""
    reference = HOST().data().x_0
    for steps in STEPS:
        for name, draw in samplers(teacher, student, samples, seed).items():
            yield measure(name, steps, draw, reference)


def samplers(teacher: Model, student: Model, samples: int, seed: int) -> dict[str, Draw]:
    """Return what the demo compares; the hybrid's later half of the steps is the teacher's."""

    def hybrid(*, steps: int) -> Tensor:
        later: dict[str, Any] = {"teacher": teacher, "teacher_steps": steps // 2}
        return sample(student, samples, steps=steps, seed=seed, sampler="hybrid", **later)

    return {
        "teacher": partial(sample, teacher, samples, seed=seed),
        "student": partial(sample, student, samples, seed=seed),
        "hybrid": hybrid,
    }


def report_files(out: Path) -> list[Path]:
    """Return where report, plot and samples go."""
    return [out / name for name in REPORTS]


def write_report(
    cells: Sequence[Cell], recipe: Recipe, seconds: dict[str, float], out: Path
) -> list[Path]:
    """Write report.json and the pictures; return their paths."""
    paths = report_files(out)
    quality_plot(cells, paths[1], metric="Fréchet distance on pixels")
    sample_sheet(cells, (SIDE, SIDE), paths[2], levels=LEVELS)
    report = {
        "seed": recipe.training.seed,
        "fd": by_sampler(cells, lambda cell: round(cell.value, 2)),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "seconds_per_sample": by_sampler(cells, lambda cell: cell.seconds),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "samples": recipe.samples,
        "updates": recipe.training.steps,
        "versions": versions(),
    }
    write_json(paths[0], report)
    return paths
