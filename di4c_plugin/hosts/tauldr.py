"""tauLDR as a host: pixels of pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.data.codes import read_levels
from di4c_plugin.errors import UserError
from di4c_plugin.families.tauldr import TauLDRNetworks, TauLDRSizes
from di4c_plugin.families.tauldr_files import read_config
from di4c_plugin.hosts.grid import grey
from di4c_plugin.hosts.image_host import ImageHost


class TauLDRHost(ImageHost):
    """tauLDR.

    Args:
        data: pictures or levels, see `read_levels`.
        root: the host's checkout.
        process: see `ImageHost`; the host's is as its config says.
        config: the host's config_001.yaml, where it does not lie beside the folder of checkpoints.
        mirror: whether pictures count twice, once mirrored, as the host mirrors CIFAR-10 at random.
        dropout: while distilling; None: the host's, and of a model file of ours its own.
    """

    latent = "unet"
    networks: ClassVar[TauLDRNetworks] = TauLDRNetworks()

    def __init__(
        self,
        *,
        data: str | None = None,
        root: str | None = None,
        process: str | Mapping[str, Any] | None = None,
        config: str | None = None,
        mirror: bool = False,
        dropout: float | None = None,
    ) -> None:
        places = {"data": data, "root": root, "process": process, "config": config}
        rest = {"mirror": mirror, "dropout": dropout}
        super().__init__(root=root, data=data, process=process, options=places | rest)
        self.config, self.mirror, self.dropout = config, mirror, dropout

    def size_options(self) -> dict[str, Any]:
        """See `ImageHost.size_options`."""
        config = None if self.config is None else read_config(Path(self.config))
        return {"config": config, "dropout": self.dropout}

    def read(self, path: Path, *, ema: bool = True) -> Weights:
        """See `ImageHost.read`."""
        return self.networks.read(path, ema=ema)

    def data(self) -> Data:
        """See `Host.data`: levels (M, C H W), no labels."""
        path, sizes = self.asked()
        return read_levels(path, shape=sizes.shape, levels=sizes.num_tokens, mirror=self.mirror)

    def images(self, x: Tensor) -> Tensor:
        """See `Host.images`: (n, C, H, W)."""
        sizes: TauLDRSizes = self.known_sizes()
        if x.shape[1] != sizes.positions:
            size = " x ".join(map(str, sizes.shape))
            raise UserError(f"pictures have {size} levels, not {x.shape[1]}")
        return grey(x, sizes.num_tokens).view(-1, *sizes.shape)
