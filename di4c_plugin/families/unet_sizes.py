"""The layout of tauLDR's U-Net, from its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

DOWN = "downsampling_modules."


@dataclass(frozen=True)
class Layout:
    """The parts of a U-Net.

    Attributes:
        channels: of the first convolution.
        blocks: residual blocks of a scale.
        widths: channels of each scale, as multiples of `channels`.
        attention: the scale with attention, -1 for none.
        inputs: channels of an image.
        features: E, sinusoidal features of the time.
    """

    channels: int
    blocks: int
    widths: tuple[int, ...]
    attention: int
    inputs: int
    features: int


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a U-Net with these weights, by the modules of its down path."""
    channels, inputs = tensors["input_conv.weight"].shape[:2]
    scale, blocks, attention, widths = 0, 0, -1, {}
    for index in range(1 + max(int(k.split(".")[1]) for k in tensors if k.startswith(DOWN))):
        module = f"{DOWN}{index}."
        if f"{module}conv0.weight" in tensors:
            widths[scale] = len(tensors[f"{module}conv0.weight"]) // channels
            blocks += scale == 0
        elif f"{module}NIN_0.W" in tensors:
            attention = scale
        else:
            scale += 1
    features = tensors["temb_modules.0.weight"].shape[1]
    return Layout(channels, blocks, tuple(widths.values()), attention, inputs, features)
