"""A small backbone with the manners of the hosts': called with sigma, rotations that it keeps."""

from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import LogLinear, Process
from di4c_plugin.families.dit import DiTNetworks, backbone_sizes
from di4c_plugin.networks.dit import DOORS, DiT, DiTConfig, Rotary
from di4c_plugin.networks.doors import Doors, find_doors
from tests.networks.dit_reference import State, random_state

CONFIG = DiTConfig(vocab_size=7, length=6, hidden_size=12, cond_dim=5, n_blocks=2, n_heads=2)


class KeptRotary(Rotary):
    """Computes its tables once for each length, and gives out the tensors themselves."""

    tables: tuple[Tensor, Tensor] | None = None

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        if self.tables is None or self.tables[0].shape[1] != h.shape[1]:
            self.tables = super().forward(h)
        return self.tables


class Backbone(DiT):
    """A DiT called as `backbone(x, sigma)`; with dropout in its MLPs."""

    def __init__(self, config: DiTConfig = CONFIG, *, dropout: float = 0.0) -> None:
        super().__init__(config, LogLinear())
        self.rotary_emb = KeptRotary(config.hidden_size // config.n_heads)
        for block in self.blocks:
            mlp = block.mlp
            assert isinstance(mlp, nn.Sequential)
            mlp.append(nn.Dropout(dropout))

    def forward(self, indices: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(indices, sigma)

    def _sigma(self, t: Tensor) -> Tensor:
        return t


def state(config: DiTConfig = CONFIG, *, latent: bool = False, seed: int = 0) -> State:
    """Random weights, none of them zero."""
    return random_state(
        config.vocab_size,
        config.hidden_size,
        config.cond_dim,
        config.n_blocks,
        latent=latent,
        seed=seed,
    )


def backbone(*, seed: int = 0, dropout: float = 0.0) -> Backbone:
    """A backbone with random weights, in eval mode."""
    network = Backbone(dropout=dropout)
    network.load_state_dict(state(seed=seed))
    return network.eval()


def with_latent(
    network: nn.Module, latent: dict[str, Any], process: Process, positions: int
) -> nn.Module:
    """The network with a latent of random weights, in place."""
    sizes: Any = backbone_sizes(network, positions, latent)
    DiTNetworks().let_latent_in(network, latent, sizes, process)
    return network


def doors(network: nn.Module) -> Doors:
    """The doors of a DiT."""
    return find_doors(network, DOORS)


def batch() -> tuple[Tensor, Tensor]:
    """Tokens (3, 6), of which the last ones are the mask 6, and sigma (3,)."""
    x = torch.randint(6, (3, 6), generator=torch.Generator().manual_seed(1))
    x[:, 3:] = 6
    return x, torch.tensor([0.0, 0.7, 6.0])
