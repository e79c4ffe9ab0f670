"""`di4c demo`: distils the built-in digits teacher and shows what it gained."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from di4c_plugin.cli.main import Subparsers
    from di4c_plugin.evaluation.sweep import Cell


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "demo",
        help="distil a small teacher of digits and compare (about 5 minutes on 2 CPU cores)",
        description="Distil the built-in teacher of 8x8 digits with Di4C, then compare teacher, "
        "student and hybrid at 1 to 16 steps. Recipes: configs/experiment/digits*.yaml.",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="under a minute, to see it work")
    length.add_argument("--full", action="store_true", help="longer, for the best student")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--steps", type=int, help="optimiser updates, instead of the recipe's")
    parser.add_argument(
        "--out", type=user_path, default=Path("di4c-demo"), help="default di4c-demo"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on where --out was interrupted")
    again.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    return parser


def run(args: argparse.Namespace) -> int:
    """Distil, measure, print a table, and leave report, student and pictures in --out."""
    from di4c_plugin import demo
    from di4c_plugin.api import load_teacher
    from di4c_plugin.evaluation.report import rows
    from di4c_plugin.training import Interrupted

    start = time.perf_counter()
    recipe = demo.recipe(_name(args), seed=args.seed, steps=args.steps)
    again = {"resume": args.resume, "overwrite": args.overwrite}
    with demo.opened(args.out, **again):
        teacher = load_teacher("builtin:digits")
        print(f"Distilling builtin:digits, {recipe.training.steps} updates", flush=True)
        try:
            student, distil = demo.make_student(teacher, recipe, args.out, **again)
        except Interrupted as stopped:
            print(f"di4c: interrupted {stopped}; --resume goes on", file=sys.stderr)
            return 128 + stopped.signum
        cells = _measure(demo.measure_all(teacher, student, recipe.samples, args.seed), demo.CELLS)
        seconds = {"distil": distil, "total": time.perf_counter() - start}
        paths = demo.write_report(cells, recipe, seconds, args.out)
    _print_table(rows(cells))
    print(f"FD: Fréchet distance on pixels, {recipe.samples} samples, lower is better. ", end="")
    print(f"ms: wall time a sample. {seconds['total']:.0f} s in all.")
    print("\n".join(str(path) for path in [args.out / "student.safetensors", *paths]))
    return 0


def _name(args: argparse.Namespace) -> str:
    return "digits_quick" if args.quick else "digits_full" if args.full else "digits"


def _measure(cells: "Iterator[Cell]", total: int) -> "list[Cell]":
    """Collect the measurements, telling each on stderr as it comes."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    done: list[Cell] = []
    for cell in track(cells, "Sampling", total=total, console=console, transient=True):
        console.print(f"{cell.sampler} at {cell.steps} steps: FD {cell.value:.1f}", highlight=False)
        done.append(cell)
    return done


def _print_table(rows: "list[list[str]]") -> None:
    """Print a table, header first, at full width even where there is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=max(Console().width, 100)).print(table)
