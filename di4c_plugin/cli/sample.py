"""`di4c sample`: draws samples from a teacher or a student."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from di4c_plugin.cli.output import write_results
from di4c_plugin.cli.prompts import TEXTS, add_prompts, drawn_tokens, prompt_options, write_texts
from di4c_plugin.cli.sampling import (
    add_sampling,
    cycled,
    denoisers,
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

    from di4c_plugin.hosts import OpenHost

HELP = "draw samples from a teacher or a student"
DESCRIPTION = "Draw samples and write them as a picture, tokens or texts."
EXAMPLE = "di4c sample runs/a/student.safetensors --steps 2 --animate digits.gif"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
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


def run(args: argparse.Namespace) -> int:
    """Sample, and print the paths of the files, or the texts of prompts."""
    import torch

    from di4c_plugin.announce import announce
    from di4c_plugin.api import sample
    from di4c_plugin.evaluation.animation import Recorder
    from di4c_plugin.evaluation.shards import counted
    from di4c_plugin.options import parameters
    from di4c_plugin.samplers import sampler_named

    out = _checked_out(args)
    _check_animation(args)
    model = load(args, args.model)
    host = host_of(args, model)
    options = sampling_options(args, model)
    n, prompts = prompt_options(args, host)
    if prompts and "eos" in (parameters(sampler_named(options["sampler"])) or {}):
        options.setdefault("eos", host.end())
    if args.animate is not None or _needs_pictures(host, out):
        picture_size(host, model)
    if out is not None and Path(out).suffix in TEXTS:
        host.texts(torch.empty(0, model.network.positions, dtype=torch.long))
    recorder = Recorder()
    if args.animate is not None:
        options |= {"on_step": recorder.on_step, "on_batch": recorder.on_batch}
    wanted = args.labels if args.label is None else [args.label]
    cond = None if wanted is None else cycled(wanted, n)
    steps = model.sampling.get("steps", 4) if args.steps is None else args.steps
    with counted(denoisers(model, options)) as rows:
        x = sample(model, n, steps=steps, cond=cond, **prompts, **options)
    if prompts:
        drawn = drawn_tokens(x, prompts["prompts"], options.get("eos"))
        announce(f"{drawn / max(rows[0], 1):.2f} tokens per forward pass")
    if out is None:
        print(*host.texts(x), sep="\n")
    else:
        _write(host, x, out)
    if args.animate is not None:
        _animate(host, recorder.states(), args.animate)
    files = [str(path) for path in (out, args.animate) if path is not None]
    print(*files, sep="\n", end="\n" if files else "")
    write_results(args, {"files": files})
    return 0


def _checked_out(args: argparse.Namespace) -> str | None:
    """Return --out, or its default; a folder of pictures ends with "/"; None: print texts.

    Raises:
        UserError: if it cannot be written, or would replace something.
    """
    from di4c_plugin.evaluation.pictures import check_empty, check_png
    from di4c_plugin.files import free_name, new_file

    if args.out is None and (args.prompt, args.prompts) != (None, None):
        return None
    path = free_name(Path("samples.png")) if args.out is None else user_path(args.out)
    if args.out is not None and args.out.endswith("/"):
        check_empty(path)
        new_file(path / "0.png")
        return f"{path}/"
    if path.suffix not in (".npy", *TEXTS):
        check_png(path)
    read = (args.model, args.prompts, args.teacher, args.guidance_teacher)
    if path.resolve() in {user_path(source).resolve() for source in read if source is not None}:
        raise UserError(f"--out {path} is what this command reads")
    return str(new_file(path, overwrite=args.overwrite))


def _check_animation(args: argparse.Namespace) -> None:
    from di4c_plugin.evaluation.animation import check_animation
    from di4c_plugin.files import new_file

    if args.animate is None:
        return
    check_animation(args.animate)
    new_file(args.animate, overwrite=args.overwrite)


def _needs_pictures(host: "OpenHost", out: str | None) -> bool:
    """Return whether `out` is made from `HostData.images`; some hosts draw a grid otherwise."""
    from di4c_plugin.hosts import HostData

    if out is None or out.endswith("/"):
        return out is not None
    is_grid = Path(out).suffix not in (".npy", *TEXTS)
    return is_grid and type(host.pictures).picture is HostData.picture


def _write(host: "OpenHost", x: "Tensor", out: str) -> None:
    """Write samples x (n, D) to a file by its suffix, or single pictures to a folder."""
    import numpy as np

    from di4c_plugin.evaluation.pictures import write_pictures
    from di4c_plugin.files import atomic_write

    path = Path(out)
    if out.endswith("/"):
        write_pictures(picture_batches(host, x), path)
    elif path.suffix in TEXTS:
        write_texts(host.texts(x), path)
    elif path.suffix == ".npy":
        with atomic_write(path) as temporary:
            np.save(temporary, x.numpy())
    else:
        host.picture(x, path)


def _animate(host: "OpenHost", states: "list[Tensor]", path: Path) -> None:
    """Write the pictures of states (n, D) after each step."""
    import torch

    from di4c_plugin.evaluation.animation import write_animation

    write_animation([torch.cat([*picture_batches(host, x)]) for x in states], path)
