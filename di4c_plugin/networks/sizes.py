"""What a network's sizes tell, whichever network it is."""

from typing import Any, ClassVar, Protocol


class NetworkConfig(Protocol):
    """A frozen dataclass of plain values that, with weights, process and latent, make a network.

    `kind` stands in model files and says whose network it is.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]

    @property
    def positions(self) -> int:
        """D, tokens of an example."""

    @property
    def num_classes(self) -> int:
        """How many class labels the network takes; 0 for none."""
