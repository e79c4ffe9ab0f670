"""`di4c evaluate`: measures samples of a model against the host's data, over numbers of steps."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from di4c_plugin.cli.sample import add_sampling, sampling_options
from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model over numbers of steps",
        description="Draw samples at each number of steps and compare them with the host's data. "
        "For example: di4c evaluate runs/a/student.safetensors --steps 1,2,4",
    )
    add_sampling(parser)
    parser.add_argument("--steps", type=numbers, default="1,2,4,8,16", help="default 1,2,4,8,16")
    parser.add_argument("--samples", type=int, default=10_000, help="default 10000")
    parser.add_argument("--metric", default="fd", help="default fd")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    return parser


def numbers(text: str) -> list[int]:
    """Read numbers from 1 separated by commas; raises UserError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UserError(f"--steps takes numbers from 1 separated by commas, not {text!r}")
    return [int(part) for part in parts]


def run(args: argparse.Namespace) -> int:
    """Measure, and print a line for each number of steps."""
    from di4c_plugin.api import load_teacher, sample
    from di4c_plugin.evaluation.report import write_json
    from di4c_plugin.evaluation.sweep import measure
    from di4c_plugin.plugins import lookup

    metric, reference = lookup("metric", args.metric), lookup("host", args.host)().data().x_0
    model, options = load_teacher(args.model), sampling_options(args)
    values: dict[str, float] = {}
    print(f"steps\t{args.metric}\tms/sample")
    for steps in args.steps:
        draw = partial(sample, model, args.samples, **options)
        cell = measure(args.sampler, steps, draw, reference, metric)
        values[str(steps)] = cell.value
        print(f"{steps}\t{cell.value:.2f}\t{cell.seconds * 1e3:.2f}", flush=True)
    if args.json:
        shown = {"model": args.model, "sampler": args.sampler, "seed": args.seed}
        write_json(args.json, shown | {"samples": args.samples, args.metric: values})
    return 0
