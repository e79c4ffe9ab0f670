"""Our sampler with the signature and results of `MaskGIT.sample` of Maskgit-pytorch v1."""

from collections.abc import Mapping
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
from di4c_plugin.programs.images.codes import CodeSampler, Result, confidence_options
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.images.sampler import Request, device_of
from di4c_plugin.programs.images.shared import tensors_of


class MaskGITSampler(CodeSampler):
    """The sampler of a v1 trainer; called with it and the arguments of `MaskGIT.sample`."""

    host, networks = "maskgit", MaskGITNetworks()

    def __init__(
        self,
        sampler: str = "maskgit",
        student: Model | str | None = None,
        options: Mapping[str, Any] | None = None,
        root: Path | None = None,
    ) -> None:
        super().__init__(sampler, student, options, root)

    def request(
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
    ) -> Request:
        """See `HostSampler.request`."""
        if not isinstance(sched_mode, str):
            raise UserError("our samplers take the name of a schedule, not a list of counts")
        return self.over_codes(
            trainer,
            count=nb_sample,
            steps=step,
            options=confidence_options(w, randomize, r_temp, "increments"),
            schedule=sched_mode,
            autocast=partial(half_precision, device_of(trainer.vit)),
            softmax=(sm_temp,),
            codes=init_code,
            labels=labels,
        )

    def network_of(self, trainer: Any) -> GridDenoiser:
        """See `CodeSampler.network_of`."""
        network, tensors = trainer.vit, tensors_of(trainer.vit)
        attention = (m for m in network.modules() if isinstance(m, nn.MultiheadAttention))
        heads, codes = next(attention).num_heads, int(trainer.codebook_size)
        denoiser: Any = self.shared.of(network, tensors, heads=heads, codes=codes)
        return denoiser


def half_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return the host's autocast: half precision on a GPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.float16)


def install(vit: ModuleType, flags: SamplerFlags, root: Path) -> None:
    """Install our sampler in the module `Trainer.vit`; raises UserError as `MaskGITSampler`."""
    sampler = MaskGITSampler(flags.sampler, flags.student, flags.options, root)

    def sample(self: Any, *args: Any, **kwargs: Any) -> Result:
        drawn: Result = sampler(self, *args, **kwargs)
        return drawn

    vit.MaskGIT.sample = sample
