"""The programs of MaskGIT, Halton-MaskGIT and tauLDR at tiny size: digits, networks, features.

`python -m tests.stand_ins.image_hosts PROGRAM …` runs a host's unmodified program by `di4c run`'s
way; what the host looks up by name at call time is small here: its network, and a VQ module that
reads codes off the pixels (grey = 15 x code). Nothing is downloaded.
"""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.programs.launch import launch
from di4c_plugin.programs.shims.after_import import after_import

CODES = 17  # grey levels of a digit
# What tauLDR's train.py and scripts/sample.py read instead of their own `config`: a package with an
# __init__ wins over the host's, which has none, wherever it is on the path.
TAULDR_TRAIN = """
import runpy

def get_config():
    c = runpy.run_path("{root}/config/train/cifar10.py")["get_config"]()
    c.save_location, c.data.name, c.data.path = "{out}", "LakhPianoroll", "{out}/digits.npy"
    c.data.S, c.data.shape, c.data.batch_size = 17, {shape}, 16
    c.model.ch, c.model.num_res_blocks, c.model.num_scales, c.model.ch_mult = 16, 1, 2, [1, 1]
    c.model.input_channels, c.model.time_embed_dim, c.model.data_min_max = {shape}[0], 16, [0, 16]
    c.training.n_iters, c.training.warmup = 4, 2
    c.saving.checkpoint_freq, c.saving.log_low_freq = 2, 3
    return c
"""
TAULDR_EVAL = """
import runpy

def get_config():
    from lib.sampling import sampling, sampling_utils

    @sampling_utils.register_sampler
    class Once(sampling.TauLeaping):
        calls = 0

        def sample(self, model, N, num_intermediates):
            if Once.calls:
                raise SystemExit(0)  # the program would go on to 50000 samples
            Once.calls += 1
            return super().sample(model, N, num_intermediates)

    c = runpy.run_path("{root}/config/eval/cifar10.py")["get_config"]()
    c.device, c.train_config_path, c.checkpoint_path = "cpu", "{config}", "{checkpoint}"
    c.data.S, c.data.shape = 17, [3, 32, 32]
    c.sampler.name, c.sampler.num_steps = "Once", 2
    return c
"""
INCEPTION = """
import torch

class FeatureExtractorInceptionV3(torch.nn.Module):
    def __init__(self, name, features_list, path=None):
        super().__init__()

    def forward(self, x):
        features = torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 8).flatten(1)
        return features, features[:, :100]
"""
RESIZE = """
import torch

def make_resizer(library, quantize, filter, size):
    def resize(x):
        x = torch.from_numpy(x).permute(2, 0, 1)[None]
        return torch.nn.functional.interpolate(x, (8, 8), mode="area")[0].permute(1, 2, 0).numpy()

    return resize
"""

RESIZE_1X = "interpolate_bilinear_2d_like_tensorflow1x = None\n"  # torchmetrics imports the name


class PixelVQ(nn.Module):
    """All that the hosts use of their VQ models."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__()
        self.n_embed = CODES
        self.encoder = type("Encoder", (), {"num_resolutions": 1})()

    def encode(self, x: Tensor) -> Any:
        """Read codes off pictures (B, 3, 8, 8), -1 ... 1."""
        return None, None, (None, None, ((x[:, 0] + 1) / 2 * 17).round().long().reshape(-1))

    def decode_code(self, code: Tensor) -> Tensor:
        """Return pictures of codes (B, 8, 8)."""
        return (code / 8.5 - 1)[:, None].expand(-1, 3, -1, -1)


def small_maskgit(vit: ModuleType) -> None:
    network = vit.MaskTransformer
    sizes = {"hidden_dim": 32, "depth": 1, "heads": 2, "mlp_dim": 32}
    vit.VQModel = PixelVQ  # type: ignore[attr-defined]
    vit.MaskTransformer = lambda **kw: network(**(kw | sizes))  # type: ignore[attr-defined]


def small_halton(trainer: ModuleType) -> None:
    trainer.VQ_models = {"VQ-1": PixelVQ}  # type: ignore[attr-defined]
    trainer.MaskGIT.transformer_size = lambda self, size: (32, 1, 2)


def digits(count: int = 40) -> tuple[Tensor, Tensor]:
    """Codes (n, 8, 8) and labels (n,)."""
    data = BUILTIN().data()
    assert data.labels is not None
    return data.x_0[:count].view(-1, 8, 8), data.labels[:count]


def write_pictures(folder: Path, count: int = 40) -> None:
    """Digits as ImageFolder wants them, in train/ and val/."""
    for k, (x, y) in enumerate(zip(*digits(count), strict=True)):
        for split in ("train", "val"):
            path = folder / split / str(int(y)) / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((x * 15).numpy().astype(np.uint8)).save(path)


def write_maskgit(root: Path) -> None:
    """The folders that MaskGIT's program looks for, with the files of its VQ model."""
    for folder in ("vq/configs", "vq/ckpts", "vit", "saved_img"):
        (root / folder).mkdir(parents=True)
    (root / "vq/configs/model.yaml").write_text("model: {params: {n_embed: 17}}")
    torch.save({"state_dict": {}}, root / "vq/ckpts/last.ckpt")


def write_codes(folder: Path, count: int = 40) -> None:
    """Digits as Halton-MaskGIT's CodeDataset wants them, in Train/ and Eval/."""
    for split in ("Train", "Eval"):
        (folder / split).mkdir(parents=True)
        for k, (x, y) in enumerate(zip(*digits(count), strict=True)):
            record = {"code": x.numpy().astype(np.uint16), "y": int(y)}
            (folder / split / f"{k:07d}.pth").write_bytes(pickle.dumps(record))


def write_features(folder: Path) -> None:
    """Stand-ins that compute something where the hosts' metrics ask for Inception."""
    for package, module, text in (
        ("torch_fidelity", "feature_extractor_inceptionv3", INCEPTION),
        ("torch_fidelity", "helpers", "def vassert(*x): pass\n"),
        ("torch_fidelity", "interpolate_compat_tensorflow", RESIZE_1X),
        ("cleanfid", "resize", RESIZE),
    ):
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / "__init__.py").touch()
        (folder / package / f"{module}.py").write_text(text)


def write_tauldr(folder: Path, root: Path, shape: list[int]) -> None:
    """Digits and a `config` package for tauLDR's train.py."""
    x = digits()[0]
    scale = shape[1] // 8
    large = x.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    np.save(folder / "digits.npy", large.flatten(1).repeat(1, shape[0]).numpy())
    text = TAULDR_TRAIN.format(root=root, out=folder, shape=shape)
    write_config(folder, "train", text)


def write_config(folder: Path, kind: str, text: str) -> None:
    """A module `config.{kind}.cifar10`."""
    (folder / "config" / kind).mkdir(parents=True, exist_ok=True)
    for name in ("", kind):
        (folder / "config" / name / "__init__.py").touch()
    (folder / "config" / kind / "cifar10.py").write_text(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    after_import("Trainer.vit", small_maskgit)
    after_import("Trainer.cls_trainer", small_halton)
    launch(sys.argv[1], sys.argv[2:])
