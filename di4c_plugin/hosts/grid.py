"""Data of the two generations of MaskGIT: codes, or pictures by the program's VQ model."""

from pathlib import Path

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.announce import announce_once
from di4c_plugin.data.codes import holds_codes, read_codes
from di4c_plugin.data.encoding import encode
from di4c_plugin.data.pictures import Progress, read_pictures
from di4c_plugin.data.vq import VQ, load_vq
from di4c_plugin.errors import UserError
from di4c_plugin.hosts.base import HostData, OpenHost

GREY = 128
# Work on fewer files is over before anybody wonders.
TOLD_FROM = 1000
KEPT: dict[str, type] = {
    **{"dropout": float, "mirror": bool, "process": dict},
    **{"image_size": int, "heads": int, "carry_over": bool},
}


class GridData(HostData):
    """Codes.

    Args:
        data: codes (see `read_codes`), or a folder of pictures, which needs `vqgan`.
        vqgan: the host's VQ model, see `load_vq`. Without one, codes are drawn as grey levels.
        image_size: of the pictures that go into the VQ model, a side.
        mirror: whether pictures count twice, once mirrored (v1 mirrors at random).
        cache: file of the codes of pictures, written once; None: in the user's cache.
    """

    def __init__(
        self,
        data: str | None = None,
        vqgan: str | None = None,
        image_size: int = 256,
        mirror: bool = False,
        cache: str | None = None,
    ) -> None:
        self.path, self.vqgan, self.image_size = data, vqgan, image_size
        self.mirror, self.cache = mirror, cache
        self._vq: VQ | None = None

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`: codes (M, D) and labels."""
        path, sizes = host.place(self.path), host.sizes
        if holds_codes(path):
            limits = {"side": sizes.side, "codes": sizes.codes, "classes": sizes.classes}
            return read_codes(path, **limits, progress=told("codes read"))
        return self.encoded(host, path)

    def encoded(self, host: OpenHost, folder: Path) -> Data:
        """Return the codes of a folder of pictures, made once; raises UserError."""
        sizes = host.sizes
        pictures = read_pictures(folder, self.image_size, classes=sizes.classes, mirror=self.mirror)
        if self.vqgan is None:
            raise UserError(f"{folder} holds pictures: name the VQ model, {host.ask('vqgan')}")
        vq = self.vq(host).to("cuda" if torch.cuda.is_available() else "cpu")
        vq.check(side=sizes.side, codes=sizes.codes, image_size=self.image_size)
        return encode(pictures, vq, cache=self.cache, progress=told("pictures encoded"))

    def vq(self, host: OpenHost) -> VQ:
        """Return the VQ model, read once; raises UserError."""
        if self._vq is None:
            vq = load_vq(host.family.name, str(self.vqgan), host.root)
            vq.check(side=host.sizes.side, codes=host.sizes.codes)
            self._vq = vq
        return self._vq

    def check_drawing(self, host: OpenHost) -> None:
        """See `HostData.check_drawing`: without the VQ model codes are no pictures to compare."""
        if self.vqgan is None and host.trained_with.get("vqgan") is not None:
            raise UserError(f"name the VQ model that draws the pictures: {host.ask('vqgan')}")

    def images(self, host: OpenHost, x: Tensor) -> Tensor:
        """See `HostData.images`: decoded (n, 3, H, W), or codes as grey levels (n, 1, h, w)."""
        sizes = host.sizes
        if x.shape[1] != sizes.positions:
            raise UserError(f"pictures have {sizes.side} x {sizes.side} codes, not {x.shape[1]}")
        codes = x.view(-1, sizes.side, sizes.side)
        if self.vqgan is None:
            announce_once(f"codes are drawn as grey levels; for pictures: {host.ask('vqgan')}")
            return grey(codes, sizes.codes)
        vq = self.vq(host)
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
