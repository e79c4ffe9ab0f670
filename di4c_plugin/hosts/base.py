"""A host is a value: whose networks, which data, whose program; and `OpenHost` is one in use.

    HOST = Host("mine", MyNetworks(), MyData, latent="token")

A plugin registers such a value by the hook `di4c_hosts`. What all hosts do alike with teachers,
students and options is written once, in `OpenHost`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkouts import Program
from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.schemes import has_scheme, load_scheme
from di4c_plugin.checkpoints.vocabulary import Vocabulary, vocabulary_in
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError, quoted, refusing
from di4c_plugin.families.base import Family
from di4c_plugin.options import fitted, parameters


class HostData:
    """The data of a host and their pictures; its options are those of the class.

    This one has neither: for hosts whose data are their program's own.
    """

    def read(self, host: "OpenHost") -> Data:
        """Return the training data; raises UserError."""
        raise UserError(f"host {host.name!r} has no data here: they are its own program's")

    def check_drawing(self, host: "OpenHost") -> None:
        """Refuse to judge pictures that are not drawn as in the training; raises UserError."""

    def images(self, host: "OpenHost", x: Tensor) -> Tensor:
        """Return samples x (n, D) as pictures (n, C, H, W), uint8; C is 1 (grey) or 3.

        Positions that are still unknown are mid-grey.

        Raises:
            UserError: where samples are no pictures.
        """
        raise UserError(f"samples of host {host.name!r} are no pictures")

    def texts(self, host: "OpenHost", x: Tensor) -> list[str]:
        """Return samples x (n, D) as texts; raises UserError where they are none."""
        raise UserError(f"samples of host {host.name!r} are no texts")

    def prompts(self, host: "OpenHost", prompts: Sequence[Any]) -> list[list[int]]:
        """Return the ids of prompts, texts or chats; errors as `texts`."""
        raise UserError(f"samples of host {host.name!r} are no texts, and begin with none")

    def picture(self, host: "OpenHost", x: Tensor, path: Path) -> None:
        """Draw samples x (n, D) to a PNG file: by default a grid of `images`; raises UserError."""
        from di4c_plugin.evaluation.pictures import image_grid

        image_grid(self.images(host, x), path)


@dataclass(frozen=True)
class Host:
    """One kind of data and network; called with a user's options it is an `OpenHost`.

    Attributes:
        name: under which it is registered.
        family: its networks.
        data: its data and pictures, a class made with options.
        program: the program that teachers come from; None: there is none.
        latent: how a student takes lambda where nothing else is asked for: a file of
            configs/latent/.
        kept: the options that are taken from a model's file where the user gives none, and their
            types: int, float, bool, str for a short name, dict for a process. Sizes and switches
            only: nothing that is opened, written, imported or run, nor trusted more or less. All
            other options are the user's alone.
        new_teacher: makes an untrained product model, `(process, **sizes) -> Model`; None: teachers
            are trained by the program.
        wrote: tells whether weights are of this program, where several share a family.
    """

    name: str
    family: Family[Any]
    data: Callable[..., HostData] = HostData
    program: Program | None = None
    latent: str = "adaln"
    kept: Mapping[str, type] = field(default_factory=dict)
    new_teacher: Callable[..., Model] | None = None
    wrote: Callable[[Weights], bool] | None = None

    def __post_init__(self) -> None:
        """Say what the user may say, in the way in which functions do."""
        own = {name: p.annotation for name, p in (parameters(self.data) or {}).items()}
        data = inspect.signature(self.data).parameters
        places = {"root": str | Path | None, "process": str | Mapping[str, Any] | None}
        foreign = self.program or self.family.said  # networks that are not ours
        types = (places | dict(self.family.said) if foreign else {}) | own
        kind = inspect.Parameter.KEYWORD_ONLY
        defaults = {name: data[name].default if name in data else None for name in types}
        told = [
            inspect.Parameter(name, kind, default=defaults[name], annotation=_or_none(said))
            for name, said in types.items()
        ]
        object.__setattr__(self, "__signature__", inspect.Signature(told))

    @property
    def options(self) -> dict[str, Any]:
        """What the user may say, with what it is by default."""
        return {name: p.default for name, p in inspect.signature(self).parameters.items()}

    def __call__(self, **said: Any) -> "OpenHost":
        """Return the host in use; None is an option's default.

        Raises:
            UserError: for options that it does not take, or of another type.
        """
        own = {k: v for k, v in fitted(self, said, f"host {self.name!r}").items() if v is not None}
        return OpenHost(self, self.options | own)


class OpenHost:
    """A host with a user's options, and the model whose data and pictures will be asked for.

    Attributes:
        value: the host.
        options: all of them.
        root: the program's checkout; None: see `importing.checkout`.
        typed: what goes before an option where the user types it.
        known_process: of the model, as plain values.
        origin: where the model was loaded from; None: not known.
        vocabulary: of the model; None: not known.
    """

    typed = "host."

    def __init__(self, value: Host, options: Mapping[str, Any]) -> None:
        self.value, self.options = value, dict(options)
        self.name, self.latent = value.name, value.latent
        self.root = options.get("root")
        family = value.family.at(self.root) if self.root else value.family
        self.family = family.trusting(options)
        self.process = named(options.get("process"))
        own = inspect.signature(value.data).parameters
        self.pictures = value.data(**{name: options[name] for name in own})
        self.known_sizes: Any = None
        self.known_process: Mapping[str, Any] = {}
        self.origin: str | None = None
        self.vocabulary: Vocabulary | None = None
        self.trained_with: Mapping[str, Any] = {}

    def adopt(self, model: Model) -> None:
        """Take note of the model; raises UserError for one of another family."""
        kind, own = model.network.kind, self.family.name
        if kind != own:
            raise UserError(f"this is a model of {kind!r}, and host {self.name!r} has {own!r}")
        self.known_sizes, self.known_process = model.network, model.process.config
        base = self.options.get("base") or (model.adapter or {}).get("base")
        origin = model.info.get("origin", base)
        self.origin = origin if isinstance(origin, str) else None
        self.vocabulary = vocabulary_in(model.info, "this model")
        said = model.info.get("host")
        self.trained_with = said if isinstance(said, Mapping) else {}

    def described(self) -> dict[str, Any]:
        """Return {"host": {"name": ..., **options}}, to be kept with models; {} without options."""
        return {"host": {"name": self.name} | self.options} if self.options else {}

    def load_teacher(self, source: str | Path, *, ema: bool = True) -> Model:
        """Return the teacher, or student, that `source` names.

        Args:
            source: a file of the host's program or ours, a folder, a hub id, or `scheme:rest`.
            ema: take the moving averages where the file has some.

        Raises:
            UserError: no such file, or one of another network, or sizes that are still missing.
        """
        if has_scheme(str(source)):
            model = load_scheme(str(source), ema=ema)
            self.adopt(model)
            return model
        return self.load(self.family.read(read_content(source), ema=ema))

    def load(self, weights: Weights) -> Model:
        """Return the model with weights that were read; errors as for `load_teacher`."""
        said = {name: self.options.get(name) for name in self.family.said}
        with refusing(f"{weights.origin} cannot be read"):
            model = self.family.load(weights, process=self.process, **said)
        if weights.fingerprint:  # of no model file of ours, which says it itself
            kept = {k: v for k, v in self.options.items() if k in self.value.kept}
            model.info["host"] = {"name": self.name} | kept
        self.adopt(model)
        return model

    def build_student(self, teacher: Model, latent: dict[str, Any] | None) -> Model:
        """Return a network that starts from the teacher's weights; raises UserError.

        With a latent it is a mixture, else a product model.
        """
        student: Model = self.family_for(teacher).student_of(teacher, latent)
        return student

    def family_for(self, teacher: Model) -> Family[Any]:
        """Return the family that makes students of a teacher; raises UserError as `adopt`."""
        self.adopt(teacher)
        found: Family[Any] = self.family if self.root else teacher.family or self.family
        return found

    def new_teacher(self, process: dict[str, Any], **sizes: Any) -> Model:
        """Return an untrained product model for the process described; raises UserError."""
        if self.value.new_teacher is None:
            raise UserError(
                f"teachers of {self.name} are trained by its own program, for example under "
                "`di4c run`"
            )
        try:
            model = self.value.new_teacher(process, **sizes)
        except TypeError as error:
            raise UserError(f"host {self.name!r} cannot make this teacher: {error}") from error
        self.adopt(model)
        return model

    def data(self) -> Data:
        """Return the training data; raises UserError."""
        return self.pictures.read(self)

    def check_drawing(self) -> None:
        """See `HostData.check_drawing`."""
        self.pictures.check_drawing(self)

    def images(self, x: Tensor) -> Tensor:
        """See `HostData.images`."""
        return self.pictures.images(self, x)

    def texts(self, x: Tensor) -> list[str]:
        """See `HostData.texts`."""
        return self.pictures.texts(self, x)

    def prompts(self, prompts: Sequence[Any]) -> list[list[int]]:
        """See `HostData.prompts`."""
        return self.pictures.prompts(self, prompts)

    def picture(self, x: Tensor, path: Path) -> None:
        """See `HostData.picture`."""
        self.pictures.picture(self, x, path)

    def place(self, path: str | None) -> Path:
        """Return the path of the data; raises UserError if nobody said."""
        if path is None:
            raise UserError(f"name the data of host {self.name!r}: {self.ask('data')}")
        return Path(path)

    def ask(self, option: str) -> str:
        """Return what the user types for a path, and what the model's file says it was."""
        said = self.trained_with.get(option)
        told = f" (trained with {quoted(said)}, its file says)" if isinstance(said, str) else ""
        return f"{self.typed}{option}=PATH{told}"

    @property
    def sizes(self) -> Any:
        """The sizes of the network; raises UserError before there is one."""
        if self.known_sizes is None:
            raise UserError(f"host {self.name!r} needs its teacher before data or pictures")
        return self.known_sizes


def _or_none(annotation: Any) -> Any:
    """Return the annotation of what may be None too; nothing said is anything."""
    anything = annotation is inspect.Parameter.empty or isinstance(annotation, str)
    return annotation if anything else annotation | None


def named(process: Any) -> dict[str, Any] | None:
    """Return the name and options of a process, of which a user may give the name alone.

    Raises:
        UserError: for anything else.
    """
    if isinstance(process, str):
        return {"name": process}
    if process is not None and not isinstance(process, Mapping):
        raise UserError(f"process is a name, or a name and options, not {process!r}")
    return dict(process) if process else None
