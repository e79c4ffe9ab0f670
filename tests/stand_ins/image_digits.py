"""Good small digits teachers by the image hosts' own training programs, on a CPU in minutes.

`python -m tests.stand_ins.image_digits maskgit|halton|tauldr OUT [--updates N] …` runs the program
in external/ unmodified on all of scikit-learn's digits (8x8, 17 levels), with its checkpoints
below OUT, and says which is the last one and what else `di4c` must be told to read it.

A network that suits digits stands in for the hosts' hundreds of millions of weights; grey levels
are the codes (`image_hosts.PixelVQ`). Beside that, only what does harm to digits is switched off:
mirroring, label smoothing (0.1 puts 57 times as much on each of 18 columns as on each of 1025), and
the evaluation of samples by Inception.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from di4c_plugin.programs.launch import launch
from di4c_plugin.programs.shims.after_import import after_import
from tests.stand_ins import image_hosts

EXTERNAL = Path(__file__).parents[2] / "external"
IMAGES = 1797
WIDTHS, DEPTH, HEADS = {"maskgit": 64, "halton": 96}, 4, 4
# Of tauLDR's config, beside the sizes. The released rates are for 256 levels: of 17 they leave
# nothing at t = 0.1. These are within 1 % of the stationary law at t = 1, and at t = 0.3 a quarter
# of the pixels are as they were.
TAULDR = """
import runpy

def get_config():
    c = runpy.run_path("{root}/config/train/cifar10.py")["get_config"]()
    c.save_location, c.data.name, c.data.path = "{out}", "LakhPianoroll", "{out}/digits.npy"
    c.data.S, c.data.shape, c.data.batch_size = 17, [1, 8, 8], {batch}
    c.model.ch, c.model.num_res_blocks, c.model.num_scales, c.model.ch_mult = 32, 1, 2, [1, 2]
    c.model.input_channels, c.model.time_embed_dim, c.model.data_min_max = 1, 32, [0, 16]
    c.model.rate_sigma, c.model.Q_sigma, c.model.time_base = 2.0, 20.0, 0.15
    c.model.fix_logistic, c.model.ema_decay = True, 0.999
    c.loss.nll_weight, c.loss.one_forward_pass = 100.0, True
    c.optimizer.lr, c.training.n_iters, c.training.warmup = {lr}, {updates}, 100
    c.saving.checkpoint_freq, c.saving.low_freq_loggers = {updates}, []
    return c
