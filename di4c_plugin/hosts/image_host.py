"""What `di4c` does with an image host: teachers, students, data and pictures of it.

The hosts have neither Hydra nor Lightning, so `di4c train host=…` trains their networks; teachers
are trained by the hosts' own programs.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from di4c_plugin.checkpoints.description import sizes_of
from di4c_plugin.checkpoints.model import STUDENT, Model, bare_names, role_of
from di4c_plugin.checkpoints.model_file import read_file
from di4c_plugin.checkpoints.ours import our_kind
from di4c_plugin.checkpoints.places import locate
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError, quoted, refusing
from di4c_plugin.families.base import ImageNetworks
from di4c_plugin.hosts.base import Host

# What every process of a network has in common with its host's.
SHARED = ("num_tokens", "mask")
SETTINGS = ("dropout", "carry_over")


class ImageHost(Host):
    """An image host by its networks and a user's options, those of configs/host/<name>.yaml.

    Args:
        root: the host's checkout; None: see `importing.checkout`.
        data: folder or file of the training data; None: there are none.
        process: name of the process, or name and options; None: that of the host, and of a model
            file of ours the one that it was saved with.
        options: all options as the user gave them, to be kept with models.
    """

    networks: ClassVar[ImageNetworks[Any, Any]]
    kept: ClassVar[Mapping[str, type]] = {"dropout": float, "mirror": bool, "process": dict}

    def __init__(
        self,
        *,
        root: str | None,
        data: str | None,
        process: str | Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.root, self.path = root, data
        self.process = named(process)
        self.options = {"name": self.networks.host} | dict(options)
        self.sizes: Any = None
        self.trained_with: Mapping[str, Any] = {}

    def adopt(self, model: Model) -> None:
        """See `Host.adopt`.

        Raises:
            UserError: for a model of another host's network.
        """
        kind, host = model.network.kind, self.networks.host
        if kind != host:
            raise UserError(f"this is a model of {kind!r}, not of host {host!r}")
        self.sizes = model.network
        described = model.info.get("host")
        self.trained_with = described if isinstance(described, Mapping) else {}

    @abstractmethod
    def size_options(self) -> dict[str, Any]:
        """Return the options of `ImageNetworks.sizes`."""

    def read(self, path: Path, *, ema: bool = True) -> Weights:
        """Read a checkpoint of the host; raises UserError."""
        return self.networks.read(path)

    def load_teacher(self, source: str | Path, *, ema: bool = True) -> Model:
        """Return the teacher, or student, in a checkpoint of the host or a model file of ours.

        Args:
            source: path of the file, or of a folder with model.safetensors or pytorch_model.bin.
            ema: take the moving averages where the file has some.

        Raises:
            UserError: no such file, or one of another network, or sizes that are still missing.
        """
        path = Path(source)
        if path.is_dir():
            path = locate(path).path
        if not path.is_file():
            name = self.networks.host
            raise UserError(f"no checkpoint {source}: host={name} takes teacher=PATH of a file")
        if our_kind(path) is not None:
            return self.restore(path)
        with refusing(f"{path} cannot be read"):
            weights = self.read(path, ema=ema)
            sizes = self.networks.sizes(weights, **self.size_options())
        denoiser = self.networks.restore(
            weights, sizes, process=self.process_for(sizes), root=self.root
        )
        self.sizes = sizes
        info = {"origin": weights.origin, "fingerprint": weights.fingerprint}
        # No places: a model's file is for everybody, and nobody takes them from it.
        kept = {k: v for k, v in self.options.items() if k == "name" or k in self.kept}
        role = role_of({"latent": weights.latent})
        return Model(denoiser, sizes, weights.latent, info | {"host": kept}, role)

    def restore(self, path: Path) -> Model:
        """Return what `save_model` wrote of this host's networks.

        Raises:
            UserError: for a model of another network, or a damaged file.
        """
        description, tensors = read_file(path)
        kind = description.get("kind", "transformer")
        if kind != self.networks.host:
            raise UserError(f"{path} is a model of {kind!r}, not of host {self.networks.host!r}")
        kind = self.networks.made_of
        sizes = sizes_of(kind, description["network"], str(path), weights=len(tensors))
        sizes = replace(sizes, **self.settings())
        latent, info = description["latent"], dict(description["info"])
        weights = Weights(tensors, latent, {}, None, str(path), "")
        process = self.process_for(sizes) if self.process else dict(description["process"])
        role, sampling = role_of(description), dict(description.get("sampling", {}))
        self.sizes = sizes
        denoiser = self.networks.restore(weights, sizes, process=process, root=self.root)
        return Model(denoiser, sizes, latent, info, role, sampling)

    def settings(self) -> dict[str, Any]:
        """Return what was asked for of the options that change a network and no weight of it."""
        return {k: v for k, v in self.size_options().items() if k in SETTINGS and v is not None}

    def build_student(self, teacher: Model, latent: dict[str, Any] | None) -> Model:
        """See `Host.build_student`."""
        self.adopt(teacher)
        weights = Weights(bare_names(teacher), teacher.latent, {}, None, "the teacher", "")
        denoiser = self.networks.student(
            weights, teacher.network, latent, process=teacher.process.config, root=self.root
        )
        return Model(denoiser, teacher.network, latent, role=STUDENT)

    def new_teacher(self, process: dict[str, Any], **sizes: Any) -> Model:
        """See `Host.new_teacher`; there is none.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"teachers of {self.networks.host} are trained by its own program, "
            "for example under `di4c run`"
        )

    def described(self) -> dict[str, Any]:
        """See `Host.described`."""
        return {"host": self.options}

    def process_for(self, sizes: Any) -> dict[str, Any]:
        """Return the process for a network of these sizes, as `build_process` takes it."""
        default = self.networks.default_process(sizes)
        asked = self.process or default
        same = asked.get("name", default["name"]) == default["name"]
        kept = default if same else {k: v for k, v in default.items() if k in SHARED}
        return kept | asked

    def asked(self) -> tuple[Path, Any]:
        """Return where the data are, and the sizes of the network that they are for.

        Raises:
            UserError: if nobody said.
        """
        name = self.networks.host
        if self.path is None:
            raise UserError(f"name the data of host {name!r}: {self.ask('data')}")
        return Path(self.path), self.known_sizes()

    def ask(self, option: str) -> str:
        """Return what the user types for a path, and what the model's file says it was."""
        said = self.trained_with.get(option)
        told = f" (trained with {quoted(said)}, its file says)" if isinstance(said, str) else ""
        return f"{self.typed}{option}=PATH{told}"

    def known_sizes(self) -> Any:
        """Return the sizes of the network; raises UserError before there is one."""
        if self.sizes is None:
            raise UserError(
                f"host {self.networks.host!r} needs its teacher before data or pictures"
            )
        return self.sizes


def named(process: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the name and options of a process, of which a user may give the name alone.

    Raises:
        UserError: for anything else.
    """
    if isinstance(process, str):
        return {"name": process}
    if process is not None and not isinstance(process, Mapping):
        raise UserError(f"process is a name, or a name and options, not {process!r}")
    return dict(process) if process else None
