"""The VQ models of both MaskGITs, from the hosts' own classes: pictures to codes and back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import load_weights
from di4c_plugin.checkpoints.storages import check_total
from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.checkpoints.weights import fingerprint
from di4c_plugin.errors import UserError, reason
from di4c_plugin.families.importing import host_module
from di4c_plugin.plain_files import read_yaml

LLAMAGEN = "vq_ds16_c2i.pt"
EMBEDDING = "quantize.embedding.weight"
CHUNK = 16  # pictures at once: distances to 16384 codes are 16 MiB for each of 256 x 256 pixels
NUMBERS = 8  # dimension of a code, fixed in Halton-MaskGIT's decoder
CHANNELS = 128  # of its first convolution
GREY = 128
# Entries of taming-transformers' config that define the network, without files and classes.
SIZES = ("n_embed", "embed_dim")
LAYERS = (
    *("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resamp_with_conv", "dropout"),
    *("in_channels", "out_ch", "resolution", "z_channels", "double_z", "give_pre_end"),
)


class VQ:
    """Converts pictures to codes and back, in fp32, without gradients.

    Not an `nn.Module`, so that it is never trained or saved with other networks.

    Attributes:
        model: of the host, in eval mode.
        n_codes: K.
        factor: pixels of a picture for each code, along a side.
        fingerprint: of the weights.
        origin: the file of the weights.
    """

    def __init__(self, model: nn.Module, n_codes: int, fingerprint: str, origin: str) -> None:
        network: Any = model.float().eval().requires_grad_(False)
        self.model = network
        self.n_codes, self.fingerprint, self.origin = n_codes, fingerprint, origin
        self.factor: int = 2 ** (network.encoder.num_resolutions - 1)
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> "VQ":
        """Move the model; returns itself."""
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return codes (B, h, w), int64, of images (B, 3, H, W) in [-1, 1], on their device.

        Raises:
            UserError: if H or W is not a multiple of `factor`.
        """
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            raise UserError(
                f"pictures of {height} x {width} pixels are no grid of codes: {self.origin} makes "
                f"one code of {self.factor} x {self.factor}"
            )
        grid = (-1, height // self.factor, width // self.factor)
        return torch.cat([self._codes(part).view(grid) for part in images.split(CHUNK)])

    def _codes(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            codes: Tensor = self.model.encode(images.to(self.device, torch.float32))[2][2]
        return codes.to(images.device)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W), uint8, of codes (B, h, w), on their device.

        Values are cut to [-1, 1] and rounded: 255 (v + 1) / 2.
        """
        return torch.cat([self._pixels(part) for part in codes.split(CHUNK)])

    def _pixels(self, codes: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            images: Tensor = self.model.decode_code(codes.to(self.device, torch.int64))
        return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).to(codes.device)

    def draw(self, codes: Tensor) -> Tensor:
        """As `decode`, with invalid codes, such as the mask, in mid-grey."""
        unknown = (codes < 0) | (codes >= self.n_codes)
        pixels = self.decode(codes.masked_fill(unknown, 0))
        hidden = unknown.repeat_interleave(self.factor, 1).repeat_interleave(self.factor, 2)
        return pixels.masked_fill(hidden.unsqueeze(1), GREY)

    def check(self, *, side: int, codes: int, image_size: int | None = None) -> None:
        """Refuse a network with another code book, or with another grid for this picture size.

        Args:
            side: h = w of the network.
            codes: K of the network.
            image_size: H = W of pictures; None if codes are only decoded.

        Raises:
            UserError: naming both.
        """
        if codes != self.n_codes:
            raise UserError(f"{self.origin} has {self.n_codes} codes, and the network {codes}")
        if image_size is not None and image_size != side * self.factor:
            raise UserError(
                f"pictures of {image_size} x {image_size} do not make the network's grid of "
                f"{side} x {side} codes: with {self.origin} image_size is {side * self.factor}"
            )


def load_taming(host: str, path: str | Path, root: str | Path | None = None) -> VQ:
    """Return a VQGAN of taming-transformers, on the CPU; nothing of the files is executed.

    Args:
        host: the program with the class.
        path: a folder with configs/model.yaml and ckpts/last.ckpt, or both without these folders.
        root: of the program's checkout; None: see `importing.checkout`.

    Raises:
        UserError: if files or packages are missing, or weights do not fit.
    """
    folder, where = Path(path), "the hub's llvictorll/Maskgit-pytorch has both"
    config = existing(host, [folder / "configs/model.yaml", folder / "model.yaml"], where)
    file = existing(host, [folder / "ckpts/last.ckpt", folder / "last.ckpt"], where)
    kind = host_module(host, "Network.Taming.models.vqgan", root).VQModel
    model = made(kind, parameters(config), config)
    tensors = state_of(file, "state_dict")
    expected = model.state_dict()  # the file has the loss's networks too, which the host leaves out
    return filled(model, {k: v for k, v in tensors.items() if k in expected}, file)


def load_llamagen(host: str, path: str | Path, root: str | Path | None = None) -> VQ:
    """As `load_taming`, of LlamaGen's VQ model: `path` is its file, or the folder of that."""
    path, where = Path(path), f"the hub's FoundationVision/LlamaGen has {LLAMAGEN}"
    file = existing(host, [path / LLAMAGEN if path.is_dir() else path], where)
    tensors = state_of(file, "model")
    if (numbers := tensors[EMBEDDING].shape[1]) != NUMBERS:
        raise UserError(f"{file} has codes of {numbers} numbers; Halton-MaskGIT decodes {NUMBERS}")
    module = host_module(host, "Network.vq_model", root)
    model = made(lambda **sizes: module.VQModel(module.ModelArgs(**sizes)), layout(tensors), file)
    return filled(model, tensors, file)


def filled(model: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> VQ:
    """Return a model with these weights of a file; raises UserError if they do not fit."""
    load_weights(model, dict(tensors), str(file))
    weights = model.state_dict()
    return VQ(model, len(weights[EMBEDDING]), fingerprint(weights), str(file))


def existing(host: str, files: Iterable[Path], where: str) -> Path:
    """Return the first of these files that exists.

    Raises:
        UserError: naming the first, and where to get it.
    """
    files = list(files)
    if first := next((file for file in files if file.is_file()), None):
        return first
    raise UserError(f"no VQGAN for {host}: {files[0]} is missing ({where})")


def parameters(config: Path) -> dict[str, Any]:
    """Return the sizes in `model.params` of one of taming-transformers' configs.

    Entries for other files and for classes (ckpt_path, remap, lossconfig) are ignored.

    Raises:
        UserError: if there are none, or they are not numbers, or codes are renumbered by a file.
    """
    content = read_yaml(config)
    try:
        params, layers = content["model"]["params"], content["model"]["params"]["ddconfig"]
        sizes = {name: params[name] for name in SIZES if name in params}
        layers = {name: layers[name] for name in LAYERS if name in layers}
        remap = params.get("remap")
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{config} is no config of a VQGAN: it has no model.params.ddconfig"
        ) from error
    for name, value in (sizes | layers).items():
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(number, int | float) for number in numbers):
            raise UserError(f"{config} is no config of a VQGAN: {name} is no number")
    if remap is not None:
        raise UserError(f"{config} renumbers its codes by another file (remap), which is not read")
    return sizes | {"ddconfig": layers, "lossconfig": {}}


