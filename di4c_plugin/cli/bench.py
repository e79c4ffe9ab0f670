"""`di4c bench`: memory and time of the loss, of an update and of a network call."""

import argparse
import re
from dataclasses import asdict, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from di4c_plugin.bench.cases import CASES, DTYPES, PROCESSES, NetworkCase
from di4c_plugin.cli.arguments import add_output, flag
from di4c_plugin.cli.output import write_results
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup

if TYPE_CHECKING:
    from di4c_plugin.bench.cases import Case

WHAT = {
    "loss": "the loss of Di4C on one sequence, from hidden states to gradients",
    "update": "an update of all networks of a method",
    "sample": "a network call of a student beside one of its teacher",
}
# Options that may be given several times, a row of the table for each combination: help, default.
ROWS = {
    "impl": ("how it is computed", ["naive", "checkpoint", "chunked"]),
    "algo": ("a method with options, such as di4c,loss=naive", ["di4c"]),
    "latent": ("a latent with options, such as adaln,blocks=4", None),
    "adapter": ("an adapter for each network, such as r=16,alpha=32, or none", None),
}
OPTIONS = {
    "teacher": "file, folder or hub id; without it a DiT of the sizes below",
    "process": "of the DiT",
    "vocab": "S",
    "positions": "D",
    "hidden": "H, width",
    "layers": "of the DiT",
    "heads": "of the DiT",
    "latents": "N, how many lambda",
    "masked": "share of unknown positions",
    "budget_mb": "for a chunk, in MiB",
    "batch": "sequences",
    "device": "cpu, cuda",
    "threads": "of the CPU",
    "repeats": "runs; the median is printed",
    "seed": "of inputs and weights",
}
TYPES: dict[str, Any] = {"teacher": str, "process": str, "masked": float, "device": str}
CHOICES = {"process": PROCESSES}
# Title, name and format of a measured value, and whether its ratio to the first row's follows.
COLUMNS = {
    "loss": [("peak MB", "peak_mb", ".1f", True), ("seconds", "seconds", ".3f", True)],
    "update": [
        ("peak MB", "peak_mb", ".1f", True),
        ("kept MB", "kept_mb", ".1f", True),
        ("total MB", "total_mb", ".1f", False),
        ("seconds", "seconds", ".3f", True),
        ("tokens/s", "tokens_per_second", ".1f", False),
    ],
    "sample": [
        ("teacher s", "teacher_seconds", ".4f", False),
        ("student s", "student_seconds", ".4f", False),
        ("ratio", "ratio", ".3f", False),
        ("+-", "ratio_spread", ".3f", False),
    ],
}
LEGEND = {
    "loss": "peak: above inputs and the head's gradients",
    "update": "peak: above what is kept; kept: weights, gradients and optimiser state; total: of "
    "the process",
    "sample": "ratio: student to teacher, median of pairs; +-: half the distance of the quartiles",
}

