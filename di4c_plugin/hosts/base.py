"""What a host adapter gives: data, networks, and what to compare samples with.

Hosts without a training program of their own are driven by `di4c train`; those with one get further
methods where they live.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.model import Model, student_of
from di4c_plugin.errors import UserError
from di4c_plugin.hosts.sources import load_source


class Host(ABC):
    """One kind of data and network.

    Attributes:
        latent: how a student takes lambda where nothing else is asked for: a file of
            configs/latent/.
        kept: the options that are taken from a model's file where the user gives none, and their
            types: int, float, bool, str for a short name, dict for a process. Sizes and switches
            only: nothing that is opened, written, imported or run, nor trusted more or less. All
            other options are the user's alone.
        typed: what goes before an option where the user types it.
    """

    latent: ClassVar[str] = "adaln"
    kept: ClassVar[Mapping[str, type]] = {}
    typed: str = "host."

    def adopt(self, model: Model) -> None:  # noqa: B027
        """Take note of the model whose data and pictures will be asked for; raises UserError."""

    def described(self) -> dict[str, Any]:
        """Return {"host": {"name": ..., **options}}, to be kept with models; or {}."""
        return {}

    @abstractmethod
    def data(self) -> Data:
        """Return the training data; raises UserError."""

    @abstractmethod
    def new_teacher(self, process: dict[str, Any], **sizes: Any) -> Model:
        """Return an untrained product model for the process described; raises UserError."""

    def load_teacher(self, source: str | Path, *, ema: bool = True) -> Model:
        """Return the teacher that `source` names; raises UserError."""
        return load_source(source, ema=ema)

    def build_student(self, teacher: Model, latent: dict[str, Any] | None) -> Model:
        """Return a network that starts from the teacher's weights; raises UserError.

        With a latent it is a mixture, else a product model.
        """
        return student_of(teacher, latent)

    def check_drawing(self) -> None:  # noqa: B027
        """Refuse to judge pictures that are not drawn as in the training; raises UserError."""

    def images(self, x: Tensor) -> Tensor:
        """Return samples x (n, D) as pictures (n, C, H, W), uint8; C is 1 (grey) or 3.

        Positions that are still unknown are mid-grey.

        Raises:
            UserError: where samples are no pictures.
        """
        raise UserError(f"samples of {type(self).__name__} are no pictures")

    def picture(self, x: Tensor, path: Path) -> None:
        """Draw samples x (n, D) to a PNG file: by default a grid of `images`; raises UserError."""
        from di4c_plugin.evaluation.pictures import image_grid

        image_grid(self.images(x), path)
