"""The measurements: one frozen record of plain values for each case.

Imports nothing heavy: the command line reads its defaults here.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from di4c_plugin.errors import UserError

DTYPES = ("float32", "bfloat16")
PROCESSES = ("absorbing", "uniform")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Options of all measurements.

    Attributes:
        device: "cpu", "cuda" or "cuda:1".
        dtype: "bfloat16" is by autocast; losses and heads stay in float32.
        threads: of the CPU; None: torch's default.
        repeats: number of timed runs, whose median is reported.
        seed: of inputs and weights.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers below 1 (vocab: 2, seed: 0)."""
        for entry in fields(self):
            value, least = getattr(self, entry.name), {"vocab": 2, "seed": 0}.get(entry.name, 1)
            if type(value) is int and value < least:
                raise UserError(f"{entry.name} must be at least {least}, not {value}")


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """The loss of Di4C on one sequence, from hidden states and head to their gradients.

    Attributes:
        impl: a key of `di4c_plugin.losses.terms.IMPLEMENTATIONS`.
        vocab: S, including the mask.
        positions: D.
        hidden: H, the width of the hidden states.
        latents: N.
        masked: share of the positions that are unknown.
        budget_mb: of the tensors of a chunk, in MiB, as `Di4C`'s `loss_mb`.
    """

    impl: str = "chunked"
    vocab: int = 50258
    positions: int = 256
    hidden: int = 256
    latents: int = 16
    masked: float = 0.5
    budget_mb: int = 128

    def __post_init__(self) -> None:
        """See `Case`; `masked` must be a share."""
        super().__post_init__()
        if not 0 < self.masked <= 1:
            raise UserError(f"masked must be in (0, 1], not {self.masked}")


@dataclass(frozen=True, kw_only=True)
class NetworkCase(Case):
    """A teacher, and networks made from it.

    Attributes:
        teacher: a value of `teacher=`; None: a DiT of the sizes below with random weights.
        process: of that DiT, "absorbing" or "uniform".
        vocab, positions, hidden, layers, heads: of that DiT.
        batch: B, sequences.
        latent: name and options of the latent; None: the default of the method and the host.
    """

    teacher: str | None = None
    process: str = "absorbing"
    vocab: int = 50258
    positions: int = 256
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    batch: int = 1
    latent: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class UpdateCase(NetworkCase):
    """An update of every network that a method trains.

    Attributes:
        algo: name and options of the method.
        adapter: options of an adapter for each network, on one teacher; None: full networks.
    """

    algo: dict[str, Any] = field(default_factory=lambda: {"name": "di4c"})
    adapter: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SampleCase(NetworkCase):
    """A call of a student against one of its teacher, without gradients."""

    repeats: int = 30


CASES: dict[str, type[Case]] = {"loss": LossCase, "update": UpdateCase, "sample": SampleCase}


def kind_of(case: Case) -> str:
    """Return the name of a case's class in `CASES`."""
    return next(name for name, kind in CASES.items() if isinstance(case, kind))
