"""`di4c sample`: draws samples from a teacher or a student."""

import argparse
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "sample",
        help="draw samples from a teacher or a student",
        description="Draw samples and write them as a picture, or as tokens where --out ends in "
        ".npy. For example: di4c sample runs/a/student.safetensors --steps 2",
    )
    add_sampling(parser)
    parser.add_argument("--steps", type=int, default=4, help="network calls a sample; default 4")
    parser.add_argument("--n", type=int, default=64, help="how many; default 64")
    parser.add_argument("--label", type=int, help="class label, for models that take one")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="default samples.png")
    return parser


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add what `di4c sample` and `di4c evaluate` share."""
    parser.add_argument("model", help="path of a model file, or SOURCE:NAME as builtin:digits")
    parser.add_argument("--host", default="builtin", help="default builtin")
    parser.add_argument("--sampler", default="ancestral", help="default ancestral")
    parser.add_argument("--teacher", help="the teacher of --sampler hybrid, as for the model")
    parser.add_argument("--teacher-steps", type=int, help="its share of the steps, the last ones")
    parser.add_argument(
        "--option",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further option of the sampler, such as latents=fixed or last_latents=4",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--batch-size", type=int, default=250, help="samples at once; default 250")
    parser.add_argument("--device", default="cpu", help="default cpu")


def option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is JSON where it can be, else text. Raises UserError."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--option takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `di4c_plugin.sample` that `add_sampling` has read."""
    from di4c_plugin.api import load_teacher, sample

    options = {name: getattr(args, name) for name in ("sampler", "seed", "batch_size", "device")}
    taken = {*inspect.signature(sample).parameters, "teacher", "teacher_steps"}
    for name, value in args.option:
        if name in taken:
            raise UserError(f"--option is for options of the sampler, and {name!r} is none")
        options[name] = value
    if args.teacher is not None:
        options["teacher"] = load_teacher(args.teacher)
    if args.teacher_steps is not None:
        options["teacher_steps"] = args.teacher_steps
    return options


def run(args: argparse.Namespace) -> int:
    """Sample, and print the path of the file."""
    import numpy as np
    import torch

    from di4c_plugin.api import load_teacher, sample
    from di4c_plugin.files import atomic_write
    from di4c_plugin.plugins import lookup

    host = lookup("host", args.host)()
    # Where n is below 1, `sample` says so.
    cond = None if args.label is None else torch.full((max(args.n, 0),), args.label)
    options = sampling_options(args)
    x = sample(load_teacher(args.model), args.n, steps=args.steps, cond=cond, **options)
    if args.out.suffix == ".npy":
        with atomic_write(args.out) as temporary:
            np.save(temporary, x.numpy())
    else:
        host.picture(x, args.out)
    print(args.out)
    return 0
