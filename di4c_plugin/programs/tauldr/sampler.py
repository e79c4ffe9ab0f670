"""Our samplers with the interface of tauLDR's: made from a config, `sample(model, N, num)`.

Registered as "Di4C": `cfg.sampler.name = "Di4C"`, with the host's `num_steps`, `min_t` and
`initial_dist`, and our `method` (a sampler, by default "ancestral"), `student` (a path) and
`options` (of the sampler).
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.naming import bare
from di4c_plugin.errors import UserError
from di4c_plugin.families.tauldr import TauLDRNetworks
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import latent_shape
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.images.sampler import HostSampler, Request, device_of
from di4c_plugin.programs.images.shared import SharedNetworks, tensors_of
from di4c_plugin.programs.images.trace import Trace

HOST, NAME = "tauldr", "Di4C"
# Attributes of a host's model and its network that do not follow from the weights.
OF_MODEL = ("fix_logistic", "rate_sigma", "Q_sigma", "time_exponential", "time_base")
OF_NETWORK = ("data_min_max", "dropout", "skip_rescale", "time_scale_factor")


class TauLDRSampler(HostSampler):
    """A sampler with the host's interface.

    Args:
        cfg: with `sampler`; see the module.
        flags: override our entries in the config.
        student: a model, instead of the path in the config.
        root: the host's checkout; None: see `importing.checkout`.

    Raises:
        UserError: as `HostSampler`.
    """

    host = HOST

    def __init__(
        self,
        cfg: Any,
        flags: SamplerFlags | None = None,
        student: Model | None = None,
        root: Path | None = None,
    ) -> None:
        chosen = flags or flags_of(cfg.sampler)
        super().__init__(chosen.sampler, student or chosen.student, chosen.options, root)
        self.settings = cfg.sampler
        self.shared = SharedNetworks(TauLDRNetworks(), root)

    def sample(self, model: Any, N: int, num_intermediates: int) -> tuple[Any, Any, Any]:
        """Return x_0 (N, D), and states and likeliest x_0 of `num` steps (num, N, D), int arrays.

        Raises:
            UserError: for a model other than the U-Net, and as the sampler.
        """
        drawn: tuple[Any, Any, Any] = self(model, N, num_intermediates)
        return drawn

    def request(self, model: Any, count: int, shown: int) -> Request:
        """See `HostSampler.request`."""
        network = network_of(self.shared, model)
        steps = self.steps_of(self.settings.num_steps)
        return Request(
            network,
            self.start(network, count),
            steps,
            self.denoiser(network).process,
            self.flags(),
            shown=np.linspace(0, steps - 1, shown, dtype=int).tolist(),
        )

    def result(self, drawn: Trace, *args: Any) -> tuple[Any, Any, Any]:
        """See `HostSampler.result`."""
        return as_array(drawn.x), stacked(drawn.before), stacked(drawn.predicted)

    def start(self, network: Any, count: int) -> Tensor:
        """Return states at t = 1, (count, D), by the config's `initial_dist`."""
        device, shape = device_of(network), (count, int(np.prod(network.shape)))
        kind = getattr(self.settings, "initial_dist", "gaussian")
        if kind == "uniform":
            return torch.randint(network.process.num_tokens, shape).to(device)
        if kind != "gaussian":
            raise UserError(f"initial_dist is gaussian or uniform, not {kind!r}")
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        x: Tensor = network.process.prior(shape, generator=generator, device=torch.device("cpu"))
        return x.to(device)

    def flags(self) -> dict[str, Any]:
        """Return the options of our samplers from the config; only PCTauLeaping has correctors."""
        settings = self.settings
        options = {"min_time": settings.min_t, "last": "argmax"}
        if settings.name == "PCTauLeaping":
            options["corrector_steps"] = settings.num_corrector_steps
            options["corrector_size"] = settings.corrector_step_size_multiplier
            options["corrector_entry"] = settings.corrector_entry_time
        return options


def flags_of(settings: Any) -> SamplerFlags:
    """Return our entries in `cfg.sampler`."""
    options = plain(getattr(settings, "options", None) or {})
    return SamplerFlags(
        getattr(settings, "method", "ancestral"), getattr(settings, "student", None), options
    )


def plain(mapping: Any) -> dict[str, Any]:
    """Return a part of a config as a dict of plain values."""
    values: dict[str, Any] = mapping.to_dict() if hasattr(mapping, "to_dict") else dict(mapping)
    return values


def network_of(shared: SharedNetworks, model: Any) -> NetworkDenoiser:
    """Return the U-Net of a model as a denoiser, with averaged weights in any mode.

    Raises:
        UserError: for another model.
    """
    net = bare_net(model)
    latent = {"name": "unet"} if latent_shape(net) is not None else None
    return shared.of(model, averaged(model), latent=latent, config=config_of(model))


def bare_net(model: Any) -> Any:
    """Return a model's network, unwrapped from DistributedDataParallel."""
    return getattr(model.net, "module", model.net)


def averaged(model: Any) -> dict[str, Tensor]:
    """Return the averages of a model's weights; in eval mode the host has loaded them."""
    tensors = tensors_of(model.net)
    averages = getattr(model, "shadow_params", ())
    if not (model.training and averages):
        return tensors
    names = [bare(name) for name, p in model.net.named_parameters() if p.requires_grad]
    # A method with several networks has further averages after the U-Net's.
    return tensors | dict(zip(names, averages[: len(names)], strict=True))


def config_of(model: Any) -> Mapping[str, Any]:
    """Return the settings that do not follow from the weights, as in the host's config.

    Raises:
        UserError: for a model other than the U-Net.
    """
    net = bare_net(model)
    try:
        sizes = {"shape": tuple(model.data_shape), "S": model.S}
        settings = {name: getattr(model, name) for name in OF_MODEL}
        return {"data": sizes, "model": settings | {n: getattr(net, n) for n in OF_NETWORK}}
    except AttributeError as error:
        kind = type(model).__name__
        raise UserError(
            f"our samplers are for the U-Net with Gaussian rates, not for {kind}: {error}"
        ) from error


def as_array(x: Tensor) -> Any:
    """Return x in the host's format."""
    return x.detach().cpu().numpy().astype(int)


def stacked(states: list[Tensor]) -> Any:
    """Return states (n, N, D) in the host's format."""
    return np.array([as_array(x) for x in states]).astype(int)


def register(module: ModuleType, flags: SamplerFlags | None, root: Path) -> None:
    """Register "Di4C" in `lib.sampling.sampling_utils`; with flags, it replaces all samplers.

    Raises:
        UserError: as `HostSampler`, for flags that do not fit.
    """

    class Di4C(TauLDRSampler):
        """See `TauLDRSampler`; the host knows it by this name."""

        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg, flags, root=root)

    module.register_sampler(Di4C)
    if flags is not None:
        Di4C(SimpleNamespace(sampler=None))
        module.get_sampler = Di4C  # type: ignore[attr-defined]
