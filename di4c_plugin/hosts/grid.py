"""MaskGIT-pytorch v1 and Halton-MaskGIT as hosts: codes, or pictures by the host's VQ model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.announce import announce_once
from di4c_plugin.data.codes import holds_codes, read_codes
from di4c_plugin.data.encoding import encode
from di4c_plugin.data.pictures import Progress, read_pictures
from di4c_plugin.data.vq import VQ, load_vq
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridNetworks, GridSizes
from di4c_plugin.families.halton import HaltonNetworks
from di4c_plugin.families.maskgit import MaskGITNetworks
from di4c_plugin.hosts.image_host import ImageHost

GREY = 128
# Work on fewer files is over before anybody wonders.
TOLD_FROM = 1000


class GridHost(ImageHost):
    """What the two generations of MaskGIT have in common.

    Args:
        data: codes (see `read_codes`), or a folder of pictures, which needs `vqgan`.
        vqgan: the host's VQ model, see `load_vq`. Without one, codes are drawn as grey levels.
        root: the host's checkout.
        process: see `ImageHost`; the host's is the confidence order.
        image_size: of the pictures that go into the VQ model, a side.
        mirror: whether pictures count twice, once mirrored (v1 mirrors at random).
        cache: file of the codes of pictures, written once; None: in the user's cache.
        heads: attention heads, where the size of the network is none that the host names.
        classes: of v1, if its network was made for another number than 1000.
        dropout: while distilling; None: the host's, and of a model file of ours its own.
        carry_over: see `GridDenoiser`; None likewise.
    """

    networks: ClassVar[GridNetworks[Any]]
    kept: ClassVar[Mapping[str, type]] = {
        **ImageHost.kept,
        "image_size": int,
        "heads": int,
        "classes": int,
        "carry_over": bool,
    }

    def __init__(
        self,
        *,
        data: str | None = None,
        vqgan: str | None = None,
        root: str | None = None,
        process: str | Mapping[str, Any] | None = None,
        image_size: int = 256,
        mirror: bool = False,
        cache: str | None = None,
        heads: int | None = None,
        classes: int | None = None,
        dropout: float | None = None,
        carry_over: bool | None = None,
    ) -> None:
        own = {"heads": heads, "classes": classes, "dropout": dropout, "carry_over": carry_over}
        pictures = {"vqgan": vqgan, "image_size": image_size, "mirror": mirror, "cache": cache}
        places = {"data": data, "root": root, "process": process}
        super().__init__(root=root, data=data, process=process, options=places | pictures | own)
        self.vqgan, self.image_size = vqgan, image_size
        self.mirror, self.cache, self.own = mirror, cache, own
        self._vq: VQ | None = None

    def size_options(self) -> dict[str, Any]:
        """See `ImageHost.size_options`."""
        return self.own

    def data(self) -> Data:
        """See `Host.data`: codes (M, D) and labels."""
        path, sizes = self.asked()
        if holds_codes(path):
            limits = {"side": sizes.side, "codes": sizes.codes, "classes": sizes.classes}
            return read_codes(path, **limits, progress=told("codes read"))
        return self.encoded(path, sizes)

    def encoded(self, folder: Path, sizes: GridSizes) -> Data:
        """Return the codes of a folder of pictures, made once; raises UserError."""
        pictures = read_pictures(folder, self.image_size, classes=sizes.classes, mirror=self.mirror)
        if self.vqgan is None:
            raise UserError(f"{folder} holds pictures: name the VQ model, {self.ask('vqgan')}")
        vq = self.vq(sizes).to("cuda" if torch.cuda.is_available() else "cpu")
        vq.check(side=sizes.side, codes=sizes.codes, image_size=self.image_size)
        return encode(pictures, vq, cache=self.cache, progress=told("pictures encoded"))

    def vq(self, sizes: GridSizes) -> VQ:
        """Return the VQ model, read once; raises UserError."""
        if self._vq is None:
            vq = load_vq(self.networks.host, str(self.vqgan), self.root)
            vq.check(side=sizes.side, codes=sizes.codes)
            self._vq = vq
        return self._vq

    def check_drawing(self) -> None:
        """See `Host.check_drawing`: without the VQ model codes are no pictures to compare."""
        if self.vqgan is None and self.trained_with.get("vqgan") is not None:
            raise UserError(f"name the VQ model that draws the pictures: {self.ask('vqgan')}")

    def images(self, x: Tensor) -> Tensor:
        """See `Host.images`: decoded (n, 3, H, W), or codes as grey levels (n, 1, h, w)."""
        sizes: GridSizes = self.known_sizes()
        if x.shape[1] != sizes.positions:
            raise UserError(f"pictures have {sizes.side} x {sizes.side} codes, not {x.shape[1]}")
        codes = x.view(-1, sizes.side, sizes.side)
        if self.vqgan is None:
            announce_once(f"codes are drawn as grey levels; for pictures: {self.ask('vqgan')}")
            return grey(codes, sizes.codes)
        vq = self.vq(sizes)
        return torch.cat([vq.draw(part) for part in codes.split(16)])


def told(what: str) -> Progress:
    """Return what tells the user, after each tenth, how many are done; of small data nothing."""
    tenths: list[int] = []

    def tell(done: int, whole: int) -> None:
        tenth = 10 * done // whole
        if whole >= TOLD_FROM and tenth not in tenths:
            tenths.append(tenth)
            announce_once(f"{done} of {whole} {what}")

    return tell


def grey(codes: Tensor, levels: int) -> Tensor:
    """Return codes (n, h, w) as (n, 1, h, w), uint8; what is no code is mid-grey."""
    values = (codes.long() * 255 / (levels - 1)).round()
    return values.where((codes >= 0) & (codes < levels), GREY).byte().unsqueeze(1)


class MaskGITHost(GridHost):
    """MaskGIT-pytorch v1; lambda by default as in the official student."""

    latent = "token"
    networks = MaskGITNetworks()


class HaltonHost(GridHost):
    """Halton-MaskGIT, whose weights tell the number of classes."""

    networks = HaltonNetworks()