EXAMPLES = {
    "loss": "di4c bench loss --vocab 50258 --impl chunked --impl naive",
    "update": "di4c bench update --teacher teacher.ckpt --algo di4c --algo di4c,loss=naive",
    "sample": "di4c bench sample --teacher teacher.ckpt --latent token --latent adaln",
}
HELP = "measure memory and time"
DESCRIPTION = "Measure, each row of the table in its own process."
EXAMPLE = EXAMPLES["update"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    parser.set_defaults(kind="")
    kinds = parser.add_subparsers(metavar="what", required=True)
    for kind, text in WHAT.items():
        of_kind = kinds.add_parser(kind, help=text, description=f"Measure {text}.")
        of_kind.set_defaults(kind=kind, parser=of_kind)
        of_kind.epilog = f"Example:\n  {EXAMPLES[kind]}"
        add_options(of_kind, kind)
        add_output(of_kind, results=True)


def add_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add an option for each field of the case."""
    case = CASES[kind]()
    for name, (text, default) in ROWS.items():
        if hasattr(case, name):
            choices = default if name == "impl" else None
            text += "; may be repeated"
            parser.add_argument(flag(name), action="append", choices=choices, help=text)
    for name, text in OPTIONS.items():
        if hasattr(case, name):
            default = getattr(case, name)
            text += "" if default is None else f"; default {default}"
            of, known = TYPES.get(name, int), CHOICES.get(name)
            parser.add_argument(flag(name), type=of, choices=known, default=default, help=text)
    parser.add_argument("--dtype", choices=DTYPES, default=case.dtype, help="default float32")


def run(args: argparse.Namespace) -> int:
    """Measure, print a line for each case, and write --json anew after each."""
    cases = make_cases(args)
    from di4c_plugin.bench.run import machine, run_case

    columns = COLUMNS[args.kind]
    width = max(len(label) for label in cases)
    titles = [f"{title:>9}" + " (ratio)" * has_ratio for title, _, _, has_ratio in columns]
    print(f"{args.kind:<{width}}", *titles, flush=True)
    results: list[dict[str, Any]] = []
    for label, case in cases.items():
        result = run_case(case)
        results.append({"row": label} | asdict(case) | result)
        cells = [cell(result, results[0], *column[1:]) for column in columns]
        cells = ["out of memory"] if "out_of_memory" in result else cells
        print(f"{label:<{width}}", *cells, flush=True)
        write_results(args, {"what": args.kind, "machine": machine(case), "results": results})
    print(LEGEND[args.kind])
    return 0


def make_cases(args: argparse.Namespace) -> dict[str, "Case"]:
    """Return a case for each row of the table, by its label.

    Raises:
        UserError: for a value out of range, a process beside a teacher, and as `read_row`.
    """
    kind = CASES[args.kind]
    fields = [name for name in (*OPTIONS, "dtype") if hasattr(kind(), name)]
    base = kind(**{name: getattr(args, name) for name in fields})
    if isinstance(base, NetworkCase) and base.teacher and base.process != NetworkCase.process:
        raise UserError(f"--process={base.process} is of the random DiT: a teacher has its own")
    names = [name for name in ROWS if hasattr(base, name)]
    rows = product(*(getattr(args, name) or ROWS[name][1] or [None] for name in names))
    return {
        "  ".join(filter(None, row)) or "default": replace(
            base, **{name: read_row(name, text) for name, text in zip(names, row, strict=True)}
        )
        for row in rows
    }


def read_row(name: str, text: str | None) -> Any:
    """Return what an option of `ROWS` says, its values read as YAML.

    Returns:
        "name,key=value,..." as {"name": name, key: value, ...}; "key=value,..." of an adapter as
        {key: value, ...}, its "none" as None; None and an implementation of the loss as they are.

    Raises:
        UserError: for text of another form, and for an unknown method.
    """
    if text is None or name == "impl":
        return text
    if (name, text) == ("adapter", "none"):
        return None
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    parts = re.split(r",(?![^\[]*\])", text)  # a list keeps its commas
    own = {} if name == "adapter" else {"name": parts.pop(0)}
    pairs = [part.partition("=") for part in parts]
    try:
        if "" not in own.values() and all(equals for _, equals, _ in pairs):
            if name == "algo":
                lookup("algorithm", own["name"])  # before a process starts
            # As `di4c train` reads them: 1e-3 is a number, and there are no dates.
            lists = [OmegaConf.to_container(OmegaConf.create(f"- {v}")) for _, _, v in pairs]
            return own | {key: v[0] for (key, *_), v in zip(pairs, lists, strict=True)}  # type: ignore[index]
    except (YAMLError, OmegaConfBaseException):
        pass
    raise UserError(f"give {ROWS[name][0]}, not {text!r}")


def cell(
    result: dict[str, Any], first: dict[str, Any], name: str, form: str, has_ratio: bool
) -> str:
    """Return a value as text, "-" where there is none, with its ratio to the first row's."""
    value = result.get(name)
    text = f"{'-' if value is None else format(value, form):>9}"
    if not has_ratio:
        return text
    known = value is not None and first.get(name)
    return f"{text} {f'({value / first[name]:.3f})' if known else '':>7}"
