"""What `di4c sample` and `di4c evaluate` share: which model, which sampler, whose pictures."""

import argparse
import inspect
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError
from di4c_plugin.programs.images.program import pair_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from di4c_plugin.api import LoadedModel
    from di4c_plugin.hosts import OpenHost

# Names that `--option` may not have: what samplers are called with, and options of their own.
GIVEN = {"denoiser", "x", "times", "process", "generator", "callback"}
NETWORKS = ("teacher", "guidance_teacher")  # further models among the options
FLAGS = {*NETWORKS, "teacher_steps"}
PICTURES_AT_ONCE = 64


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the shared options."""
    parser.add_argument("--host", help="whose model, data and pictures; default: the model tells")
    _add_pairs(parser, "--host-option", "an option of the host, such as data=codes.npz")
    parser.add_argument(
        "--sampler", help="default: that of the method that made the model, else ancestral"
    )
    parser.add_argument("--teacher", help="the teacher of --sampler hybrid, as for the model")
    parser.add_argument("--teacher-steps", type=int, help="its share of the steps, the last ones")
    parser.add_argument(
        "--guidance-teacher",
        metavar="MODEL",
        help="who predicts without a class, as for the model, where --option guidance=WEIGHT",
    )
    _add_pairs(
        parser, "--option", "a further option of the sampler, such as guidance=2 or last_latents=4"
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--batch-size", type=int, default=250, help="samples at once; default 250")
    parser.add_argument("--device", default="cpu", help="default cpu")


def _add_pairs(parser: argparse.ArgumentParser, flag: str, meaning: str) -> None:
    parser.add_argument(
        flag,
        type=lambda text: pair_of(text, flag),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=meaning,
    )


def load(args: argparse.Namespace, source: str) -> "LoadedModel":
    """Return the model that `source` names, read by --host, or by the host that its file names.

    Raises:
        UserError: as `load_teacher`.
    """
    from di4c_plugin.api import load_teacher
    from di4c_plugin.checkpoints.schemes import has_scheme

    host = ({"name": args.host} if args.host else {}) | dict(args.host_option)
    if has_scheme(source) and not args.host:  # the options are for its data: `host_of`
        host = {}
    return load_teacher(source, host=host or None)


def host_of(args: argparse.Namespace, model: "LoadedModel") -> "OpenHost":
    """Return the host of the model; its errors name options as they are typed here.

    Raises:
        UserError: as `host_for`.
    """
    from di4c_plugin.hosts import host_for

    host = host_for(model, args.host, **dict(args.host_option))
    host.typed = "--host-option "
    return host


def sampling_options(args: argparse.Namespace, model: "LoadedModel") -> dict[str, Any]:
    """Return the keyword arguments of `di4c_plugin.sample` that `add_sampling` has read.

    Further models are read by the host of the first, so that what it knows need not be said again.

    Raises:
        UserError: for an --option or --sweep that is none of the sampler's, a --guidance-teacher
            without guidance, an unknown sampler, and as `load_teacher`.
    """
    from di4c_plugin.api import sample
    from di4c_plugin.samplers import as_method

    options = {name: getattr(args, name) for name in ("seed", "batch_size", "device")}
    options["sampler"] = as_method(model, 1, args.sampler, {})[1]
    reserved = {*inspect.signature(sample).parameters, *GIVEN, *FLAGS}
    typed = [("--option", name) for name, _ in args.option]
    if getattr(args, "sweep", None) is not None:  # of `di4c evaluate` only
        typed.append(("--sweep", args.sweep[0]))
    for option, name in typed:
        if name in reserved:
            raise UserError(f"{option} is for options of the sampler, and {name!r} is none")
    options |= dict(args.option)
    guided = options.get("guidance") or ("--sweep", "guidance") in typed
    if args.guidance_teacher is not None and not guided:
        raise UserError("--guidance-teacher is for guidance: add --option guidance=WEIGHT")
    for name in NETWORKS:
        if getattr(args, name) is not None:
            options[name] = host_of(args, model).load_teacher(getattr(args, name))
    if args.teacher_steps is not None:
        options["teacher_steps"] = args.teacher_steps
    return options


def denoisers(model: "LoadedModel", options: "Mapping[str, Any]") -> "set[nn.Module]":
    """Return the networks that `di4c_plugin.sample` calls, given `sampling_options`."""
    models = [model, *(options[name] for name in NETWORKS if name in options)]
    return {each.denoiser for each in models}


def labels(text: str) -> list[int]:
    """Read class labels separated by commas, -1 for none; raises UserError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"labels are numbers separated by commas, not {text!r}") from None


def cycled(wanted: list[int], n: int) -> "Tensor":
    """Return labels (n,), those wanted over and over; (0,) for n below 1, which `sample` refuses.

    Raises:
        UserError: for numbers that no int64 holds.
    """
    import torch

    for label in wanted:
        if not -(2**63) <= label < 2**63:
            raise UserError(f"class labels are small whole numbers, not {label}")
    n = max(n, 0)
    return torch.tensor(wanted).repeat(n // len(wanted) + 1)[:n]


def picture_batches(host: "OpenHost", x: "Tensor") -> "Iterator[Tensor]":
    """Yield pictures (B, C, H, W), uint8, of samples x (n, D) of any integer type."""
    return (host.images(part.long()) for part in x.split(PICTURES_AT_ONCE))


def picture_size(host: "OpenHost", model: "LoadedModel") -> tuple[int, int, int]:
    """Return (C, H, W) of the pictures of a model's samples.

    Raises:
        UserError: if they are no pictures; so before anything is drawn.
    """
    import torch

    shape = host.images(torch.zeros(1, model.network.positions, dtype=torch.long)).shape
    channels, height, width = shape[1:]
    return channels, height, width
