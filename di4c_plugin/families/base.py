"""A family of networks: how one is recognised, built, loaded, and copied into a student."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.description import sizes_of
from di4c_plugin.checkpoints.model import (
    STUDENT,
    Model,
    Place,
    bare_names,
    check_weights,
    load_weights,
    role_of,
)
from di4c_plugin.checkpoints.naming import bare
from di4c_plugin.checkpoints.vocabulary import entry_of
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process, build_process
from di4c_plugin.errors import UserError, quoted, refusing
from di4c_plugin.families.adapted import base_place, restored
from di4c_plugin.families.registry import family_with
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.doors import Doors, Names, chosen_doors, find_doors, find_modules
from di4c_plugin.networks.latent import new_injector, same_options

Sizes = TypeVar("Sizes")
Own = TypeVar("Own", bound="Family[Any]")
Latent = Mapping[str, Any] | None
AnyProcess = Process | Mapping[str, Any] | None  # None: the family's
# What every process of a network has in common with its family's.
SHARED = ("num_tokens", "mask")


class Family(ABC, Generic[Sizes]):
    """Networks of one architecture, ours or built from the class in a program's checkout.

    Sizes are a frozen dataclass of plain values, a `NetworkConfig`. With the options of the latent,
    the config of the process and the weights they rebuild a network.

    Attributes:
        name: the `kind` of its sizes in model files.
        title: its name in messages.
        mark: suffix of the name of a weight that only its networks have.
        made_of: the dataclass of the sizes.
        names: its doors, see `find_doors`.
        said: options, with types, for sizes that weights do not determine.
        settings: those of them that change a network but none of its weights.
        root: the program's checkout; None: see `importing.checkout`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    mark: ClassVar[str]
    made_of: ClassVar[type[Any]]
    names: ClassVar[Names] = {}
    said: ClassVar[Mapping[str, Any]] = {}
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = root

    def at(self: Own, root: str | Path | None) -> Own:
        """Return the family of the checkout in `root`."""
        return type(self)(root)

    def trusting(self: Own, options: Mapping[str, Any]) -> Own:
        """Return the family that runs the code that a host's options trust; raises UserError."""
        return self

    def beside(self: Own, weights: Weights) -> Own:
        """Return the family whose code lies beside the weights; by default this one."""
        return self

    @abstractmethod
    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """Return the weights in a checkpoint of its program; raises UserError."""

    @abstractmethod
    def sizes(self, weights: Weights, **options: Any) -> Sizes:
        """Return the sizes of a network, by weights and options (see `said`); raises UserError."""

    @abstractmethod
    def process(self, sizes: Sizes, weights: Weights | None = None) -> dict[str, Any]:
        """Return the process that networks are for, as `build_process` takes it."""

    @abstractmethod
    def build(self, sizes: Sizes, process: Process) -> nn.Module:
        """Return a network with random weights; raises UserError, as without its checkout."""

    def wrap(self, network: nn.Module, sizes: Sizes, process: Process) -> NetworkDenoiser:
        """Return the network as a denoiser; raises UserError for another process than its own."""
        return NetworkDenoiser(network, process)

    def doors(self, network: nn.Module, latent: Mapping[str, Any] | None = None) -> Doors:
        """Return where a latent enters; its `doors` go over the family's; raises UserError."""
        return find_doors(network, {**self.names, **chosen_doors(latent)})

    def blocks(self, network: nn.Module, sizes: Sizes | None) -> tuple[nn.Module, ...]:
        """Return the blocks of a network, by which FSDP shards it; () where they are unknown.

        Raises:
            UserError: for a network that has no such blocks.
        """
        names: Any = self.names.get("blocks") or ()
        names = [names] if isinstance(names, str) else names
        return tuple(find_modules(network, "blocks", names))

    def let_latent_in(
        self, network: nn.Module, latent: Mapping[str, Any], sizes: Any, process: Process
    ) -> None:
        """Give a network a latent, in place; raises UserError."""
        doors, injector = self.doors(network, latent), new_injector(sizes, latent)
        if len(doors.norms) != sizes.num_norms:
            raise UserError(
                f"latent.doors.norms are {len(doors.norms)}, and this network has {sizes.num_norms}"
            )
        attach_latent(network, injector, doors, mask=getattr(process, "mask", None))

    def read(self, content: Content, *, ema: bool = True) -> Weights:
        """Return the weights in a file, of the program's or ours; raises UserError.

        With `ema` these are the moving averages, where a file has some.
        """
        notes = content.description
        if notes is None:
            self.check(content.state, content.origin)
            return self.weights_in(content, ema=ema)
        if notes.get("kind", "transformer") != self.name:
            kind = quoted(notes.get("kind"))
            raise UserError(f"{content.origin} is a model of {kind}, not of {self.name!r}")
        tensors, prefix = dict(content.entries), "network."  # of earlier versions
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        return Weights(tensors, notes["latent"], {}, notes["process"], content.origin, "", notes)

    def load(
        self, weights: Weights, *, process: Mapping[str, Any] | None = None, **options: Any
    ) -> Model:
        """Return the teacher or student with these weights, in eval mode, on the CPU.

        Args:
            weights: from `read`.
            process: name and options in place of the family's; None: as the weights say, else the
                family's.
            options: see `sizes`; for our own model files, `settings` only.

        Raises:
            UserError: for missing weights, and for parts that do not go together, before a network
                of these sizes is allocated.
        """
        notes, origin = weights.notes, weights.origin
        with refusing(f"the model in {origin} cannot be made"):
            sizes = self._sizes(weights, options)
        described = weights.process or self.process(sizes, weights)
        if process:  # the rest is as in the family's
            default = self.process(sizes, weights)
            same = process.get("name", default["name"]) == default["name"]
            described = {k: v for k, v in default.items() if same or k in SHARED} | dict(process)
        if (adapter := notes.get("adapter")) is None:
            denoiser = self.restore(weights, sizes, process=described)
        else:
            denoiser = restored(self, weights, sizes, described, options.get("base"))
        info: dict[str, Any] = dict(notes.get("info") or {})
        place = Place(origin) if weights.fingerprint else base_place(adapter, options.get("base"))
        if weights.fingerprint:  # not one of our own model files
            info |= {key: notes[key] for key in ("teacher", "run") if key in notes}
            info |= {"origin": origin, "fingerprint": weights.fingerprint}
        info |= entry_of(weights.vocabulary(described))
        role = role_of({"role": notes.get("role"), "latent": weights.latent})
        sampling = dict(notes.get("sampling") or {})
        return Model(denoiser, sizes, weights.latent, info, role, sampling, self, adapter, place)  # type: ignore[arg-type]

    def new(
        self,
        sizes: Sizes,
        process: Process,
        latent: Mapping[str, Any] | None = None,
        *,
        info: dict[str, Any] | None = None,
        role: str | None = None,
    ) -> Model:
        """Return a model with random weights; errors as `denoiser`.

        Without a role it is a student if it has a latent.
        """
        options = None if latent is None else dict(latent)
        denoiser = self.denoiser(sizes, options, process=process)
        role = role_of({"role": role, "latent": options})
        return Model(denoiser, sizes, options, info or {}, role, family=self)  # type: ignore[arg-type]

    def student_of(self, teacher: Model, latent: Mapping[str, Any] | None) -> Model:
        """Return a student that starts from the teacher's weights; see `student`."""
        options = None if latent is None else dict(latent)
        weights = Weights(bare_names(teacher), teacher.latent, {}, None, "the teacher", "")
        sizes: Any = teacher.network
        denoiser = self.student(weights, sizes, options, process=teacher.process)
        return Model(denoiser, sizes, options, role=STUDENT, family=self)

    def denoiser(
        self, sizes: Sizes, latent: Latent = None, *, process: AnyProcess = None
    ) -> NetworkDenoiser:
        """Return a denoiser with random weights; raises UserError."""
        built = self._built(sizes, process)
        network = self.build(sizes, built)
        if latent is not None:
            self.let_latent_in(network, latent, sizes, built)
        return self.wrap(network, sizes, built)

    def outline(
        self, sizes: Sizes, latent: Latent = None, *, process: AnyProcess = None
    ) -> NetworkDenoiser:
        """Return a denoiser on "meta", which takes no memory and no random numbers."""
        built = self._built(sizes, process)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return self.denoiser(sizes, latent, process=built)

    def restore(
        self, weights: Weights, sizes: Sizes, *, process: AnyProcess = None
    ) -> NetworkDenoiser:
        """Return the teacher, or student, with these weights, in eval mode; errors as `load`."""
        with refusing(f"the model in {weights.origin} cannot be made"), _naming(weights.origin):
            built = self._built(sizes, process)
            outline = self.outline(sizes, weights.latent, process=built)
        check_weights(outline.network, weights.tensors, weights.origin)
        denoiser = self.denoiser(sizes, weights.latent, process=built)
        denoiser.network.load_state_dict(weights.tensors)
        return denoiser.eval()

    def student(
        self, weights: Weights, sizes: Sizes, latent: Latent, *, process: AnyProcess = None
    ) -> NetworkDenoiser:
        """Return a student that starts from the teacher's weights, in train mode.

        Without a latent it is a product model. Raises UserError as `load`.
        """
        built = self._built(sizes, process)
        with torch.random.fork_rng(devices=[]):  # its initial values are overwritten
            network = self.build(sizes, built)
        self.start_from(network, weights, latent, sizes, built)
        return self.wrap(network, sizes, built).train()

    def start_from(
        self, network: nn.Module, weights: Weights, latent: Latent, sizes: Any, process: Process
    ) -> None:
        """Give a network, in place, a latent if one is named, and a teacher's weights.

        If the teacher is a student with the same latent (Di4C twice over), its injector is copied
        too; otherwise the injector keeps its initial values. Raises UserError.
        """
        body = set(network.state_dict())
        if latent is not None:
            self.let_latent_in(network, latent, sizes, process)
        tensors = dict(weights.tensors)
        if not same_options(weights.latent, latent):
            # For a teacher without a latent nothing is dropped, so that every name is checked.
            tensors = {k: v for k, v in tensors.items() if weights.latent is None or k in body}
            tensors |= {k: v for k, v in network.state_dict().items() if k not in body}
        load_weights(network, tensors, weights.origin)

    def check(self, names: Iterable[Any], origin: str) -> None:
        """Refuse weights of another network; raises UserError, which names it."""
        plain_names = [bare(str(name)) for name in names]
        family = self if self.holds(plain_names) else family_with(plain_names, origin)
        if family.name != self.name:
            raise UserError(f"{origin} is of {family.title}, not of {self.title}")

    def holds(self, names: Iterable[str]) -> bool:
        """Return whether these are names of weights of a network of this family."""
        return any(name == self.mark or name.endswith(f".{self.mark}") for name in names)

    def _sizes(self, weights: Weights, options: Mapping[str, Any]) -> Sizes:
        if "network" not in weights.notes:
            return self.sizes(weights, **options)
        described = {k: v for k, v in weights.notes["network"].items() if k != "kind"}
        count = len(weights.tensors)
        stored: Any = sizes_of(self.made_of, described, weights.origin, weights=count)
        overrides = {k: v for k, v in options.items() if k in self.settings and v is not None}
        return replace(stored, **overrides)

    def _built(self, sizes: Sizes, process: AnyProcess) -> Process:
        if isinstance(process, Process):
            return process
        return build_process(dict(process or self.process(sizes)))


@contextmanager
def _naming(origin: str) -> Iterator[None]:
    """Add the file of its model to a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the model in {origin} cannot be made: {error}") from error
