"""The contract of a network's sizes."""

from typing import Any, ClassVar, Protocol


class NetworkConfig(Protocol):
    """A frozen dataclass of plain values that, with weights, process and latent, build a network.

    `kind` is written in model files, and names the family.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]

    @property
    def positions(self) -> int:
        """D, tokens of an example."""

    @property
    def num_classes(self) -> int:
        """The number of class labels; 0 for none."""
