"""Our samplers of VQ codes, with the interface of MaskGIT's programs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Process, build_process
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.families.grid import GridDenoiser
from di4c_plugin.programs.images.sampler import HostSampler, Request, device_of
from di4c_plugin.programs.images.shared import SharedNetworks
from di4c_plugin.programs.images.trace import Autocast, Trace

# The hosts' names of schedules of the revealed fraction at r = 1 - t; see `di4c_plugin.diffusion`.
SCHEDULES = {
    "root": "root",
    "linear": "loglinear",
    "square": "square",
    "cosine": "duo_cosine",
    "arccos": "arccos",
}
# The options that a process keeps with another schedule.
KEPT = ("name", "num_tokens", "mask", "grid", "randomize", "temperature")
Result = tuple[Tensor, list[Tensor], list[Tensor]]  # pictures, codes and masks after each step


class CodeSampler(HostSampler):
    """A sampler that a trainer with `args` and a decoder `ae` calls; arguments as `HostSampler`."""

    networks: ClassVar[Family[Any]]

    def __init__(
        self,
        sampler: str,
        student: Model | str | None = None,
        options: Mapping[str, Any] | None = None,
        root: Path | None = None,
    ) -> None:
        super().__init__(sampler, student, options, root)
        self.shared = SharedNetworks(self.networks, root)

    @abstractmethod
    def network_of(self, trainer: Any) -> GridDenoiser:
        """Return the network of a trainer as a denoiser."""

    def over_codes(
        self,
        trainer: Any,
        *,
        count: int,
        steps: int,
        options: Mapping[str, Any],
        schedule: str,
        autocast: Autocast,
        softmax: Sequence[float] = (1.0,),
        codes: Tensor | None = None,
        labels: Tensor | None = None,
        verbose: bool = False,
    ) -> Request:
        """Return the request of a host.

        Args:
            trainer: the host's.
            count: how many samples.
            steps: the host's number of steps.
            options: of our samplers, from the host's flags.
            schedule: the host's name, see `SCHEDULES`.
            autocast: see `Request`.
            softmax: factor of the logits in each step.
            codes: (count, h, w) or (count, D), the mask where unknown; None: all unknown.
            labels: (count,); None: random ones.
            verbose: show a bar.

        Raises:
            UserError: for labels, codes, a mask or a schedule that the network does not have.
        """
        network = self.network_of(trainer)
        x, cond = (
            start_of(network, count, trainer.args.mask_value, codes),
            labels_of(network, count, labels),
        )
        process = self.denoiser(network).process
        return Request(
            network,
            x,
            self.steps_of(steps),
            scheduled(process, schedule, options.get("temperature")),
            options,
            cond,
            softmax,
            autocast,
            verbose=verbose,
        )

    def result(self, drawn: Trace, trainer: Any, *args: Any, **kwargs: Any) -> Result:
        """Return pictures (n, 3, H, W), and the codes and masks (n, h, w) after each step.

        Masked positions have the likeliest codes.
        """
        network = self.network_of(trainer)
        shape = (-1, network.side, network.side)
        masked = [state == network.codes for state in drawn.after]
        shown = zip(masked, drawn.predicted, drawn.after, strict=True)
        codes = [guess.where(unknown, state).view(shape) for unknown, guess, state in shown]
        with torch.no_grad():
            pictures = trainer.ae.decode_code(drawn.x.view(shape))
        return pictures, codes, self.masks([mask.view(shape) for mask in masked])

    def masks(self, masked: list[Tensor]) -> list[Tensor]:
        """Return the host's picture of the masked positions after each step, (n, h, w)."""
        return [mask.float() for mask in masked]


def start_of(network: GridDenoiser, count: int, mask: int, codes: Tensor | None) -> Tensor:
    """Return the initial states, (count, D), on the device of the network."""
    if mask != network.codes:
        raise UserError(
            f"the mask is {mask} here: our samplers need {network.codes}, "
            f"behind the {network.codes} codes"
        )
    device, shape = device_of(network), (count, network.side**2)
    if codes is None:
        return torch.full(shape, network.codes, device=device)
    x = codes.flatten(1).long().to(device, copy=True)
    if x.shape != shape:
        size = " x ".join(map(str, codes.shape))
        raise UserError(f"the codes to start from are {size}, for {shape[0]} x {shape[1]}")
    network.check(x.cpu(), None)
    return x


def labels_of(network: GridDenoiser, count: int, labels: Tensor | None) -> Tensor:
    """Return labels (count,) on the device of the network; random ones for None."""
    device = device_of(network)
    if labels is None:
        return torch.randint(network.classes, (count,)).to(device)
    labels = labels.cpu().long()
    if labels.shape != (count,):
        raise UserError(f"{count} samples take {count} labels, not {len(labels)}")
    network.check(torch.zeros(1, network.side**2, dtype=torch.int64), labels)
    return labels.to(device)


def scheduled(process: Process, schedule: str, temperature: float | None) -> Process:
    """Return the process with a host's schedule and, if it has one, the temperature.

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


def confidence_options(
    guidance: float, randomize: object, temperature: float, counts: str
) -> dict[str, Any]:
    """Return the options of our samplers for the flags of a host's confidence sampler.

    Raises:
        UserError: for a `randomize` that our samplers do not have.
    """
    if randomize in ("random", "warm_up"):
        raise UserError(f"our samplers know randomize linear and no, not {randomize!r}")
    temperature = temperature if randomize == "linear" else 0.0
    ramp = {"guidance": guidance, "guidance_ramp": "linear"}
    return ramp | {"temperature": temperature, "counts": counts}
