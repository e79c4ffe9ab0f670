"""What a training method is: the networks it trains, and their losses on a batch.

A method neither logs nor steps an optimiser, and knows of no program: `di4c_plugin.training.engine`
runs it under our own loop, inside MDLM, SDTT and Duo, and under tauLDR's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser, NetworkDenoiser
from di4c_plugin.options import fit_fields
from di4c_plugin.samplers.known import is_dense
from di4c_plugin.values import BelowOne, Factor, Range, shown

# What an algorithm is given: a denoiser for each of its roles, the frozen "teacher", and the moving
# average "<role>_average" of each role that asks for one.
Networks = Mapping[str, Denoiser]
AVERAGE = "_average"
BOOL = (torch.bool,)
WHOLE = (*BOOL, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        x_0: whole numbers of any type, (M, D).
        labels: whole numbers of any type, (M,), or None.
        given: bool, (M, D): prompts and padding, neither corrupted nor counted; None: no such
            tokens.
        lengths: whole numbers of any type, (M,): tokens from here on are padding; None: no padding.

    Raises:
        UserError: for anything else.
    """

    x_0: Tensor
    labels: Tensor | None = None
    given: Tensor | None = None
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        _check_tensor("x_0", self.x_0, WHOLE, None)
        for name, dtypes, ndim in (("labels", WHOLE, 1), ("given", BOOL, 2), ("lengths", WHOLE, 1)):
            if (value := getattr(self, name)) is not None:
                _check_tensor(name, value, dtypes, self.x_0.shape[:ndim])


def _check_tensor(
    name: str, value: Any, dtypes: Collection[torch.dtype], shape: torch.Size | None
) -> None:
    """Refuse all but dense tensors of these types, (M, D) or `shape`; raises UserError."""
    found = shown(value)
    if is_dense(value):
        found = f"{value.dtype} {tuple(value.shape)}"
        if value.dtype in dtypes and (value.ndim == 2 if shape is None else value.shape == shape):
            return
    kind = "a tensor of bools" if dtypes == BOOL else "a tensor of whole numbers up to int64"
    expected = "(M, D)" if shape is None else tuple(shape)
    raise UserError(f"{name} of data must be {kind}, {expected}, not {found}")


@dataclass(frozen=True)
class Batch:
    """Clean data.

    Attributes:
        x_0: int64, (B, D).
        cond: class labels, int64, (B,), or None.
        given: bool, (B, D): prompts and padding, neither corrupted nor counted; None: no such
            tokens. For masked diffusion only, where losses count masked positions alone.
    """

    x_0: Tensor
    cond: Tensor | None = None
    given: Tensor | None = None

    def keep(self, x_t: Tensor) -> Tensor:
        """Return states (B, D) with the given tokens restored."""
        return x_t if self.given is None else torch.where(self.given, self.x_0, x_t)

    def first(self, count: int | None) -> "Batch":
        """Return the first `count` examples; None: all."""
        return Batch(*(None if v is None else v[:count] for v in (self.x_0, self.cond, self.given)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Role:
    """A network that a method trains; it starts from the teacher's weights, unless `make` is set.

    Attributes:
        latent: whether it takes a latent λ: "none", "optional" (where the user names one), or
            "required".
        averaged: whether the losses read the moving average of its weights.
        lr: factor on the learning rate of the program that trains it.
        betas: of Adam; None: the program's.
        eps: of Adam; None: the program's.
        make: returns a network of another kind, given the student's denoiser and D; goes with
            neither `latent` nor `averaged`.
    """

    latent: str = "none"
    averaged: bool = False
    lr: Factor = 1.0
    betas: tuple[BelowOne, BelowOne] | None = None
    eps: Annotated[float, Range(0)] | None = None
    make: Callable[[Any, int], NetworkDenoiser] | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        fit_fields(self)


@dataclass(frozen=True)
class Update:
    """The position of an update in its run, and its source of randomness.

    Attributes:
        generator: source of every random draw, on the networks' device.
        index: of the optimiser update, from 0.
        total: updates of the whole run.
        round: from 0; at the end of one the student becomes the teacher.
        rounds: their number.
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
        totals: the scalar to differentiate, for each role that is trained now. Roles trained in the
            same update may share one: give it to one of them, and 0 to the other.
        terms: named parts, detached, in nats per example, for the log.
    """

    totals: Mapping[str, Tensor]
    terms: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of the totals."""
        return torch.stack(list(self.totals.values())).sum()

    def plus(self, other: "LossTerms") -> "LossTerms":
        """Return the sums with `other`, whose roles and terms are among these."""
        totals = {k: v + other.totals.get(k, 0) for k, v in self.totals.items()}
        return LossTerms(totals, {k: v + other.terms.get(k, 0) for k, v in self.terms.items()})


class Algorithm(ABC):
    """A training method.

    Attributes:
        needs_teacher: whether there is a frozen "teacher" among its networks.
        roles: the networks it trains, by name; "student" is the one that is kept. May be set in
            `__init__`, where it depends on the process.
        rounds: default number of rounds in a run.
        renew: what each round resets: "optimiser" (its moments), "average".
        sampling: defaults for sampling its students, kept in the model file: `steps`, `sampler`,
            and options of the sampler such as `latents`.
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
