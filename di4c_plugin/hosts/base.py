"""A `Host` is a value of networks, data and program; an `OpenHost` is a host in use.

    HOST = Host("mine", MyNetworks(), MyData, latent="token")

A plugin registers such a value by the hook `di4c_hosts`. `OpenHost` handles teachers, students and
options for all hosts.
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
from di4c_plugin.checkpoints.model import Model, Place
from di4c_plugin.checkpoints.schemes import has_scheme, load_scheme
from di4c_plugin.checkpoints.vocabulary import Vocabulary, vocabulary_in
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError, quoted, refusing
from di4c_plugin.families.adapted import base_place
from di4c_plugin.families.base import Family
from di4c_plugin.options import fitted, parameters


class HostData:
    """The data of a host, and pictures or texts of samples; its options are the class's arguments.

    This base class has neither, for hosts whose data only their program can read.
    """

    def read(self, host: "OpenHost") -> Data:
        """Return the training data; raises UserError."""
        raise UserError(f"host {host.name!r} has no data here: they are its own program's")

    def check_drawing(self, host: "OpenHost") -> None:
        """Raise UserError if pictures would not be drawn as in training."""

    def images(self, host: "OpenHost", x: Tensor) -> Tensor:
        """Return samples x (n, D) as pictures (n, C, H, W), uint8; C is 1 (grey) or 3.

        Positions that are still unknown are mid-grey.

        Raises:
            UserError: if samples are not pictures.
        """
        raise UserError(f"samples of host {host.name!r} are no pictures")

    def texts(self, host: "OpenHost", x: Tensor) -> list[str]:
        """Return samples x (n, D) as texts; raises UserError if they are not texts."""
        raise UserError(f"samples of host {host.name!r} are no texts")

    def prompts(self, host: "OpenHost", prompts: Sequence[Any]) -> list[list[int]]:
        """Return the token ids of prompts (texts or chats); raises UserError as `texts`."""
        raise UserError(f"samples of host {host.name!r} are no texts, and begin with none")

    def end(self, host: "OpenHost") -> int | None:
        """Return the id of the token that ends a text; None: there is none. Errors as `texts`."""
        return None

    def picture(self, host: "OpenHost", x: Tensor, path: Path) -> None:
        """Draw samples x (n, D) to a PNG file: by default a grid of `images`; raises UserError."""
        from di4c_plugin.evaluation.pictures import image_grid

        image_grid(self.images(host, x), path)


@dataclass(frozen=True)
class Host:
    """One kind of data and network; calling it with a user's options returns an `OpenHost`.

    Attributes:
        name: the registered name.
        family: its networks.
        data: its data, a class called with options.
        program: the program that trains its teachers, or None.
        latent: the default latent of students, a name in configs/latent/.
        kept: the options whose defaults a model's file may set, and their types: int, float, bool,
            str for a short name, dict for a process. Sizes and switches only: nothing that is
            opened, written, imported or run, or that changes what is trusted. All other options
            come from the user alone.
        new_teacher: makes an untrained product model, `(process, **sizes) -> Model`; None: the
            program trains the teachers.
        wrote: returns whether this program wrote the weights, if several hosts share a family.
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
        """Set a signature with the options that the user may give."""
        data_types = {name: p.annotation for name, p in (parameters(self.data) or {}).items()}
        arguments = inspect.signature(self.data).parameters
        shared_types = {"root": str | Path | None, "process": str | Mapping[str, Any] | None}
        foreign = self.program or self.family.said  # networks that are not ours
        annotations = (shared_types | dict(self.family.said) if foreign else {}) | data_types
        kind = inspect.Parameter.KEYWORD_ONLY
        defaults = {
            name: arguments[name].default if name in arguments else None for name in annotations
        }
        options = [
            inspect.Parameter(name, kind, default=defaults[name], annotation=_or_none(annotation))
            for name, annotation in annotations.items()
        ]
        object.__setattr__(self, "__signature__", inspect.Signature(options))

    @property
    def options(self) -> dict[str, Any]:
        """The options that the user may give, with their defaults."""
        return {name: p.default for name, p in inspect.signature(self).parameters.items()}

    def __call__(self, **options: Any) -> "OpenHost":
        """Return the host in use; None selects an option's default.

        Raises:
            UserError: for unknown options and values of the wrong type.
        """
        options = fitted(self, options, f"host {self.name!r}")
        return OpenHost(self, self.options | {k: v for k, v in options.items() if v is not None})


