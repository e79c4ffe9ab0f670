"""`di4c train-teacher`: trains a product model, a new one or one further."""

import argparse
import functools
import re
from collections.abc import Mapping

from di4c_plugin.cli.output import write_results
from di4c_plugin.cli.train import add_arguments as add_arguments
from di4c_plugin.cli.train import finished

HELP = "train a teacher"
DESCRIPTION = (
    "Train a teacher from scratch, or go on from one (start=FILE). An interrupted "
    "run goes on with resume=true."
)
EXAMPLE = "di4c train-teacher training.steps=2000 out=runs/teacher"


def run(args: argparse.Namespace) -> int:
    """Train, and print the path of the teacher; the exit code is that of `finished`."""
    import torch

    from di4c_plugin.errors import UserError
    from di4c_plugin.plugins import make
    from di4c_plugin.training.build import make_algorithm
    from di4c_plugin.training.compose import compose_run
    from di4c_plugin.training.folder import TEACHER
    from di4c_plugin.training.run import train

    config = compose_run("train_teacher", args.overrides)
    for group in ("algo", "host", "process", "network"):
        if group not in config.info:
            raise UserError(f"{group}= has no value")
    host = make("host", config.info["host"])
    torch.manual_seed(config.training.seed)
    start, sizes = config.info["start"], config.info["network"]
    if not isinstance(sizes, Mapping):
        raise UserError(f"network is sizes by name, such as network.hidden_size=96, not {sizes!r}")
    if start is None:
        model = host.new_teacher(config.info["process"], **sizes)
    else:
        named = (o.lstrip("+~").partition("=")[0] for o in args.overrides)
        if fixed := [name for name in named if re.match(r"(process|network)\b", name)]:
            raise UserError(f"{fixed[0]} is as in {start}: leave it out, or train from scratch")
        model = host.load_teacher(start)
        if model.is_student:
            raise UserError(f"{start} is a student: start from a teacher")
    algorithm = make_algorithm(config.info["algo"], model.process)
    if algorithm.needs_teacher:
        raise UserError(f"algo={config.info['algo']['name']} needs a teacher: use di4c train")
    fit = functools.partial(
        train,
        algorithm,
        model,
        None,
        host.data(),
        config.training,
        config.out,
        info=config.info,
        inputs=[] if start is None else [start],
        resume=config.resume,
        overwrite=config.overwrite,
    )
    path = config.out / TEACHER
    code = finished(fit, path)
    if code == 0:
        write_results(args, {"files": [str(path)]})
    return code
