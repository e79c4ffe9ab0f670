"""What a host adapter gives: data, networks, and what to compare samples with.

Hosts without a training program of their own are driven by `di4c train`; those with one get further
methods where they live. Tests: tests/hosts/.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.hosts.sources import find_latent, load_source
from di4c_plugin.models import Model, student_of


class Host(ABC):
    """One kind of data and network."""

    @abstractmethod
    def data(self) -> Data:
        """Return the training data."""

    @abstractmethod
    def new_teacher(self, process: dict[str, Any], **sizes: Any) -> Model:
        """Return an untrained product model for the process described; raises UserError."""

    def load_teacher(self, source: str) -> Model:
        """Return the teacher that `source` names; raises UserError."""
        return load_source(source)

    def build_student(self, teacher: Model, latent: dict[str, Any]) -> Model:
        """Return a mixture that starts from the teacher's weights; raises UserError."""
        return student_of(teacher, latent, find_latent=find_latent)

    @abstractmethod
    def picture(self, x: Tensor, path: Path) -> None:
        """Draw samples x (n, D) to an image file, whatever that means for this data."""
