"""`di4c bench`: memory and time of the loss, of an update and of a network call."""

import argparse
from dataclasses import asdict, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from di4c_plugin.bench.cases import CASES, DTYPES
from di4c_plugin.cli.arguments import add_output
from di4c_plugin.cli.output import write_results
from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from di4c_plugin.bench.cases import Case
    from di4c_plugin.cli.main import Subparsers

WHAT = {
    "loss": "the loss of Di4C on one sequence, from hidden states to gradients",
    "update": "an update of all networks of a method",
    "sample": "a network call of a student beside one of its teacher",
}
# Options that may be given several times: a row of the table for each combination.
ROWS = {
    "impl": ("naive, checkpoint or chunked", ["naive", "checkpoint", "chunked"]),
    "algo": ("a method with options, such as di4c,loss=naive,latents=8", ["di4c"]),
    "latent": ("a latent with options, such as adaln,blocks=4", None),
    "adapter": ("an adapter for each network, such as r=16,alpha=32, or none", None),
}
HELP = {
    "teacher": "file, folder or hub id; without it a DiT of the sizes below",
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
    "repeats": "medians are told",
    "seed": "of inputs and weights",
}
TYPES: dict[str, Any] = {"teacher": str, "masked": float, "device": str}
# Title, name and format of what was measured; the last says whether a share of the first row's
# follows.
COLUMNS = {
    "loss": [("peak MB", "peak_mb", ".1f", True), ("seconds", "seconds", ".3f", True)],
    "update": [
        ("peak MB", "peak_mb", ".1f", True),
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
    "update": "peak: above weights, gradients and optimiser state; total: with them",
    "sample": "ratio: student to teacher, median of pairs; +-: half the distance of the quartiles",
}

EXAMPLES = {
    "loss": "di4c bench loss --vocab 50258 --impl chunked --impl naive",
    "update": "di4c bench update --teacher teacher.ckpt --algo di4c --algo di4c,loss=naive",
    "sample": "di4c bench sample --teacher teacher.ckpt --latent token --latent adaln",
}
EXAMPLE = EXAMPLES["update"]


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "bench",
        help="measure memory and time",
        description="Measure, each row of the table in its own process.",
    )
    parser.set_defaults(kind="")
    kinds = parser.add_subparsers(metavar="what", required=True)
    for kind, text in WHAT.items():
        one = kinds.add_parser(kind, help=text, description=f"Measure {text}.")
        one.set_defaults(kind=kind, parser=one)
        one.epilog = f"Example:\n  {EXAMPLES[kind]}"
        add_options(one, kind)
        add_output(one, results=True)
    return parser


def add_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add an option for each field of the case, and those of the output."""
    case = CASES[kind]()
    for name, (text, _) in ROWS.items():
        if hasattr(case, name):
            parser.add_argument(option(name), action="append", help=f"{text}; may be repeated")
    for name, text in HELP.items():
        if hasattr(case, name):
            value = getattr(case, name)
            told = text if value is None else f"{text}; default {value}"
            parser.add_argument(option(name), type=TYPES.get(name, int), default=value, help=told)
    parser.add_argument("--dtype", choices=DTYPES, default=case.dtype, help="default float32")


def option(name: str) -> str:
    """Return the option of a field."""
    return f"--{name.replace('_', '-')}"


def run(args: argparse.Namespace) -> int:
    """Measure, print a line for each case, and write what is there after each."""
    cases = make_cases(args)
    from di4c_plugin.bench.run import machine, run_case

    columns = COLUMNS[args.kind]
    width = max(len(label) for label in cases)
    titles = [f"{title:>9}" + " (ratio)" * share for title, _, _, share in columns]
    print(f"{args.kind:<{width}}", *titles, flush=True)
    results: list[dict[str, Any]] = []
    for label, case in cases.items():
        found = run_case(case)
        results.append({"row": label} | asdict(case) | found)
        cells = [cell(found, results[0], *column[1:]) for column in columns]
        note = "out of memory" if "out_of_memory" in found else ""
        print(f"{label:<{width}}", *(cells if not note else [note]), flush=True)
        write_results(args, {"what": args.kind, "machine": machine(case), "results": results})
    print(LEGEND[args.kind])
    return 0


def make_cases(args: argparse.Namespace) -> dict[str, "Case"]:
    """Return a case for each row of the table, by its label.

    Raises:
        UserError: for a value out of range, and options that are none.
    """
    kind = CASES[args.kind]
    fixed = {k: v for k, v in vars(args).items() if k in (*HELP, "dtype") and hasattr(kind(), k)}
    base = kind(**fixed)
    names = [name for name in ROWS if hasattr(base, name)]
    values = [getattr(args, name) or ROWS[name][1] or [None] for name in names]
    cases = {}
    for row in product(*values):
        label = "  ".join(text for text in row if text) or "default"
        own: dict[str, Any] = dict(zip(names, row, strict=True))
        readers: dict[str, Any] = {"impl": str, "adapter": adapter}
        own |= {name: readers.get(name, spec)(own[name]) for name in own}
        cases[label] = replace(base, **own)
    return cases


def spec(text: str | None) -> dict[str, Any] | None:
    """Return {"name": ..., **options} of "name,key=value,..."; values are read as YAML.

    Raises:
        UserError: where there is no such thing.
    """
    if text is None:
        return None
    import yaml

    name, *pairs = text.split(",")
    if not name or not all("=" in pair for pair in pairs):
        raise UserError(f"give a name and options, such as di4c,loss=naive, not {text!r}")
    options = dict(pair.split("=", 1) for pair in pairs)
    return {"name": name} | {key: yaml.safe_load(value) for key, value in options.items()}


def adapter(text: str | None) -> dict[str, Any] | None:
    """Return {key: value, ...} of "key=value,..."; None of "none"; errors as `spec`."""
    if text in (None, "none"):
        return None
    options: dict[str, Any] = spec(f"adapter,{text}") or {}
    return {key: value for key, value in options.items() if key != "name"}


def cell(found: dict[str, Any], first: dict[str, Any], name: str, form: str, share: bool) -> str:
    """Return a measured value, with its share of the first row's."""
    value = found.get(name)
    text = f"{'-' if value is None else format(value, form):>9}"
    if not share:
        return text
    known = value is not None and first.get(name)
    return f"{text} {f'({value / first[name]:.3f})' if known else '':>7}"
