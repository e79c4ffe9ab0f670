"""`di4c sample`: draws samples from a teacher or a student."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from di4c_plugin.cli.output import write_results
from di4c_plugin.cli.prompts import TEXTS, Passes, add_prompts, prompt_options, write_texts
from di4c_plugin.cli.sampling import (
    add_sampling,
    cycled,
    host_of,
    labels,
    load,
    picture_batches,
    picture_size,
    sampling_options,
)
from di4c_plugin.errors import UserError
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.cli.main import Subparsers
    from di4c_plugin.evaluation.animation import Recorder
    from di4c_plugin.hosts import OpenHost

EXAMPLE = "di4c sample runs/a/student.safetensors --steps 2 --animate digits.gif"


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "sample",
        help="draw samples from a teacher or a student",
        description="Draw samples and write them as a picture, tokens or texts.",
    )
    parser.add_argument("model", help="path of a model file, or SOURCE:NAME as builtin:digits")
    add_sampling(parser)
    parser.add_argument(
        "--steps",
        type=int,
        help="network calls a sample; default: those that the model was made for, else 4",
    )
    parser.add_argument("--n", type=int, help="how many; default 64, or one for each prompt")
    add_prompts(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--label", type=int, help="class label, for models that take one")
    which.add_argument("--labels", type=labels, metavar="K,K,…", help="class labels, in turn")
    parser.add_argument(
        "--out",
        help="a grid as PNG; with / at the end a folder of single pictures; tokens where it ends "
        "in .npy, texts in .txt or .jsonl; default samples.png, or samples-1.png and so on if it "
        "is there; texts of prompts are printed",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files named")
    parser.add_argument(
        "--animate",
        type=user_path,
        metavar="FILE",
        help="the states after each step, as GIF or WebP",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Sample, and print the paths of the files."""
    from di4c_plugin.announce import announce
    from di4c_plugin.api import sample
    from di4c_plugin.evaluation.animation import Recorder, check_animation
    from di4c_plugin.files import new_file, user_path

    printed = args.out is None and not (args.prompt is None and args.prompts is None)
    single = not printed and _check_out(args)
    if args.animate is not None:
        check_animation(args.animate)
        args.animate = new_file(args.animate, overwrite=args.overwrite)
        if not printed and user_path(args.out) == args.animate:
            raise UserError(f"--out and --animate are both {args.animate}")
    model = load(args, args.model)
    host = host_of(args, model)
    options = sampling_options(args, model)
    if single or args.animate is not None:
        picture_size(host, model)
    recorder, passes = Recorder(), Passes()
    prompts = prompt_options(args, host)
    args.n = 64 if args.n is None else args.n
    if args.animate is not None:
        options |= {"on_step": recorder.on_step, "on_batch": recorder.on_batch}
    elif prompts:
        options["on_step"] = passes.on_step
    steps = model.sampling.get("steps", 4) if args.steps is None else args.steps
    x = sample(model, args.n, steps=steps, cond=_cond(args), **prompts, **options)
    if prompts:
        new = x.shape[1] - max(map(len, prompts["prompts"]))
        announce(passes.told(new, -(-args.n // args.batch_size)))
    if printed or Path(args.out).suffix in TEXTS:
        write_texts(host, x, None if printed else Path(args.out))
    else:
        _write(args, host, x)
    if args.animate is not None:
        _animate(host, recorder, args.animate)
    files = [*([] if printed else [args.out]), *([args.animate] if args.animate else [])]
    write_results(args, {"files": [str(path) for path in files]})
    return 0


def _check_out(args: argparse.Namespace) -> bool:
    """Choose or check --out; tell whether it is a folder of single pictures."""
    from di4c_plugin.evaluation.pictures import check_empty, check_png
    from di4c_plugin.files import free_name, new_file, place, user_path

    if args.out is None:
        args.out = str(free_name(Path("samples.png")))
    single = args.out.endswith("/")
    path = user_path(args.out)
    if single:
        check_empty(path)
        new_file(path / "0.png")
    else:
        if path.suffix not in (".npy", *TEXTS):
            check_png(path)
        new_file(path, overwrite=args.overwrite)
    read = (args.model, args.prompts, args.teacher, args.guidance_teacher)
    if any(place(path) == place(source) for source in read if source is not None):
        raise UserError(f"--out {path} is what this command reads")
    args.out = f"{path}/" if single else str(path)
    return single


def _cond(args: argparse.Namespace) -> "Tensor | None":
    wanted = args.labels if args.label is None else [args.label]
    return None if wanted is None else cycled(wanted, args.n)


def _write(args: argparse.Namespace, host: "OpenHost", x: "Tensor") -> None:
    import numpy as np

    from di4c_plugin.evaluation.pictures import write_pictures
    from di4c_plugin.files import atomic_write

    path = Path(args.out)
    if args.out.endswith("/"):
        write_pictures(picture_batches(host, x), path)
    elif path.suffix == ".npy":
        with atomic_write(path) as temporary:
            np.save(temporary, x.numpy())
    else:
        host.picture(x, path)
    print(args.out)


def _animate(host: "OpenHost", recorder: "Recorder", path: Path) -> None:
    import torch

    from di4c_plugin.evaluation.animation import write_animation

    states = recorder.states()
    write_animation([torch.cat([*picture_batches(host, x)]) for x in states], path)
    print(path)
