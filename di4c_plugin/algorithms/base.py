"""What a training method is: the networks it trains, and their losses on a batch.

A method neither logs nor steps an optimiser, and knows of no program: `di4c_plugin.training.engine`
runs it under our own loop, inside MDLM, SDTT and Duo, and under tauLDR's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.networks.denoiser import Denoiser, NetworkDenoiser

# What an algorithm is given: a denoiser for each of its roles, the frozen "teacher", and the moving
# average "<role>_average" of each role that asks for one.
Networks = Mapping[str, Denoiser]
AVERAGE = "_average"


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        x_0: whole numbers of any type, (M, D).
        labels: int64, (M,), or None.
        given: bool, (M, D): tokens that are never corrupted nor counted, prompts and padding; None:
            there are none.
        lengths: int64, (M,): what stands behind is padding; None: there is none.
    """

    x_0: Tensor
    labels: Tensor | None = None
    given: Tensor | None = None
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Clean data.

    Attributes:
        x_0: int64, (B, D).
        cond: class labels, int64, (B,), or None.
        given: bool, (B, D): prompts and padding, never corrupted nor counted; None: there are none.
            Masked diffusion only: what no mask stands for is counted nowhere.
    """

    x_0: Tensor
    cond: Tensor | None = None
    given: Tensor | None = None

    def keep(self, x_t: Tensor) -> Tensor:
        """Return states (B, D) with what is given as it is."""
        return x_t if self.given is None else torch.where(self.given, self.x_0, x_t)

    def first(self, count: int | None) -> "Batch":
        """Return the first examples; None: all."""
        return Batch(*(None if v is None else v[:count] for v in (self.x_0, self.cond, self.given)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Role:
    """A network that a method trains; it starts from the teacher's weights, or is of its own make.

    Attributes:
        latent: whether it takes a latent λ: "none", "optional" (where the user names one), or
            "required".
        averaged: whether the losses read the moving average of its weights.
        lr: factor on the learning rate of the program that trains it.
        betas: of Adam; None: the program's.
        eps: of Adam; None: the program's.
        make: returns a network of another kind, given the student's denoiser and D; it says
            neither `latent` nor `averaged`.
    """

    latent: str = "none"
    averaged: bool = False
    lr: float = 1.0
    betas: tuple[float, float] | None = None
    eps: float | None = None
    make: Callable[[Any, int], NetworkDenoiser] | None = None


@dataclass(frozen=True)
class Update:
    """Where in a run a loss is asked for, and what it draws from.

    Attributes:
        generator: source of every random draw, on the networks' device.
        index: of the optimiser update, from 0.
        total: updates of the whole run.
        round: from 0; at the end of one the student becomes the teacher.
        rounds: how many there are.
    """

    generator: torch.Generator
    index: int = 0
    total: int = 1
    round: int = 0
    rounds: int = 1

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1], for annealed quantities."""
        return min(self.index / self.total, 1.0)


@dataclass(frozen=True)
class LossTerms:
    """What an update minimises.

    Attributes:
        totals: the scalar to differentiate of each role that is trained now. Roles trained in the
            same update may share one: it stands with one of them, and 0 with the other.
        terms: named parts, detached, in nats per example, for the log.
    """

    totals: Mapping[str, Tensor]
    terms: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of the totals."""
        return torch.stack(list(self.totals.values())).sum()

    def plus(self, other: "LossTerms") -> "LossTerms":
        """Return the sums with losses of some of the same roles and terms."""
        totals = {k: v + other.totals.get(k, 0) for k, v in self.totals.items()}
        return LossTerms(totals, {k: v + other.terms.get(k, 0) for k, v in self.terms.items()})


class Algorithm(ABC):
    """A training method.

    Attributes:
        needs_teacher: whether there is a frozen "teacher" among its networks.
        roles: the networks it trains, by name; "student" is the one that is kept. May be set in
            `__init__`, where it depends on the process.
        rounds: into how many a run is divided, unless the user says otherwise.
        renew: what starts anew with a round: "optimiser", its moments, and "average".
        sampling: how its students are sampled unless the user says otherwise, kept in the model
            file: `steps`, `sampler`, and options of the sampler such as `latents`.
    """

    needs_teacher: bool = True
    roles: Mapping[str, Role] = MappingProxyType({"student": Role()})
    rounds: int = 1
    renew: Collection[str] = ()
    sampling: Mapping[str, Any] = MappingProxyType({})

    def trained(self, update: Update) -> Collection[str]:
        """Return the roles that an update trains; by default all."""
        return self.roles

    @abstractmethod
    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """Return the losses of one batch.

        Args:
            batch: on the networks' device.
            networks: see `Networks`.
            update: see `Update`; `totals` are for the roles that `trained` names.
        """
