"""Teacher and student of an image host: what its adapter gives, and what they do alike with it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import check_weights, load_weights
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process, build_process
from di4c_plugin.errors import refusing
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import Head, latent_shape
from di4c_plugin.networks.latent import same_options


class ImageDenoiser(NetworkDenoiser, ABC):
    """A `LatentDenoiser` by a host's `network`, for `process`."""

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """The shape of one lambda; None for a product model."""
        return latent_shape(self.network)

    @property
    def head(self) -> Head | None:
        """See `HiddenDenoiser.head`: none, unless the network of a host has one."""
        return None

    @abstractmethod
    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""


Sizes = TypeVar("Sizes")
Made = TypeVar("Made", bound=ImageDenoiser)


class ImageNetworks(ABC, Generic[Sizes, Made]):
    """The networks of one image host, made from the class in its checkout.

    Sizes are a frozen dataclass of plain values: with the options of the latent, the config of the
    process and the weights they rebuild a network.
    """

    host: ClassVar[str]
    made_of: ClassVar[type[Any]]  # the dataclass of the sizes

    @abstractmethod
    def read(self, path: str | Path) -> Weights:
        """Read a checkpoint of the host, or of the official Di4C; raises UserError."""

    @abstractmethod
    def sizes(self, weights: Weights, **options: Any) -> Sizes:
        """Return the sizes of the network with these weights.

        `options` say what weights do not tell; raises UserError where something is still missing.
        """

    @abstractmethod
    def build(self, sizes: Sizes, root: str | Path | None = None) -> nn.Module:
        """Return the host's network with random weights; raises UserError without a checkout."""

    @abstractmethod
    def let_latent_in(self, network: nn.Module, latent: Mapping[str, Any], sizes: Sizes) -> None:
        """Give a network a latent, in place; raises UserError."""

    @abstractmethod
    def default_process(self, sizes: Sizes) -> dict[str, Any]:
        """Return the process of the host, as `build_process` takes it."""

    @abstractmethod
    def wrap(self, network: nn.Module, sizes: Sizes, process: Process) -> Made:
        """Return the network as a denoiser; raises UserError."""

    def denoiser(
        self,
        sizes: Sizes,
        latent: Mapping[str, Any] | None = None,
        *,
        process: Mapping[str, Any] | None = None,
        root: str | Path | None = None,
    ) -> Made:
        """Make a denoiser with random weights; raises UserError."""
        network = self.build(sizes, root)
        if latent is not None:
            self.let_latent_in(network, latent, sizes)
        return self._wrapped(network, sizes, process)

    def restore(
        self,
        weights: Weights,
        sizes: Sizes,
        *,
        process: Mapping[str, Any] | None = None,
        root: str | Path | None = None,
    ) -> Made:
        """Return the teacher, or student, with these weights, in eval mode.

        Raises UserError, naming weights that do not fit, before anything of these sizes is made.
        """
        with refusing(f"the network in {weights.origin} cannot be made"), torch.device("meta"):
            outline = self.build(sizes, root)
            if weights.latent is not None:
                self.let_latent_in(outline, weights.latent, sizes)
        check_weights(outline, weights.tensors, weights.origin)
        denoiser = self.denoiser(sizes, weights.latent, process=process, root=root)
        load_weights(denoiser.network, weights.tensors, weights.origin)
        return denoiser.eval()

    def student(
        self,
        weights: Weights,
        sizes: Sizes,
        latent: Mapping[str, Any] | None,
        *,
        process: Mapping[str, Any] | None = None,
        root: str | Path | None = None,
    ) -> Made:
        """Return a student that starts from the teacher's weights, in train mode.

        Without a latent it is a product model.

        If the teacher is a student with the same latent, its injector carries over too; otherwise
        the injector starts as its class says. Raises UserError as `restore`.
        """
        network = self.build(sizes, root)
        body = set(network.state_dict())
        if latent is not None:
            self.let_latent_in(network, latent, sizes)
        given = dict(weights.tensors)
        if not same_options(weights.latent, latent):
            # Without a latent nothing is left out, so that every name is checked.
            given = {k: v for k, v in given.items() if weights.latent is None or k in body}
            given |= {k: v for k, v in network.state_dict().items() if k not in body}
        load_weights(network, given, weights.origin)
        return self._wrapped(network, sizes, process).train()

    def _wrapped(
        self,
        network: nn.Module,
        sizes: Sizes,
        process: Mapping[str, Any] | None,
    ) -> Made:
        described = self.default_process(sizes) if process is None else dict(process)
        return self.wrap(network, sizes, build_process(described))
