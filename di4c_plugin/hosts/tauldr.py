"""tauLDR as a host: pixels of pictures."""

from math import prod

from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.data.codes import read_levels
from di4c_plugin.errors import UserError
from di4c_plugin.families.tauldr import TauLDRNetworks
from di4c_plugin.hosts.base import Host, HostData, OpenHost
from di4c_plugin.hosts.grid import grey
from di4c_plugin.programs.tauldr import PROGRAM


class Levels(HostData):
    """Pixels.

    Args:
        data: pictures or levels, see `read_levels`.
        mirror: whether each picture is also used mirrored; the host mirrors CIFAR-10 at random.
    """

    def __init__(self, data: str | None = None, mirror: bool = False) -> None:
        self.path, self.mirror = data, mirror

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`: levels (M, C H W), no labels."""
        path, sizes = host.data_path(self.path), host.sizes
        return read_levels(path, shape=sizes.shape, levels=sizes.num_tokens, mirror=self.mirror)

    def images(self, host: OpenHost, x: Tensor) -> Tensor:
        """See `HostData.images`: (n, C, H, W)."""
        shape = host.sizes.shape
        if x.shape[1] != prod(shape):
            size = " x ".join(map(str, shape))
            raise UserError(f"pictures have {size} levels, not {x.shape[1]}")
        return grey(x, host.sizes.num_tokens).view(-1, *shape)


HOST = Host(
    "tauldr",
    TauLDRNetworks(),
    Levels,
    program=PROGRAM,
    latent="unet",
    kept={"dropout": float, "mirror": bool, "process": dict},
)