def made(kind: Any, options: Mapping[str, Any], origin: Path) -> nn.Module:
    """Return `kind(**options)`; raises UserError, naming `origin`, if that fails."""
    try:
        model: nn.Module = kind(**options)
    except Exception as error:  # bad sizes may raise anything
        raise UserError(f"{origin} does not make the host's VQ model: {reason(error)}") from error
    return model


def state_of(file: Path, key: str) -> dict[str, Tensor]:
    """Return the tensors under `key` of a checkpoint.

    Raises:
        UserError: if they are not those of a VQ model.
    """
    state = load_inert(file).get(key)
    tensors = state.items() if isinstance(state, Mapping) else ()
    vq_tensors = {str(name): value for name, value in tensors if isinstance(value, Tensor)}
    if EMBEDDING not in vq_tensors:
        raise UserError(f"{file} holds no VQ model: {key!r} has no {EMBEDDING}")
    check_total(vq_tensors, file.stat().st_size, str(file))
    return vq_tensors


def layout(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the `ModelArgs` of LlamaGen's VQ model with these weights.

    VQ-16 has widths 1, 1, 2, 2, 4 in units of `CHANNELS`, VQ-8 has 1, 2, 2, 4.
    """
    return {
        "codebook_size": len(tensors[EMBEDDING]),
        "codebook_embed_dim": NUMBERS,
        "codebook_show_usage": "quantize.codebook_used" in tensors,
        "encoder_ch_mult": widths(tensors, "encoder"),
        "decoder_ch_mult": widths(tensors, "decoder")[::-1],
        "z_channels": len(tensors.get("encoder.conv_out.weight", ())),
    }


def widths(tensors: Mapping[str, Tensor], part: str) -> list[int]:
    """Return the widths of an encoder's or decoder's blocks, in order."""
    name = f"{part}.conv_blocks.{{}}.res.0.conv1.weight"
    multiples: list[int] = []
    while (key := name.format(len(multiples))) in tensors:
        multiples.append(len(tensors[key]) // CHANNELS)
    return multiples
