"""`di4c train`: distils a teacher into a student. Options are in configs/train.yaml."""

import argparse
import functools
import json
import sys
from typing import TYPE_CHECKING

from di4c_plugin.cli.output import write_results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from di4c_plugin.checkpoints.model import Model
    from di4c_plugin.cli.main import Subparsers
    from di4c_plugin.training.compose import RunConfig

EXAMPLE = "di4c train experiment=digits training.steps=500 out=runs/a"


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "train",
        help="distil a teacher",
        description="Distil a teacher. An interrupted run goes on with resume=true.",
    )
    add_overrides(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options that Hydra reads."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options, in any order")


def run(args: argparse.Namespace) -> int:
    """Distil, and print the path of the student; of each phase, where there are some."""
    from di4c_plugin.cli.phases import compose_phases

    config = composed(args.overrides)
    phases, runs = config.info["phases"], [config]
    if phases is not None:
        runs = compose_phases(phases, args.overrides, config.out, composed)
    for each in runs:
        if code := run_one(each):
            return code
    write_results(args, {"files": [str(each.result) for each in runs]})
    return 0


def composed(overrides: "Sequence[str]") -> "RunConfig":
    """Return the run that overrides of `di4c train` describe; raises UserError."""
    from di4c_plugin.training.compose import compose_run

    return compose_run("train", with_latent(overrides))


def run_one(config: "RunConfig") -> int:
    """Distil by the options of one run."""
    from di4c_plugin import api

    info, host = config.info, config.info["host"]
    start = info["student"]
    distil = functools.partial(
        api.distill,
        api.load_teacher(info["teacher"], host=host),
        algo=info["algo"],
        latent=info.get("latent"),
        start=None if start is None else api.load_student(start, host=host),
        training=config.training,
        host=host,
        out=config.out,
        info={"teacher": info["teacher"]} | ({} if start is None else {"start": start}),
        resume=config.resume,
        overwrite=config.overwrite,
    )
    return finished(distil, config.result)


def with_latent(overrides: "Sequence[str]") -> list[str]:
    """Return the overrides with a latent chosen where they set options of it alone.

    It is the recipe's or the host's, as in `api.distill`.
    """
    from di4c_plugin.plugins import lookup
    from di4c_plugin.training.recipes import recipe

    asked = dict(override.partition("=")[::2] for override in overrides)
    chosen = "latent" in asked or "experiment" in asked
    if chosen or not any(name.startswith("latent.") for name in asked):
        return list(overrides)
    host, algo = asked.get("host", "builtin"), asked.get("algo", "di4c")
    own = {"name": lookup("host", host).latent} | dict(recipe(host, algo).latent or {})
    options = [f"++latent.{key}={json.dumps(value)}" for key, value in own.items()]
    return [f"latent={own['name']}", *options, *overrides]


def finished(run: "Callable[[], Model]", path: "Path") -> int:
    """Run, print the path of the result, or what is left after a signal; return the exit code."""
    from di4c_plugin import training

    try:
        run()
    except training.Interrupted as stopped:
        # Of several processes the first one speaks, and Lightning kills it if another one fails.
        if not training.is_first_process():
            return 0
        print(f"di4c: interrupted {stopped}; resume=true goes on", file=sys.stderr)
        return 128 + stopped.signum
    if training.is_first_process():
        print(path)
    return 0