"""
MASKGIT = (
    "--img-size 8 --mask-value 17 --drop-label 0.1 --num_workers 0 --warm_up 100 "
    "--data-folder pictures --vqgan-folder vq --vit-folder vit/"
)
HALTON = (
    "--img-size 8 --f-factor 1 --codebook-size 17 --mask-value 17 --vqgan-folder vq.pt "
    "--data imagenet_feat --data-folder codes/ --vit-folder vit/ --writer-log log --warm-up 100 "
    "--num-workers 0 --seed 1"
)


def suit_maskgit(vit: ModuleType) -> None:
    """Make the network of digits, and have every code predicted as it is."""
    network, trainer = vit.MaskTransformer, vit.Trainer
    width = WIDTHS["maskgit"]
    sizes = {"hidden_dim": width, "depth": DEPTH, "heads": HEADS, "mlp_dim": 2 * width}
    vit.VQModel = image_hosts.PixelVQ  # type: ignore[attr-defined]
    vit.MaskTransformer = lambda **kw: network(**(kw | sizes | {"dropout": 0.0}))  # type: ignore[attr-defined]
    trainer.get_loss = staticmethod(lambda mode, **options: torch.nn.CrossEntropyLoss())


def keep_sides(trainer: ModuleType) -> None:
    """Have no digit mirrored."""
    trainer.transforms.RandomHorizontalFlip = lambda: lambda picture: picture


def suit_halton(trainer: ModuleType) -> None:
    """Make the network of digits, and evaluate no samples."""
    image_hosts.small_halton(trainer)
    trainer.MaskGIT.transformer_size = lambda self, size: (WIDTHS["halton"], DEPTH, HEADS)
    trainer.MaskGIT.eval = lambda self, **options: {"FID": 0.0, "IS": 0.0}


def train_maskgit(out: Path, chosen: argparse.Namespace) -> Path:
    """Train MaskGIT v1, then resume it at a tenth of the learning rate, which v1 keeps constant.

    It saves every tenth epoch.
    """
    image_hosts.write_pictures(out / "pictures", IMAGES)
    image_hosts.write_maskgit(out)
    after_import("Trainer.vit", suit_maskgit)
    after_import("Trainer.trainer", keep_sides)
    tens = max(1, chosen.updates // (IMAGES // chosen.batch) // 10)
    last = out / f"vit/epoch_{10 * tens:03d}.pth"
    early = last.with_name(f"epoch_{10 * (tens * 17 // 20):03d}.pth")
    for epoch, rate, more in ((early, 1.0, ""), (last, 0.1, "--resume")):
        end = int(epoch.stem.partition("_")[2]) + 1
        own = f"--epoch {end} --lr {rate * chosen.lr} --bsize {chosen.batch} {more}"
        launch(str(EXTERNAL / "maskgit/main.py"), [*MASKGIT.split(), *own.split()])
        shutil.copy(epoch, out / "vit/current.pth")
    return last


def train_halton(out: Path, chosen: argparse.Namespace) -> Path:
    """Train Halton-MaskGIT."""
    image_hosts.write_codes(out / "codes", IMAGES)
    torch.save({"model": {}}, out / "vq.pt")
    after_import("Trainer.cls_trainer", suit_halton)
    own = f"--max-iter {chosen.updates} --lr {chosen.lr} --global-bsize {chosen.batch}"
    launch(str(EXTERNAL / "halton_maskgit/main.py"), [*HALTON.split(), *own.split()])
    return out / "vit/last.pth"


def train_tauldr(out: Path, chosen: argparse.Namespace) -> Path:
    """Train tauLDR's U-Net; its folder, named by the date and time, becomes OUT/run."""
    np.save(out / "digits.npy", image_hosts.digits(IMAGES)[0].flatten(1).numpy())
    root, settings = EXTERNAL / "tauldr", vars(chosen)
    image_hosts.write_config(out, "train", TAULDR.format(root=root, **settings | {"out": out}))
    sys.path.insert(0, str(out))
    launch(str(root / "train.py"), ["cifar10"])
    (config,) = out.glob("*/*/config/config_001.yaml")
    shutil.move(config.parents[1], out / "run")
    return max((out / "run/checkpoints").glob("ckpt_*.pt"))


Train = Callable[[Path, argparse.Namespace], Path]
# Of each host: its program, updates, learning rate, and what its checkpoint does not tell.
PROGRAMS: dict[str, tuple[Train, int, float, str]] = {
    "maskgit": (train_maskgit, 3668, 2e-3, f"host.heads={HEADS} host.codes=17"),
    "halton": (train_halton, 2700, 1e-3, f"host.heads={HEADS}"),
    "tauldr": (train_tauldr, 2500, 1e-3, ""),
}


def parsed(arguments: list[str]) -> Any:
    """Return the options, with a host's own defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("host", choices=PROGRAMS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, default=64)
    chosen = parser.parse_args(arguments)
    _, updates, rate, _ = PROGRAMS[chosen.host]
    chosen.updates, chosen.lr = chosen.updates or updates, chosen.lr or rate
    return chosen


def main(arguments: list[str]) -> None:
    """Train one teacher in OUT, a new folder."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = parsed(arguments)
    train, _, _, told = PROGRAMS[chosen.host]
    out = chosen.out.resolve()
    out.mkdir(parents=True)
    os.chdir(out)
    sys.stdout.write(f"teacher={train(out, chosen)} {told}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
