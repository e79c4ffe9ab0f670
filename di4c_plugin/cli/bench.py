"""`di4c bench`: memory, time and error of the loss, of an update and of a network call."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.bench.cases import CASES, DTYPES, MATMULS, expand
from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from di4c_plugin.bench.cases import Case
    from di4c_plugin.cli.main import Subparsers

WHAT = {
    "loss": "the loss of one sequence, from hidden states to gradients",
    "step": "a whole Di4C update of a DiT",
    "sample": "a call of the student beside one of its teacher",
}
HELP = {
    "vocab": "S",
    "latents": "N, how many lambda",
    "positions": "D",
    "hidden": "H, width of the hidden states",
    "masked": "share of unknown positions",
    "impl": "naive, checkpoint, chunked; of an update also two_pass",
    "budget_mb": "for a chunk, in MiB",
    "batch": "sequences",
    "layers": "of the DiT",
    "heads": "of the DiT",
    "latent": "adaln, token, mask_noise",
    "blocks": "last blocks that the latent enters; all",
    "device": "cpu, cuda",
    "threads": "of the CPU",
    "repeats": "medians are told",
    "seed": "of inputs and weights",
}
SINGLE: dict[str, Callable[[str], Any]] = {
    "masked": float,
    "device": str,
    "threads": int,
    "repeats": int,
    "seed": int,
}
WORDS = ("impl", "latent")
DEFAULTS = {
    "loss": {"impl": "naive,checkpoint,chunked"},
    "step": {"blocks": "all"},
    "sample": {"blocks": "all", "latent": "adaln,token,mask_noise"},
}
FIELDS = (*HELP, "dtype", "matmul")
SIZES = [name for name in HELP if name not in (*SINGLE, *WORDS, "blocks")]
FILES = ("json", "plot")


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "bench",
        help="measure memory, time and error",
        description="Measure, each case in its own process; values separated by commas make a "
        "sweep. For example: di4c bench loss --vocab 1000 --latents 4,16,64",
    )
    kinds = parser.add_subparsers(metavar="what", required=True)
    for kind, text in WHAT.items():
        one = kinds.add_parser(kind, help=text, description=f"Measure {text}.")
        one.set_defaults(kind=kind)
        add_options(one, kind)
    return parser


def add_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add an option for each field of the case, and those of the output."""
    case = CASES[kind]()
    for name, text in HELP.items():
        if not hasattr(case, name):
            continue
        value = DEFAULTS[kind].get(name, getattr(case, name))
        read = SINGLE.get(name, words if name in WORDS else numbers)
        parser.add_argument(
            option(name),
            type=read,
            # As text, which argparse reads like the user's.
            default=None if value is None else str(value),
            help=text if value is None else f"{text}; default {value}",
        )
    # float64 is for the loss alone.
    dtypes = DTYPES if kind == "loss" else DTYPES[:2]
    parser.add_argument("--dtype", choices=dtypes, default=case.dtype, help="default float32")
    parser.add_argument("--matmul", choices=MATMULS, default=case.matmul, help="high: TF32")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    if kind != "sample":
        parser.add_argument("--plot", type=Path, help="draw the peak over a sweep, as PNG")


def option(name: str) -> str:
    """Return the option of a field."""
    return f"--{name.replace('_', '-')}"


def words(text: str) -> list[str]:
    """Read words separated by commas."""
    if not all(text.split(",")):
        raise argparse.ArgumentTypeError(f"takes words separated by commas, not {text!r}")
    return text.split(",")


def numbers(text: str) -> list[int | None]:
    """Read numbers separated by commas; "all" is None."""
    parts = text.split(",")
    if not all(part == "all" or part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"takes numbers separated by commas, not {text!r}")
    return [None if part == "all" else int(part) for part in parts]


def run(args: argparse.Namespace) -> int:
    """Measure, print a line for each case, and write what is there after each."""
    cases = expand(args.kind, case_options(args))
    check(cases, getattr(args, "plot", None))
    from di4c_plugin.bench.sweep import measure_all
    from di4c_plugin.bench.table import Table

    table, results = Table(cases), list[dict[str, Any]]()
    print(table.heading(), table.header(), sep="\n", flush=True)
    for result in measure_all(cases):
        results.append(result)
        print(table.row(result), flush=True)
        save(args, cases, results)
    print(*table.legend(), sep="\n")
    return 0


def case_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the cases, lists where there are several values."""
    options = {name: value for name, value in vars(args).items() if name in FIELDS}
    if any(None in options.get(name, ()) for name in SIZES):
        raise UserError("only --blocks can be all")
    return options


def check(cases: "Sequence[Case]", plot: Path | None) -> None:
    """Refuse, before anything is measured, what could not be measured or drawn."""
    from di4c_plugin.bench.sweep import check_implementations

    check_implementations(cases)
    if plot is not None:
        from di4c_plugin.bench.plot import check as check_plot

        check_plot(cases, plot)


def save(args: argparse.Namespace, cases: "Sequence[Case]", results: list[dict[str, Any]]) -> None:
    """Write the results so far: what was measured stays, should a later case be interrupted."""
    from di4c_plugin.bench.machine import machine, versions
    from di4c_plugin.evaluation.report import write_json

    if args.json:
        report = {
            "args": {k: str(v) if k in FILES and v else v for k, v in arguments(args).items()},
            "command": command(args),
            "machine": machine(args.device, args.threads),
            "versions": versions(),
            "results": results,
        }
        write_json(args.json, report)
    if getattr(args, "plot", None):
        from di4c_plugin.bench.plot import peak_plot

        peak_plot(results, cases, args.plot)


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, without what argparse keeps for us."""
    return {name: value for name, value in vars(args).items() if name != "run"}


def command(args: argparse.Namespace) -> str:
    """Return the command that measures the same, defaults spelt out."""
    line = ["di4c", "bench", args.kind]
    for name, value in arguments(args).items():
        if name != "kind" and value is not None:
            parts = value if isinstance(value, list) else [value]
            line += [option(name), ",".join("all" if p is None else str(p) for p in parts)]
    return shlex.join(line)
