"""Our samplers over codes, as MaskGIT and Halton-MaskGIT ask their own."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process, build_process
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridDenoiser
from di4c_plugin.programs.images.swap import Autocast, Ours, device_of

# The hosts' words for schedules, by the revealed share at r = 1 - t; see `di4c_plugin.diffusion`.
SCHEDULES = {
    "root": "root",
    "linear": "loglinear",
    "square": "square",
    "cosine": "duo_cosine",
    "arccos": "arccos",
}
# What a process keeps when it gets another schedule.
KEPT = ("name", "num_tokens", "mask", "grid", "randomize", "temperature")


@dataclass(frozen=True)
class Asked:
    """What a host asks of its sampler.

    Attributes:
        count: how many samples.
        steps: network calls a sample.
        mask: the host's token for "unknown".
        options: of our samplers, by the host's flags.
        schedule: a word of the host's, see `SCHEDULES`.
        softmax: factor of the logits in each step.
        codes: (count, h, w) or (count, D), the mask where unknown; None: all unknown.
        labels: (count,); None: random ones.
    """

    count: int
    steps: int
    mask: int
    options: Mapping[str, Any]
    schedule: str = "arccos"
    softmax: Sequence[float] = (1.0,)
    codes: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class Codes:
    """Samples and how they came about, (count, h, w) each.

    Attributes:
        x: codes.
        predicted: after each step, what is known, and the likeliest code where nothing is.
        masked: after each step, where nothing is known.
    """

    x: Tensor
    predicted: list[Tensor]
    masked: list[Tensor]


def draw_codes(
    ours: Ours,
    own: GridDenoiser,
    asked: Asked,
    *,
    autocast: Autocast = nullcontext,
    verbose: bool = False,
) -> Codes:
    """Return samples by our sampler.

    Raises:
        UserError: for labels, codes or a mask that the network has not, an unknown schedule, and as
            the sampler.
    """
    x, labels = start_of(own, asked), labels_of(own, asked)
    found: Any = ours.denoiser(own)
    process = scheduled(found.process, asked.schedule, asked.options.get("temperature"))
    trace = ours.run(
        own,
        x,
        process=process,
        steps=asked.steps,
        defaults=asked.options,
        cond=labels,
        softmax=asked.softmax,
        autocast=autocast,
        verbose=verbose,
    )
    shape = (asked.count, own.side, own.side)
    masked = [state == own.codes for state in trace.after]
    shown = zip(masked, trace.predicted, trace.after, strict=True)
    predicted = [guess.where(unknown, state) for unknown, guess, state in shown]
    return Codes(
        trace.x.view(shape), [p.view(shape) for p in predicted], [m.view(shape) for m in masked]
    )


def start_of(own: GridDenoiser, asked: Asked) -> Tensor:
    """Return what is known at first, (count, D), on the device of the network."""
    if asked.mask != own.codes:
        raise UserError(
            f"the mask is {asked.mask} here: our samplers need {own.codes}, behind the "
            f"{own.codes} codes"
        )
    device, shape = device_of(own), (asked.count, own.side**2)
    if asked.codes is None:
        return torch.full(shape, own.codes, device=device)
    x = asked.codes.flatten(1).long().to(device, copy=True)
    if x.shape != shape:
        size = " x ".join(map(str, asked.codes.shape))
        raise UserError(f"the codes to start from are {size}, for {shape[0]} x {shape[1]}")
    own.check(x.cpu(), None)
    return x


def labels_of(own: GridDenoiser, asked: Asked) -> Tensor:
    """Return labels (count,) on the device of the network; without any, random ones."""
    device = device_of(own)
    if asked.labels is None:
        return torch.randint(own.classes, (asked.count,)).to(device)
    labels = asked.labels.cpu().long()
    if labels.shape != (asked.count,):
        raise UserError(f"{asked.count} samples take {asked.count} labels, not {len(labels)}")
    own.check(torch.zeros(1, own.side**2, dtype=torch.int64), labels)
    return labels.to(device)


def scheduled(process: Process, schedule: str, temperature: float | None) -> Process:
    """Return the process with a host's schedule and, where it ranks by one, its temperature.

    Raises:
        UserError: for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UserError(f"our samplers know the schedules {known}, not {schedule!r:.40}")
    config = {name: process.config[name] for name in KEPT if name in process.config}
    if "temperature" in config and temperature is not None:
        config["temperature"] = temperature
    return build_process(config | {"schedule": SCHEDULES[schedule]})


def noise_of(randomize: object, temperature: float) -> float:
    """Return the temperature of the Gumbel noise that a host's word asks for.

    Raises:
        UserError: for what our samplers do not do.
    """
    if randomize in ("random", "warm_up"):
        raise UserError(f"our samplers know randomize linear and no, not {randomize!r}")
    return temperature if randomize == "linear" else 0.0


__all__ = ["Asked", "Codes", "draw_codes", "noise_of", "scheduled"]
