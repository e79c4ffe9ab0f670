"""`di4c demo`: distils the built-in digits teacher and shows what it gained."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from di4c_plugin.announce import announce, is_quiet
from di4c_plugin.cli.output import print_table, write_results
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from di4c_plugin.checkpoints.model import Model
    from di4c_plugin.evaluation.sweep import Cell

HELP = "distil a small teacher of digits and compare (about 2 minutes on 2 CPU cores)"
DESCRIPTION = (
    "Distil the built-in teacher of 8x8 digits with Di4C and with D-MMD, and "
    "compare teacher and students at 1 to 16 steps. Pictures of the digits appear meanwhile."
)
EXAMPLE = "di4c demo --quick --out di4c-demo"
NEXT = (
    "di4c train experiment=mdlm_dmmd teacher=teacher.ckpt host.data=texts.jsonl "
    "host.tokenizer=gpt2 out=runs/student"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="under a minute, to see it work")
    length.add_argument("--full", action="store_true", help="longer, for the best student")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--steps", type=int, help="optimiser updates, instead of the recipe's")
    parser.add_argument(
        "--out", type=user_path, default=Path("di4c-demo"), help="default di4c-demo"
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on where --out was interrupted")
    earlier.add_argument("--overwrite", action="store_true", help="replace the run in --out")


def run(args: argparse.Namespace) -> int:
    """Distil, measure, print a table, and leave report, students and pictures in --out."""
    # Before torch is loaded: threads that spin while they wait stall where other programs want the
    # cores. What the user says stands.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from di4c_plugin import demo
    from di4c_plugin.api import load_teacher
    from di4c_plugin.evaluation.report import rows
    from di4c_plugin.training.interrupt import Interrupted

    start = time.perf_counter()
    name = "digits_quick" if args.quick else "digits_full" if args.full else "digits_demo"
    recipe = demo.recipe(name, seed=args.seed, steps=args.steps)
    earlier = {"resume": args.resume, "overwrite": args.overwrite}
    with demo.opened(args.out, **earlier):
        teacher = load_teacher("builtin:digits")
        gallery = demo.Gallery(args.out, teacher, args.seed, _announce_row)
        models: dict[str, Model] = {"teacher": teacher}
        seconds: dict[str, float] = {}
        announce(
            f"1 of 3: Di4C teaches a student to draw digits in few steps ({recipe.training.steps} "
            f"updates), 2 of 3: D-MMD teaches one to draw them in {demo.K} ({recipe.dmmd_steps} "
            f"updates), 3 of 3: {recipe.samples} samples of each are compared with real digits"
        )
        try:
            for method, student, took in demo.make_students(recipe, args.out, gallery, **earlier):
                models[method], seconds[method] = student, took
        except Interrupted as stopped:
            print(f"di4c: interrupted {stopped}; --resume goes on", file=sys.stderr)
            return 128 + stopped.signum
        cells = _measure(demo.measure_all(models, recipe.samples, args.seed), demo.CELLS)
        seconds["total"] = time.perf_counter() - start
        report = demo.write_report(cells, recipe, seconds, args.out)
    header, *table = rows(cells)
    print_table(header, table)
    print(
        f"FD: Fréchet distance on pixels, {recipe.samples} samples, lower is better. "
        f"ms: wall time a sample. {seconds['total']:.0f} s in all."
    )
    files = [str(path) for path in demo.written_files(args.out)]
    print(*files, sep="\n", flush=True)
    write_results(args, report | {"files": files})
    announce(f"more digits: {draw_more(args.out)}")
    announce(f"next, for your own checkpoint, here one of MDLM: {NEXT}")
    return 0


def draw_more(out: Path) -> str:
    """Return the command that draws digits by the student in the demo's folder `out`."""
    return f"di4c sample {shlex.quote(str(out / 'student.safetensors'))} --steps 2 --out digits.png"


def _announce_row(path: Path, name: str) -> None:
    announce(f"{path} shows digits by now: {name}")


def _measure(cells: "Iterator[Cell]", total: int) -> "list[Cell]":
    """Return all measurements; each is printed on stderr as it comes."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True, quiet=is_quiet())
    measured: list[Cell] = []
    for cell in track(cells, "Comparing", total=total, console=console, transient=True):
        steps = "1 step" if cell.steps == 1 else f"{cell.steps} steps"
        text = f"{cell.sampler} in {steps}: distance {cell.value:.1f} to real digits"
        console.print(text, highlight=False, soft_wrap=True)
        measured.append(cell)
    return measured
