"""`di4c train`: distils a teacher into a student. Options are in configs/train.yaml."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from di4c_plugin.algorithms.base import Algorithm, Data
    from di4c_plugin.cli.main import Subparsers
    from di4c_plugin.models import Model
    from di4c_plugin.training.compose import RunConfig


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "train",
        help="distil a teacher",
        description="Distil a teacher, for example: di4c train latent=token training.steps=500 "
        "out=runs/a. An interrupted run goes on with resume=true.",
    )
    add_overrides(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options that Hydra reads."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options, in any order")


def run(args: argparse.Namespace) -> int:
    """Distil, and print the path of the student."""
    from di4c_plugin.api import new_student
    from di4c_plugin.errors import UserError
    from di4c_plugin.plugins import make
    from di4c_plugin.training import make_algorithm
    from di4c_plugin.training.compose import compose_run

    config = compose_run("train", [*host_latent(args.overrides), *args.overrides])
    host = make("host", config.info["host"])
    teacher = host.load_teacher(config.info["teacher"])
    algorithm = make_algorithm(config.info["algo"], teacher.process)
    if not algorithm.makes_mixture:
        if any(override.startswith("latent") for override in args.overrides):
            raise UserError("this algo makes no mixture: leave out latent")
        config.info["latent"] = None
    host.adopt(teacher)
    latent, seed = config.info["latent"], config.training.seed
    student = teacher if latent is None else new_student(host, teacher, latent, seed)
    return train(config, algorithm, student, teacher, host.data())


def host_latent(overrides: Sequence[str]) -> list[str]:
    """Return "latent=…" where the host asked for has one of its own and nobody chose another."""
    from di4c_plugin.plugins import lookup

    asked = dict(override.split("=", 1) for override in overrides if "=" in override)
    if "host" not in asked or "latent" in asked or "experiment" in asked:
        return []
    return [f"latent={lookup('host', asked['host']).latent}"]


def train(
    config: "RunConfig",
    algorithm: "Algorithm",
    student: "Model",
    teacher: "Model | None",
    data: "Data",
) -> int:
    """Train, print the path of the result, or what is left after a signal; return the exit code."""
    from di4c_plugin import training

    try:
        training.train(
            algorithm,
            student,
            teacher,
            data,
            config.training,
            config.out,
            info=config.info,
            resume=config.resume,
            overwrite=config.overwrite,
        )
    except training.Interrupted as stopped:
        # Of several processes the first one speaks, and Lightning kills it if another one fails.
        if not training.is_first_process():
            return 0
        print(f"di4c: interrupted {stopped}; resume=true goes on", file=sys.stderr)
        return 128 + stopped.signum
    if training.is_first_process():
        print(training.model_file(config.out, algorithm))
    return 0
