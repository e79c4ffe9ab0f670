"""`di4c train`: distils a teacher into a student. Options are in configs/train.yaml."""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from di4c_plugin.cli.output import write_results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from di4c_plugin.checkpoints.model import Model
    from di4c_plugin.training.compose import RunConfig

HELP = "distil a teacher"
DESCRIPTION = "Distil a teacher. An interrupted run goes on with resume=true."
EXAMPLE = "di4c train experiment=digits training.steps=500 out=runs/a"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options, in any order")


def run(args: argparse.Namespace) -> int:
    """Distil, and print the path of the student; of each phase, where there are some."""
    from di4c_plugin.cli.phases import check_models, compose_phases

    config = composed(args.overrides)
    phases, runs = config.info["phases"], [config]
    if phases is not None:
        runs = compose_phases(phases, args.overrides, config.out, composed)
        check_models(runs)
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
    """Distil by the options of one run; return the exit code."""
    from di4c_plugin import api

    info, host, start = config.info, config.info["host"], config.info["student"]
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
    """Return the overrides, with a latent chosen where they set its options without naming one.

    It is the recipe's, else the host's, as in `api.distill`.
    """
    from di4c_plugin.plugins import lookup
    from di4c_plugin.training.recipes import recipe

    typed = dict(override.partition("=")[::2] for override in overrides)
    is_chosen = "latent" in typed or "experiment" in typed
    if is_chosen or not any(name.startswith("latent.") for name in typed):
        return list(overrides)
    host, algo = typed.get("host", "builtin"), typed.get("algo", "di4c")
    latent = {"name": lookup("host", host).latent} | dict(recipe(host, algo).latent or {})
    options = [f"++latent.{key}={json.dumps(value)}" for key, value in latent.items()]
    return [f"latent={latent['name']}", *options, *overrides]


def finished(run: "Callable[[], Model]", path: Path) -> int:
    """Run, and print the path of the result, or where a signal stopped it; return the exit code."""
    from di4c_plugin.training.interrupt import Interrupted
    from di4c_plugin.training.trainer import is_first_process

    try:
        run()
    except Interrupted as stopped:
        # Lightning kills the first of several processes if another one fails.
        if not is_first_process():
            return 0
        print(f"di4c: interrupted {stopped}; resume=true goes on", file=sys.stderr)
        return 128 + stopped.signum
    if is_first_process():
        print(path)
    return 0