class OpenHost:
    """A host with a user's options, and the model that it serves.

    Attributes:
        value: the host.
        options: all options, with defaults.
        root: the program's checkout; None: see `importing.checkout`.
        typed: the prefix of an option as the user types it.
        known_process: the model's process, as plain values.
        place: where the model, or its base, was loaded from; None: unknown.
        vocabulary: of the model; None: unknown.
    """

    typed = "host."

    def __init__(self, value: Host, options: Mapping[str, Any]) -> None:
        self.value, self.options = value, dict(options)
        self.name, self.latent = value.name, value.latent
        self.root = options.get("root")
        family = value.family.at(self.root) if self.root else value.family
        self.family = family.trusting(options)
        self.process = named(options.get("process"))
        data_options = inspect.signature(value.data).parameters
        self.pictures = value.data(**{name: options[name] for name in data_options})
        self.known_sizes: Any = None
        self._data: Data | None = None
        self.known_process: Mapping[str, Any] = {}
        self.place: Place | None = None
        self.vocabulary: Vocabulary | None = None
        self.trained_with: Mapping[str, Any] = {}

    def adopt(self, model: Model) -> None:
        """Record the model that the host serves; raises UserError for one of another family."""
        kind, expected = model.network.kind, self.family.name
        if kind != expected:
            raise UserError(f"this is a model of {kind!r}, and host {self.name!r} has {expected!r}")
        self.known_sizes, self.known_process = model.network, model.process.config
        self.place = base_place(None, self.options.get("base")) or model.place
        self.vocabulary = vocabulary_in(model.info, "this model")
        trained_with = model.info.get("host")
        self.trained_with = trained_with if isinstance(trained_with, Mapping) else {}

    def described(self) -> dict[str, Any]:
        """Return {"host": {"name": ..., **options}} for a model's info; {} without options."""
        return {"host": {"name": self.name} | self.options} if self.options else {}

    def load_teacher(self, source: str | Path, *, ema: bool = True) -> Model:
        """Return the teacher, or student, that `source` names.

        Args:
            source: a file of the host's program or ours, a folder, a hub id, or `scheme:rest`.
            ema: use the moving averages if the file has them.

        Raises:
            UserError: if there is no such file, it is of another network, or sizes are missing.
        """
        if has_scheme(str(source)):
            model = load_scheme(str(source), ema=ema)
            self.adopt(model)
            return model
        return self.load(self.family.read(read_content(source), ema=ema))

    def load(self, weights: Weights) -> Model:
        """Return the model with these weights; raises UserError as `load_teacher`."""
        described = {name: self.options.get(name) for name in self.family.said}
        with refusing(f"{weights.origin} cannot be read"):
            model = self.family.load(weights, process=self.process, **described)
        if weights.fingerprint:  # not a model file of ours, which names its host itself
            kept = {k: v for k, v in self.options.items() if k in self.value.kept}
            model.info["host"] = {"name": self.name} | kept
        self.adopt(model)
        return model

    def build_student(self, teacher: Model, latent: dict[str, Any] | None) -> Model:
        """Return a student with the teacher's weights; raises UserError.

        With a latent it is a mixture, else a product model.
        """
        student: Model = self.family_for(teacher).student_of(teacher, latent)
        return student

    def family_for(self, teacher: Model) -> Family[Any]:
        """Return the family that makes students of a teacher; raises UserError as `adopt`."""
        self.adopt(teacher)
        family: Family[Any] = self.family if self.root else teacher.family or self.family
        return family

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
        """Return the training data, which are read once; raises UserError."""
        if self._data is None:
            self._data = self.pictures.read(self)
        return self._data

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

    def end(self) -> int | None:
        """See `HostData.end`."""
        return self.pictures.end(self)

    def picture(self, x: Tensor, path: Path) -> None:
        """See `HostData.picture`."""
        self.pictures.picture(self, x, path)

    def data_path(self, path: str | None) -> Path:
        """Return the path of the data; raises UserError if the user gave none."""
        if path is None:
            raise UserError(f"name the data of host {self.name!r}: {self.ask('data')}")
        return Path(path)

    def ask(self, option: str) -> str:
        """Return how to type an option that is a path, and its value in training, if known."""
        path = self.trained_with.get(option)
        hint = f" (trained with {quoted(path)}, its file says)" if isinstance(path, str) else ""
        return f"{self.typed}{option}=PATH{hint}"

    @property
    def sizes(self) -> Any:
        """The sizes of the network; raises UserError if no model is known yet."""
        if self.known_sizes is None:
            raise UserError(f"host {self.name!r} needs its teacher before data or pictures")
        return self.known_sizes


def _or_none(annotation: Any) -> Any:
    """Return the annotation with None allowed; one that cannot be checked stays as it is."""
    anything = annotation is inspect.Parameter.empty or isinstance(annotation, str)
    return annotation if anything else annotation | None


def named(process: Any) -> dict[str, Any] | None:
    """Return the name and options of a process, which a user may give by name alone.

    Raises:
        UserError: for anything but a name or a mapping.
    """
    if isinstance(process, str):
        return {"name": process}
    if process is not None and not isinstance(process, Mapping):
        raise UserError(f"process is a name, or a name and options, not {process!r}")
    return dict(process) if process else None
