"""The demo: distil the built-in teacher by Di4C and by D-MMD, measure all three, leave a report.

Printing is the command line's (`di4c_plugin/cli/demo.py`).
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from di4c_plugin.api import distill, sample
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.pictures import quality_plot, sample_rows, sample_sheet
from di4c_plugin.evaluation.report import by_sampler, peak_rss_mb, write_json
from di4c_plugin.evaluation.sweep import Cell, measure
from di4c_plugin.hosts.builtin import HOST, LEVELS, SIDE
from di4c_plugin.training.compose import compose_config, training_config
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.folder import (
    CHECKPOINT,
    CONFIG,
    RECORD,
    REPORTS,
    STUDENT,
    add_names,
    check_free,
)
from di4c_plugin.training.lock import held
from di4c_plugin.training.progress import ShowProgress
from di4c_plugin.training.run import versions

K = 4  # the steps that D-MMD's student is made for, and those of the pictures of the progress
STEPS = {"teacher": (1, 2, 4, 8, 16), "Di4C": (1, 2, 4, 8), "D-MMD": (K,)}
CELLS = sum(map(len, STEPS.values()))
SHOWN = (1 / 8, 1 / 4, 1 / 2, 1)  # shares of a training after which digits are drawn
REPORT, PLOT, SHEET, PROGRESS = REPORTS
DMMD = "dmmd"  # the folder of the second training


@dataclass(frozen=True)
class Recipe:
    """How the students are made, and how many samples are compared.

    Attributes:
        algo, latent, training: Di4C, from configs/experiment/.
        dmmd_steps: updates of D-MMD; the rest is configs/recipe/builtin/dmmd.
        samples: of each measurement.
    """

    algo: dict[str, Any]
    latent: dict[str, Any]
    training: TrainingConfig
    dmmd_steps: int
    samples: int


SIZES = {  # of a demo: updates of D-MMD and samples
    "digits_quick": (40, 500),
    "digits_demo": (240, 2000),
    "digits_full": (420, 10_000),
}


def recipe(name: str, *, seed: int, steps: int | None = None) -> Recipe:
    """Return the recipe configs/experiment/`name`.yaml, with the seed and perhaps the length given.

    Raises:
        UserError: for a seed or a length out of range.
    """
    overrides = [f"experiment={name}", f"training.seed={seed}"]
    if steps is not None:
        overrides.append(f"training.steps={steps}")
    config = compose_config("train", overrides)
    updates, samples = SIZES[name]
    training = training_config(config["training"])
    updates = updates if steps is None else min(updates, steps)
    return Recipe(config["algo"], config["latent"], training, updates, samples)


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
    check_free(out / DMMD, (RECORD, CONFIG, CHECKPOINT, STUDENT))
    there = (out / REPORT).exists() or (out / DMMD).exists()
    if there and not (resume or overwrite):
        raise UserError(f"{out} holds another run; choose another --out, or --overwrite it")


class Gallery(Callback):
    """Draws digits by what there is so far: a picture with a row more each time.

    Args:
        out: the folder of the demo, where the picture is.
        teacher: who draws the first row.
        seed: of the noise, the same in each row.
        tell: is given the path and the name of each new row.
    """

    def __init__(
        self, out: Path, teacher: Model, seed: int, tell: Callable[[Path, str], None]
    ) -> None:
        self.out, self.teacher, self.seed, self.tell = out, teacher, seed, tell
        self.rows: dict[str, Tensor] = {}
        self.method = "Di4C"

    def begin(self) -> None:
        """Draw the teacher's row; what an earlier demo reported in the folder is then gone."""
        if not self.rows:
            add_names(self.out, REPORTS)
            self.add("teacher", self.teacher)

    def add(self, name: str, model: Model) -> None:
        """Draw a row."""
        self.rows[name] = sample(model, 10, steps=K, seed=self.seed)
        path = self.out / PROGRESS
        sample_rows(self.rows, (SIDE, SIDE), path, levels=LEVELS)
        self.tell(path, name)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the first row: the run has the folder now."""
        self.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw by the student's average after some of the updates."""
        done, total = trainer.global_step, trainer.max_steps
        if done in {max(1, round(share * total)) for share in SHOWN}:
            student = copy.deepcopy(pl_module.student()).cpu()
            name = f"{self.method}, {done} of {total} updates"
            self.add(name, replace(self.teacher, denoiser=student))


def make_students(
    recipe: Recipe, out: Path, gallery: Gallery, *, resume: bool, overwrite: bool
) -> Iterator[tuple[str, Model, float]]:
    """Distil, leaving out/student.safetensors by Di4C, and a student by D-MMD in out/dmmd/.

    Yields:
        Method, student and the seconds that it took.
    """
    teacher, start = gallery.teacher, time.perf_counter()
    bar = partial(ShowProgress, what="Di4C")
    student = distill(
        teacher,
        algo=recipe.algo,
        latent=recipe.latent,
        training=recipe.training,
        out=out,
        resume=resume,
        overwrite=overwrite,
        progress=False,
        callbacks=[bar(), gallery],
    )
    gallery.begin()
    yield "Di4C", student, time.perf_counter() - start
    gallery.method, start = "D-MMD", time.perf_counter()
    student = distill(
        teacher,
        algo={"name": "dmmd", "steps": K},
        training={"steps": recipe.dmmd_steps, "seed": recipe.training.seed},
        out=out / DMMD,
        resume=resume,
        overwrite=overwrite,
        progress=False,
        callbacks=[bar(what="D-MMD"), gallery],
    )
    yield "D-MMD", student, time.perf_counter() - start


def measure_all(models: Mapping[str, Model], samples: int, seed: int) -> Iterator[Cell]:
    """Yield the measurements of teacher and students, one after the other, at their `STEPS`."""
    reference = HOST().data().x_0
    for name, model in models.items():
        for steps in STEPS[name]:
            yield measure(name, steps, partial(sample, model, samples, seed=seed), reference)


def written_files(out: Path) -> list[Path]:
    """Return all that a demo leaves for its user."""
    students = [out / STUDENT, out / DMMD / STUDENT]
    return [*students, *(out / name for name in REPORTS)]


def write_report(
    cells: Sequence[Cell], recipe: Recipe, seconds: Mapping[str, float], out: Path
) -> dict[str, Any]:
    """Write report.json and the pictures of all measurements; return the report."""
    quality_plot(cells, out / PLOT, metric="Fréchet distance on pixels")
    sample_sheet(cells, (SIDE, SIDE), out / SHEET, levels=LEVELS)
    report = {
        "seed": recipe.training.seed,
        "fd": by_sampler(cells, lambda cell: round(cell.value, 2)),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "seconds_per_sample": by_sampler(cells, lambda cell: cell.seconds),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "samples": recipe.samples,
        "updates": {"Di4C": recipe.training.steps, "D-MMD": recipe.dmmd_steps},
        "versions": versions(),
    }
    write_json(out / REPORT, report)
    return report
