"""What is measured: one frozen record for each case, checked, and all cases of a sweep.

Imports nothing heavy: the command line takes its defaults from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from di4c_plugin.errors import UserError

DTYPES = ("float32", "bfloat16", "float64")
MATMULS = ("highest", "high", "medium")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all measurements have.

    Attributes:
        vocab: S, the mask among the tokens.
        positions: D.
        hidden: H, the width of the hidden states.
        device: "cpu", "cuda" or "cuda:1".
        dtype: of hidden states (bfloat16: beside a float32 head, as under autocast).
        matmul: see `torch.set_float32_matmul_precision`; "high" is TF32 where there is such.
        threads: of the CPU; None: as torch chooses.
        repeats: how many times the clock runs; medians are told.
        seed: of inputs and weights.
    """

    vocab: int = 50258
    positions: int = 256
    hidden: int = 256
    device: str = "cpu"
    dtype: str = "float32"
    matmul: str = "highest"
    threads: int | None = None
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers below 1 (vocab: 2, the seed: 0); the child checks what needs torch."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            least = {"vocab": 2, "seed": 0}.get(entry.name, 1)
            if type(value) is int and value < least:
                raise UserError(f"{entry.name} must be at least {least}, not {value}")


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """The loss of one sequence, from hidden states and head to their gradients.

    Attributes:
        impl: a key of `di4c_plugin.losses.terms.IMPLEMENTATIONS`.
        latents: N.
        masked: share of the positions that are unknown.
        budget_mb: for the tensors of a chunk, in MiB, as `Di4C`'s `loss_mb`.
    """

    impl: str = "chunked"
    latents: int = 16
    masked: float = 0.5
    budget_mb: int = 128

    def __post_init__(self) -> None:
        """See `Case`; besides, `masked` is a share."""
        super().__post_init__()
        if not 0 < self.masked <= 1:
            raise UserError(f"masked must be in (0, 1], not {self.masked}")

    @property
    def active(self) -> int:
        """How many positions are unknown, at least one."""
        return max(1, round(self.masked * self.positions))


@dataclass(frozen=True, kw_only=True)
class NetworkCase(Case):
    """A teacher and a student of our DiT; float64 or, for `step`, bfloat16 is by autocast.

    Attributes:
        layers, heads: of the DiT.
        batch: B, sequences.
        latent: name of the injector.
        blocks: m, the last blocks, where alone the latent enters; None: all.
    """

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    batch: int = 1
    latent: str = "adaln"
    blocks: int | None = None


@dataclass(frozen=True, kw_only=True)
class StepCase(NetworkCase):
    """A whole Di4C update.

    Attributes:
        impl: see `di4c_plugin.algorithms.di4c_terms.LOSSES`.
        latents, budget_mb: as for `LossCase`.
    """

    impl: str = "chunked"
    latents: int = 16
    budget_mb: int = 128


@dataclass(frozen=True, kw_only=True)
class SampleCase(NetworkCase):
    """One call of the student against one of its teacher, without gradients."""

    repeats: int = 30


CASES: dict[str, type[Case]] = {"loss": LossCase, "step": StepCase, "sample": SampleCase}


def kind_of(case: Case) -> str:
    """Return the name of a case's class in `CASES`."""
    return next(name for name, kind in CASES.items() if isinstance(case, kind))


def expand(kind: str, options: Mapping[str, Any]) -> list[Case]:
    """Return a case for each combination of the values of the options that are lists.

    The implementations of the same sizes follow each other, the naive twin first, with which the
    others are compared.

    Raises:
        UserError: for a value out of range.
    """
    lists = {name: value for name, value in options.items() if isinstance(value, Sequence)}
    lists = {name: value for name, value in lists.items() if not isinstance(value, str)}
    if "impl" in lists:
        lists["impl"] = sorted(lists.pop("impl"), key=lambda name: name != "naive")
    fixed = {name: value for name, value in options.items() if name not in lists}
    base = CASES[kind](**fixed)
    return [replace(base, **dict(zip(lists, v, strict=True))) for v in product(*lists.values())]


def swept(cases: Sequence[Case]) -> list[str]:
    """Return the names of what differs between the cases, in the order of the fields."""
    names = [entry.name for entry in fields(cases[0])]
    return [name for name in names if len({getattr(case, name) for case in cases}) > 1]
