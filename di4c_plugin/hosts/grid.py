"""Data of both generations of MaskGIT: codes, or pictures encoded by the program's VQ model."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.announce import announce_once
from di4c_plugin.data.codes import holds_codes, read_codes
from di4c_plugin.data.encoding import encode
from di4c_plugin.data.pictures import Progress, read_pictures
from di4c_plugin.data.vq import VQ
from di4c_plugin.errors import UserError
from di4c_plugin.hosts.base import HostData, OpenHost

GREY = 128
# With fewer items no progress is shown.
REPORT_FROM = 1000
KEPT: dict[str, type] = {
    **{"dropout": float, "mirror": bool, "process": dict},
    **{"image_size": int, "heads": int, "carry_over": bool},
}


class GridData(HostData):
    """Codes; a host says how its VQ model is loaded, `(host, path, root) -> VQ`.

    Args:
        data: codes (see `read_codes`), or a folder of pictures, which needs `vqgan`.
        vqgan: the host's VQ model, see `load`; None: codes are drawn as grey levels.
        image_size: side of the VQ model's input, in pixels.
        mirror: whether each picture is also used mirrored (v1 mirrors at random).
        cache: file for the codes of pictures; None: in the user's cache folder.
    """

    load: ClassVar[Callable[..., VQ]]

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
        path, sizes = host.data_path(self.path), host.sizes
        if holds_codes(path):
            limits = {"side": sizes.side, "codes": sizes.codes, "classes": sizes.classes}
            return read_codes(path, **limits, progress=reporter("codes read"))
        return self.encoded(host, path)

    def encoded(self, host: OpenHost, folder: Path) -> Data:
        """Return the codes of a folder of pictures, cached; raises UserError."""
        sizes = host.sizes
        pictures = read_pictures(folder, self.image_size, classes=sizes.classes, mirror=self.mirror)
        if self.vqgan is None:
            raise UserError(f"{folder} holds pictures: name the VQ model, {host.ask('vqgan')}")
        vq = self.vq(host).to("cuda" if torch.cuda.is_available() else "cpu")
        vq.check(side=sizes.side, codes=sizes.codes, image_size=self.image_size)
        return encode(pictures, vq, cache=self.cache, progress=reporter("pictures encoded"))

    def vq(self, host: OpenHost) -> VQ:
        """Return the VQ model, loaded once; raises UserError."""
        if self._vq is None:
            vq = type(self).load(host.family.name, str(self.vqgan), host.root)
            vq.check(side=host.sizes.side, codes=host.sizes.codes)
            self._vq = vq
        return self._vq

    def check_drawing(self, host: OpenHost) -> None:
        """See `HostData.check_drawing`: grey levels cannot be compared with pictures."""
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


def reporter(what: str) -> Progress:
    """Return a callback that announces every tenth of the progress, unless the data are small."""
    tenths: list[int] = []

    def report(done: int, total: int) -> None:
        tenth = 10 * done // total
        if total >= REPORT_FROM and tenth not in tenths:
            tenths.append(tenth)
            announce_once(f"{done} of {total} {what}")

    return report


def grey(codes: Tensor, levels: int) -> Tensor:
    """Return codes (n, h, w) as (n, 1, h, w), uint8; other tokens are mid-grey."""
    values = (codes.long() * 255 / (levels - 1)).round()
    return values.where((codes >= 0) & (codes < levels), GREY).byte().unsqueeze(1)
