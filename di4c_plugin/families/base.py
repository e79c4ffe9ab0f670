"""A family of networks: everything that the rest must know of it, and what is done alike with all.

There is one way to load a network, one to make a student of a teacher, one to keep either.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from di4c_plugin.checkpoints.content import Content, bare
from di4c_plugin.checkpoints.description import sizes_of
from di4c_plugin.checkpoints.model import (
    STUDENT,
    Model,
    bare_names,
    check_weights,
    load_weights,
    role_of,
)
from di4c_plugin.checkpoints.vocabulary import entry_of
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process, build_process
from di4c_plugin.errors import UserError, quoted, refusing
from di4c_plugin.families.adapted import restored
from di4c_plugin.families.registry import family_with
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.doors import Doors, Names, find_doors, find_modules
from di4c_plugin.networks.latent import new_injector, same_options

Sizes = TypeVar("Sizes")
Own = TypeVar("Own", bound="Family[Any]")
# What every process of a network has in common with its family's.
SHARED = ("num_tokens", "mask")


class Family(ABC, Generic[Sizes]):
    """Networks of one architecture, ours or made from the class in a program's checkout.

    Sizes are a frozen dataclass of plain values, a `NetworkConfig`: with the options of the latent,
    the config of the process and the weights they rebuild a network.

    Attributes:
        name: the `kind` of its sizes, which stands in model files.
        title: what people call it.
        mark: how the name of a weight ends that only its networks have.
        made_of: the dataclass of the sizes.
        names: its doors, see `find_doors`.
        said: what the user may say of sizes, where weights do not tell, and its type.
        settings: those of them that change a network and no weight of it.
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
        """Return the family that runs what the options of a host trust; raises UserError."""
        return self

    def beside(self: Own, weights: Weights) -> Own:
        """Return the family of the code that lies beside weights; by default this one."""
        return self

    @abstractmethod
    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """Return the weights in a checkpoint of its program; raises UserError."""

    @abstractmethod
    def sizes(self, weights: Weights, **said: Any) -> Sizes:
        """Return the sizes of the network with these weights; raises UserError if some are missing.

        `said` is what the user says of them, see `said`; None: nothing.
        """

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
        said = (latent or {}).get("doors") or {}
        if not isinstance(said, Mapping):
            raise UserError(f"latent.doors is a set of names of sub-modules, not {said!r}")
        return find_doors(network, {**self.names, **said})

    def blocks(self, network: nn.Module, sizes: Sizes) -> tuple[nn.Module, ...]:
        """Return the blocks of a network, by which FSDP shards it; none: they are not known."""
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

        Without `ema` they are those of the last step, where a file has averages too.
        """
        said = content.description
        if said is None:
            self.check(content.state, content.origin)
            return self.weights_in(content, ema=ema)
        if said.get("kind", "transformer") != self.name:
            kind = quoted(said.get("kind"))
            raise UserError(f"{content.origin} is a model of {kind}, not of {self.name!r}")
        tensors, prefix = dict(content.entries), "network."
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        return Weights(tensors, said["latent"], {}, said["process"], content.origin, "", said)

    def load(
        self, weights: Weights, *, process: Mapping[str, Any] | None = None, **said: Any
    ) -> Model:
        """Return the teacher or student with these weights, in eval mode, on the CPU.

        Args:
            weights: from `read`.
            process: name and options in place of the family's; None: what the weights say, else
                the family's.
            said: see `sizes`; of a model file of ours only `settings` are taken.

        Raises:
            UserError: where the weights are not all of them, or something else does not go with
                the rest; before anything of these sizes is made.
        """
        notes, origin = weights.notes, weights.origin
        with refusing(f"the model in {origin} cannot be made"):
            sizes = self._sizes(weights, said)
        described = weights.process or self.process(sizes, weights)
        if process:  # what it does not say is as the family's has it
            own = self.process(sizes, weights)
            same = process.get("name", own["name"]) == own["name"]
            described = {k: v for k, v in own.items() if same or k in SHARED} | dict(process)
        if (adapter := notes.get("adapter")) is None:
            denoiser = self.restore(weights, sizes, process=described)
        else:
            denoiser = restored(self, weights, sizes, described, said.get("base"))
        info: dict[str, Any] = {}
        if weights.fingerprint:  # of no model file of ours
            info = {"origin": origin, "fingerprint": weights.fingerprint}
            info |= {key: notes[key] for key in ("teacher", "run") if key in notes}
        role = role_of({"role": notes.get("role"), "latent": weights.latent})
        sampling = dict(notes.get("sampling") or {})
        info |= dict(notes.get("info") or {}) | entry_of(weights.vocabulary(described))
        return Model(denoiser, sizes, weights.latent, info, role, sampling, self, adapter)  # type: ignore[arg-type]

    def new(
        self,
        sizes: Sizes,
        process: Process,
        latent: Mapping[str, Any] | None = None,
        *,
        info: dict[str, Any] | None = None,
        role: str | None = None,
    ) -> Model:
        """Return a model with random weights; without a role it is a student if it has a latent.

        Raises:
            UserError: as `build` and `let_latent_in`.
        """
        own = None if latent is None else dict(latent)
        denoiser = self.denoiser(sizes, own, process=process)
        role = role_of({"role": role, "latent": own})
        return Model(denoiser, sizes, own, info or {}, role, family=self)  # type: ignore[arg-type]

    def student_of(self, teacher: Model, latent: Mapping[str, Any] | None) -> Model:
        """Return a student that starts from the teacher's weights; see `student`."""
        own = None if latent is None else dict(latent)
        weights = Weights(bare_names(teacher), teacher.latent, {}, None, "the teacher", "")
        sizes: Any = teacher.network
        denoiser = self.student(weights, sizes, own, process=teacher.process)
        return Model(denoiser, sizes, own, role=STUDENT, family=self)

    def denoiser(
        self,
        sizes: Sizes,
        latent: Mapping[str, Any] | None = None,
        *,
        process: Process | Mapping[str, Any] | None = None,
    ) -> NetworkDenoiser:
        """Return a denoiser with random weights; raises UserError."""
        built = self._built(sizes, process)
        network = self.build(sizes, built)
        if latent is not None:
            self.let_latent_in(network, latent, sizes, built)
        return self.wrap(network, sizes, built)

    def outline(
        self,
        sizes: Sizes,
        latent: Mapping[str, Any] | None = None,
        *,
        process: Process | Mapping[str, Any] | None = None,
    ) -> NetworkDenoiser:
        """Return a denoiser of shapes alone, which takes no memory and no random numbers."""
        built = self._built(sizes, process)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return self.denoiser(sizes, latent, process=built)

    def restore(
        self,
        weights: Weights,
        sizes: Sizes,
        *,
        process: Process | Mapping[str, Any] | None = None,
    ) -> NetworkDenoiser:
        """Return the teacher, or student, with these weights, in eval mode; errors as `load`."""
        with refusing(f"the model in {weights.origin} cannot be made"), _naming(weights.origin):
            built = self._built(sizes, process)
            outline = self.outline(sizes, weights.latent, process=built)
        check_weights(outline.network, weights.tensors, weights.origin)
        denoiser = self.denoiser(sizes, weights.latent, process=built)
        load_weights(denoiser.network, weights.tensors, weights.origin)
        return denoiser.eval()

    def student(
        self,
        weights: Weights,
        sizes: Sizes,
        latent: Mapping[str, Any] | None,
        *,
        process: Process | Mapping[str, Any] | None = None,
    ) -> NetworkDenoiser:
        """Return a student that starts from the teacher's weights, in train mode.

        Without a latent it is a product model. Raises UserError as `load`.
        """
        built = self._built(sizes, process)
        with torch.random.fork_rng(devices=[]):  # none of its numbers stay
            network = self.build(sizes, built)
        self.start_from(network, weights, latent, sizes, built)
        return self.wrap(network, sizes, built).train()

    def start_from(
        self,
        network: nn.Module,
        weights: Weights,
        latent: Mapping[str, Any] | None,
        sizes: Any,
        process: Process,
    ) -> None:
        """Give a network, in place, a latent if one is named, and a teacher's weights.

        If the teacher is a student with the same latent (Di4C twice over), its injector carries
        over too; otherwise the injector starts as its class says. Raises UserError.
        """
        body = set(network.state_dict())
        if latent is not None:
            self.let_latent_in(network, latent, sizes, process)
        given = dict(weights.tensors)
        if not same_options(weights.latent, latent):
            # Without a latent nothing is left out, so that every name is checked.
            given = {k: v for k, v in given.items() if weights.latent is None or k in body}
            given |= {k: v for k, v in network.state_dict().items() if k not in body}
        load_weights(network, given, weights.origin)

    def check(self, names: Iterable[Any], origin: str) -> None:
        """Refuse weights of another network; raises UserError, which says of which."""
        known = [bare(str(name)) for name in names]
        found = self if self.holds(known) else family_with(known, origin)
        if found.name != self.name:
            raise UserError(f"{origin} is of {found.title}, not of {self.title}")

    def holds(self, names: Iterable[str]) -> bool:
        """Tell whether names of weights are those of a network of this family."""
        return any(name == self.mark or name.endswith(f".{self.mark}") for name in names)

    def _sizes(self, weights: Weights, said: Mapping[str, Any]) -> Sizes:
        if "network" not in weights.notes:
            return self.sizes(weights, **said)
        described = {k: v for k, v in weights.notes["network"].items() if k != "kind"}
        made: Any = sizes_of(self.made_of, described, weights.origin, weights=len(weights.tensors))
        asked = {k: v for k, v in said.items() if k in self.settings and v is not None}
        sizes: Sizes = replace(made, **asked)
        return sizes

    def _built(self, sizes: Sizes, process: Process | Mapping[str, Any] | None) -> Process:
        if isinstance(process, Process):
            return process
        return build_process(dict(process or self.process(sizes)))


@contextmanager
def _naming(origin: str) -> Iterator[None]:
    """Say which file it is that a UserError of its model is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the model in {origin} cannot be made: {error}") from error
