"""What `di4c` needs to distil a teacher of an image host: a checkout, a checkpoint, data."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from tests.stand_ins.images import small_halton, small_maskgit, small_tauldr

HOSTS: dict[str, Any] = {
    "maskgit": small_maskgit,
    "halton_maskgit": small_halton,
    "tauldr": small_tauldr,
}
QUICK = ["training.steps=2", "training.batch_size=2", "training.logger=none", "algo.latents=2"]


class Place:
    """A host's checkout, a teacher's checkpoint as the host writes it, and data for it."""

    def __init__(self, host: str, root: Path, folder: Path) -> None:
        self.host, self.root, self.folder = host, root, folder
        module = HOSTS[host]
        self.network = module.plain(root)
        if host == "tauldr":
            self.teacher = folder / "run" / "checkpoints" / "ckpt_0000000001.pt"
            self.config = folder / "run" / "config" / "config_001.yaml"
            for path in (self.teacher, self.config):
                path.parent.mkdir(parents=True)
            state = {f"net.{k}": v for k, v in self.network.state_dict().items()}
            torch.save({"model": state, "n_iter": 1}, self.teacher)
            self.config.write_text(OmegaConf.to_yaml(OmegaConf.create(small_tauldr.CONFIG)))
            self.own = []
            self.data = folder / "levels.npy"
            np.save(self.data, np.random.default_rng(0).integers(17, size=(6, 48)))
            return
        self.teacher = folder / "teacher.pth"
        torch.save({"iter": 1, "model_state_dict": self.network.state_dict()}, self.teacher)
        sizes = module.SIZES
        self.own = [f"host.heads={sizes.heads}"]
        if host == "maskgit":
            self.own += [f"host.classes={sizes.classes}", f"host.codes={sizes.codes}"]
        self.data = folder / "codes.npz"
        codes = np.random.default_rng(0).integers(sizes.codes, size=(6, sizes.side, sizes.side))
        np.savez(self.data, codes=codes, labels=np.arange(6) % sizes.classes)

    def arguments(self, *more: str) -> list[str]:
        known = [f"host={self.host}", f"host.root={self.root}", f"teacher={self.teacher}"]
        return ["train", *known, f"host.data={self.data}", *self.own, *QUICK, *more]


def options(place: Place) -> dict[str, Any]:
    pairs = (entry.removeprefix("host.").split("=") for entry in place.own)
    return {"name": place.host, "root": str(place.root)} | {k: int(v) for k, v in pairs}
