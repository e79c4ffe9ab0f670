"""Stand-in for `torchvision.datasets`: folders of pictures; others can be named, not used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from di4c_plugin.programs.shims.refuse import refusal

from .cifar import CIFAR10 as CIFAR10
from .coco import CocoCaptions as CocoCaptions
from .mnist import MNIST as MNIST
from .stl10 import STL10 as STL10

EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow starts programs for some others


class ImageFolder(Dataset[Any]):
    """Pictures of a folder with one sub-folder for each class, both in alphabetical order."""

    def __init__(self, root: str | Path, transform: Callable[[Any], Any] | None = None) -> None:
        self.root, self.transform = Path(root), transform
        self.classes = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        if not self.classes:
            raise FileNotFoundError(f"Couldn't find any class folder in {root}.")
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}
        self.samples = [
            (str(path), k)
            for k, name in enumerate(self.classes)
            for path in sorted((self.root / name).rglob("*"))
            if path.suffix.lower() in EXTENSIONS
        ]
        self.imgs, self.targets = self.samples, [k for _, k in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        path, target = self.samples[index]
        with Image.open(path, formats=FORMATS) as file:
            picture: Any = file.convert("RGB")
        return (picture if self.transform is None else self.transform(picture)), target


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("torchvision", f"torchvision.datasets.{name}", "torchvision")
