"""Networks, data and an algorithm small enough to train in milliseconds."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, Data, LossTerms, Networks, Role, Update
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.families import new_model, student_of
from di4c_plugin.losses.mixture import kl_divergence, token_log_prob
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.networks.latent import draw_latents

LATENTS: dict[str, dict[str, Any]] = {
    "token": {"name": "token", "dim": 1, "features": 8},
    "adaln": {"name": "adaln", "dim": 2, "features": 8},
    "mask_noise": {"name": "mask_noise", "dim": 3},
}


def data(size: int = 7) -> Data:
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.randint(3, (size, 4), generator=generator)
    return Data(x_0, torch.arange(size) % 2)


def teacher(*, num_classes: int = 2, masked: bool = True) -> Model:
    torch.manual_seed(0)
    process: Process = Absorbing(3) if masked else Uniform(3)
    config = TransformerConfig(
        num_tokens=3,
        num_states=process.num_states,
        grid=(2, 2),
        hidden_size=8,
        embedding_size=4,
        num_blocks=1,
        num_heads=2,
        num_classes=num_classes,
        mask=3 if masked else None,
        time_conditioned=not masked,
    )
    return new_model(config, process)


def student(latent: str = "adaln", **options: Any) -> Model:
    torch.manual_seed(0)
    return student_of(teacher(**options), LATENTS[latent])


class Distil(Algorithm):
    """Cross-entropy and distillation with everything random that a method may draw.

    `draws` records times and noisy states, `totals` the losses.
    """

    def __init__(self, process: Process) -> None:
        self.roles = {"student": Role(latent="required")}
        self.process = process
        self.draws: list[tuple[Tensor, Tensor]] = []
        self.totals: list[float] = []

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        generator = update.generator
        size, device = len(batch.x_0), batch.x_0.device
        t = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
        x_t = self.process.corrupt(batch.x_0, t, generator=generator)
        self.draws.append((t, x_t))
        with torch.no_grad():
            log_q = networks["teacher"](x_t, t, cond=batch.cond)
        log_p = self.predict(networks["student"], x_t, t, batch, generator)
        active = self.process.active(x_t)
        terms = {
            "distil": kl_divergence(log_q, log_p, active).mean(),
            "data": -token_log_prob(log_p[None], batch.x_0[None], active).sum(-1).mean(),
        }
        total = sum(terms.values(), torch.zeros((), device=device))
        self.totals.append(total.item())
        return LossTerms({"student": total}, {name: term.detach() for name, term in terms.items()})

    def predict(
        self, network: Any, x_t: Tensor, t: Tensor, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        latent = draw_latents(
            network.latent_shape, 1, len(t), generator=generator, device=x_t.device
        )[0]
        log_p: Tensor = network(x_t, t, cond=batch.cond, latent=latent)
        return log_p


def rows(out: Path) -> dict[int, dict[str, str]]:
    """The log of a run by update; rows of later starts replace those of earlier ones."""
    found: dict[int, dict[str, str]] = {}
    for number in range(len(list((out / "logs").iterdir()))):
        file = out / "logs" / f"version_{number}" / "metrics.csv"
        if file.exists():
            with file.open(newline="") as lines:
                found |= {int(row["step"]): row for row in csv.DictReader(lines)}
    return found


def weights(model: Model) -> dict[str, Tensor]:
    return model.denoiser.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
