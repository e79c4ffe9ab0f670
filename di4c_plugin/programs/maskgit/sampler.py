"""Our sampler as `MaskGIT.sample` of Maskgit-pytorch v1: the host's signature and results."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridDenoiser
from di4c_plugin.families.maskgit import MaskGITNetworks
from di4c_plugin.programs.images.swap import Ours
from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.programs.images.swap_grid import Asked, draw_codes, noise_of
from di4c_plugin.programs.images.swap_twin import Twins, tensors_of

HOST = "maskgit"
Result = tuple[Tensor, list[Tensor], list[Tensor]]


class MaskGITSampler:
    """Samples of a trainer of v1, by one of our samplers; called with the trainer first.

    Args:
        sampler: one of ours.
        student: a model; None: the trainer's network.
        options: of the sampler, in the place of the host's flags; `steps` too.
        root: the host's checkout; None: see `importing.checkout`.

    Raises:
        UserError: as `Ours`.
    """

    def __init__(
        self,
        sampler: str = "maskgit",
        student: Model | str | None = None,
        options: dict[str, Any] | None = None,
        root: Path | None = None,
    ) -> None:
        self.ours = Ours.of(sampler, student, options, HOST, root)
        self.twins = Twins(MaskGITNetworks(), root)

    def __call__(
        self,
        trainer: Any,
        init_code: Tensor | None = None,
        nb_sample: int = 50,
        labels: Tensor | None = None,
        sm_temp: float = 1,
        w: float = 3,
        randomize: str = "linear",
        r_temp: float = 4.5,
        sched_mode: str = "arccos",
        step: int = 12,
    ) -> Result:
        """Return pictures (n, 3, H, W), and after each step codes and masks (n, h, w).

        Raises:
            UserError: as `draw_codes`, and for what our samplers do not do.
        """
        if not isinstance(sched_mode, str):
            raise UserError("our samplers take the name of a schedule, not a list of counts")
        own = network_of(self.twins, trainer)
        asked = Asked(
            count=nb_sample,
            steps=self.ours.steps_of(step),
            mask=trainer.args.mask_value,
            options={
                "guidance": w,
                "guidance_ramp": "linear",
                "temperature": noise_of(randomize, r_temp),
                "counts": "increments",
            },
            schedule=sched_mode,
            softmax=(sm_temp,),
            codes=init_code,
            labels=labels,
        )
        half = partial(half_precision, next(own.parameters()).device)
        drawn = draw_codes(self.ours, own, asked, autocast=half)
        with torch.no_grad():
            pictures = trainer.ae.decode_code(drawn.x)
        return pictures, drawn.predicted, [mask.float() for mask in drawn.masked]


def network_of(twins: Twins, trainer: Any) -> GridDenoiser:
    """Return the network of a trainer as a denoiser."""
    network, tensors = trainer.vit, tensors_of(trainer.vit)
    attention = (m for m in network.modules() if isinstance(m, nn.MultiheadAttention))
    codes = int(trainer.codebook_size)
    denoiser: Any = twins.of(network, tensors, heads=next(attention).num_heads, codes=codes)
    return denoiser


def half_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return the host's autocast: half precision on a GPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.float16)


def install(vit: ModuleType, flags: Flags, root: Path) -> None:
    """Put our sampler into the module `Trainer.vit`; raises UserError as `MaskGITSampler`."""
    ours = MaskGITSampler(flags.sampler, flags.student, dict(flags.options), root)

    def sample(self: Any, *args: Any, **kwargs: Any) -> Result:
        return ours(self, *args, **kwargs)

    vit.MaskGIT.sample = sample
