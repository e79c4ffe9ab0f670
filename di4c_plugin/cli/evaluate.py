"""`di4c evaluate`: measures samples of a model against the host's data, over numbers of steps."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.sampling import (
    add_sampling,
    cycled,
    host_of,
    labels,
    load,
    sampling_options,
)
from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.api import LoadedModel
    from di4c_plugin.cli.main import Subparsers
    from di4c_plugin.hosts import OpenHost

# Labels and noise come from different streams of random numbers.
LABEL_STREAM = 0x1ABE1


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
    parser.add_argument(
        "--labels",
        metavar="WHICH",
        help="for models that take class labels: data (as often as there, the default), uniform, "
        "none, or numbers separated by commas",
    )
    parser.add_argument(
        "--metric", default="fd", help="fd: on tokens; fid: FID and IS of pictures; default fd"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    _add_pictures(parser)
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference",
        metavar="FOLDER",
        help="fid: the pictures to compare with; default: the host's data, as the host draws "
        "them, so that codes are decoded and not the original pictures",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE.npz",
        help="fid: statistics of the reference, read if the file is there, else written",
    )
    parser.add_argument(
        "--inception",
        type=Path,
        metavar="PATH",
        help="fid: weights of the feature extractor; default: where torch-fidelity keeps them",
    )


def numbers(text: str) -> list[int]:
    """Read numbers from 1 separated by commas; raises UserError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UserError(f"--steps takes numbers from 1 separated by commas, not {text!r}")
    return [int(part) for part in parts]


def run(args: argparse.Namespace) -> int:
    """Measure, and print a line for each number of steps, after lines with # that say of what."""
    from di4c_plugin.api import sample
    from di4c_plugin.cli.judging import make_judge
    from di4c_plugin.evaluation.report import write_json
    from di4c_plugin.evaluation.sweep import timed

    model = load(args, args.model)
    host, options = host_of(args, model), sampling_options(args, model)
    cond, notes = choose_labels(args, host, model)
    judge = make_judge(args, host, model)
    notes |= judge.notes
    values: dict[str, dict[str, float]] = {name: {} for name in judge.columns}
    _print_header(notes, judge.columns)
    for steps in args.steps:
        draw = partial(sample, model, args.samples, cond=cond, **options)
        x, seconds = timed(draw, steps)
        found = judge.values(x)
        for name in judge.columns:
            values[name][str(steps)] = found[name]
        cells = [f"{found[name]:.2f}" for name in judge.columns]
        print(*[steps, *cells, f"{seconds * 1e3:.2f}"], sep="\t", flush=True)
    if args.json:
        write_json(args.json, _shown(args) | notes | values)
    return 0


def _print_header(notes: dict[str, str], columns: tuple[str, ...]) -> None:
    for name, note in notes.items():
        print(f"# {name}: {note}")
    print("steps", *columns, "ms/sample", sep="\t", flush=True)


def _shown(args: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "sampler", "teacher", "teacher_steps", "guidance_teacher", "seed", "samples")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return given | {"options": dict(args.option)}


def choose_labels(
    args: argparse.Namespace, host: "OpenHost", model: "LoadedModel"
) -> "tuple[Tensor | None, dict[str, str]]":
    """Return labels (samples,) or None for none, and a note that says which."""
    import torch

    classes, n = model.network.num_classes, max(args.samples, 0)
    if not classes:
        if args.labels is not None:
            raise UserError("this model takes no class labels")
        return None, {}
    generator = torch.Generator().manual_seed(args.seed % 2**63 ^ LABEL_STREAM)
    if args.labels == "none":
        return None, {"labels": "none"}
    if args.labels == "uniform":
        return torch.randint(classes, (n,), generator=generator), {"labels": "uniform"}
    if args.labels not in (None, "data"):
        return cycled(labels(args.labels), n), {"labels": args.labels}
    known = host.data().labels
    if known is None:
        raise UserError("the host's data have no class labels: --labels uniform, none or K,K,…")
    rows = torch.randint(len(known), (n,), generator=generator)
    return known[rows].long(), {"labels": "drawn from the data's"}
