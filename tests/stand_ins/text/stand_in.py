"""A host of our own: what MDLM, SDTT and Duo do alike, on a network of a few hundred weights.

Averages are a list zipped by position, checkpoints hold config and tokenizer as objects and must
hold `ema`, validation swaps the averages in, and the network knows nothing of a latent.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import Absorbing, LogLinear, Process
from di4c_plugin.programs.text.generation import TextSampler
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.settings import Distillation
from di4c_plugin.programs.text.student import Plan
from tests.networks.backbone import CONFIG, Backbone, state
from tests.stand_ins.text.stand_in_parts import EPS, Average, Noise, Tokenizer

D, MASK = CONFIG.length, 6
ALGO: dict[str, Any] = {
    "name": "di4c",
    "latents": 2,
    "delta": 0.2,
    "delta_share": 0.3,
    "delta_t": (0.1, 0.1),
}


def config(**others: Any) -> Any:
    """As Hydra gives it to a host."""
    sizes = {k: getattr(CONFIG, k) for k in ("hidden_size", "cond_dim", "n_blocks", "n_heads")}
    values: dict[str, Any] = {
        "seed": 1,
        "mode": "train",
        "data": {"wrap": True},
        "time_conditioning": False,
        "model": sizes | {"length": D, "dropout": 0.1},
        "training": {"ema": 0.5},
        "loader": {"batch_size": 3, "eval_batch_size": 4},
        "sampling": {"steps": 3},
        "noise": {"type": "loglinear", "eps": EPS},
    }
    return OmegaConf.create(values | others)


class Host(LightningModule):
    """The host's module; its training is not ours to run."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.config, self.tokenizer = config, tokenizer
        self.vocab_size, self.mask_index = CONFIG.vocab_size, MASK
        self.time_conditioning = config.time_conditioning
        self.backbone = Backbone(dropout=config.model.dropout)
        self.noise = Noise(config.noise.eps)
        self.ema = Average(self._weights(), config.training.ema) if config.training.ema else None
        self.loaded: list[int] = []

    def _weights(self) -> Iterator[nn.Parameter]:
        return itertools.chain(self.backbone.parameters(), self.noise.parameters())

    def on_train_start(self) -> None:
        raise AssertionError("orders the data in its own way")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        raise AssertionError("trains in its own way")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self._weights(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 3))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            self.ema.update(self._weights())

    def on_validation_epoch_start(self) -> None:
        if self.ema:
            self.ema.store(self._weights())
            self.ema.copy_to(self._weights())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """A metric of the host, which calls the network in its own way."""
        x = batch["input_ids"]
        noisy = x.where(torch.rand(x.shape) < 0.5, MASK)
        logits = self.backbone(noisy, torch.zeros(len(x)))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten())
        self.log("val/nll", loss, on_epoch=True)
        return loss

    def on_validation_epoch_end(self) -> None:
        self._sample()
        if self.ema:
            self.ema.restore(self._weights())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.ema:
            checkpoint["ema"] = self.ema.state_dict()
        # Counted in optimiser steps, which is another number in the middle of an accumulation.
        loop = checkpoint["loops"]["fit_loop"]
        steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        completed = steps["current"]["completed"] * self.trainer.accumulate_grad_batches
        loop["epoch_loop.batch_progress"]["current"]["completed"] = completed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.ema:
            self.ema.load_state_dict(checkpoint["ema"])
        loop = checkpoint["loops"]["fit_loop"]
        self.loaded.append(loop["epoch_loop.batch_progress"]["current"]["completed"])

    def _sample(self) -> Any:
        raise AssertionError("samples in its own way")


class Student(TextSampler, Host):  # type: ignore[misc]
    """What an adapter makes of the host."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self.set_up()

    def make_process(self) -> Process:
        return Absorbing(self.vocab_size, LogLinear(eps=self.noise.eps), mask=self.mask_index)

    @property
    def time_conditioned(self) -> bool:
        return bool(self.time_conditioning)

    def _sample(self) -> Any:
        return self.draw(4, 3)


def weights(
    *, seed: int = 0, latent: dict[str, Any] | None = None, origin: str = "teacher.ckpt", **o: Any
) -> Weights:
    """The weights of a teacher or, with `latent`, of a student by token."""
    tensors = state(latent=latent is not None, seed=seed)
    return Weights(tensors, latent, {}, None, origin, fingerprint(tensors), **o)


def student_class(plan: Plan) -> type[Student]:
    run = plan

    class Planned(Student):
        plan: ClassVar[Plan] = run

    return Planned


def distilling(
    *, teacher: Weights | None = None, latent: Any = None, rounds: int = 1, **algo: Any
) -> Plan:
    """The plan of a distillation."""
    settings = Distillation(
        ALGO | algo, latent or {"name": "token", "dim": 1, "features": 128}, "x", rounds=rounds
    )
    return Plan(SamplerSettings("ancestral"), settings, teacher or weights())


def student(plan: Plan | None = None, **others: Any) -> Student:
    """A student in a host that has just started."""
    return student_class(plan or distilling())(config(**others), Tokenizer())


class Stream(IterableDataset[dict[str, Tensor]]):
    """Letters without end or order."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return itertools.cycle([Texts(9)[i] for i in range(9)])


class Texts(Dataset[dict[str, Tensor]]):
    """Fixed random letters."""

    def __init__(self, size: int) -> None:
        self.x = torch.randint(MASK, (size, D), generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.x[i], "attention_mask": torch.ones(D)}


def trainer(folder: Path, saving: dict[str, Any] | None = None, **options: Any) -> Trainer:
    """A trainer as the hosts configure theirs; it writes step=N.ckpt, by default at every step."""
    seed_everything(1)
    when = {"every_n_train_steps": 1} if saving is None else saving
    callback = ModelCheckpoint(folder, "{step}", save_top_k=-1, **when)
    return Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_steps": 6, "num_sanity_val_steps": 0} | options),
    )


def loader(size: int = 10, *, shuffle: bool = True) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(Texts(size), batch_size=3, shuffle=shuffle)
