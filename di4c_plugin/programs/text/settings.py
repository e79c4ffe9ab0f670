"""The options of `algo=…` in a text host, from the host's composed config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from di4c_plugin.algorithms.base import Algorithm, Role
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.dit import LATENT
from di4c_plugin.options import fit_fields
from di4c_plugin.plugins import lookup
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.start import latent_of
from di4c_plugin.values import Count


@dataclass(frozen=True)
class Distillation:
    """The options of a distillation inside a host.

    Attributes:
        algo: name and options of a registered algorithm.
        latent: name and options of a latent, for networks that take one; None: not chosen.
        teacher: a source, see `di4c_plugin.checkpoints.weights.read_weights`.
        teacher_ema: whether to use the teacher's moving averages, if its file has them.
        rounds: after each but the last, the student becomes the teacher; None: the method's.
        student: the source of a student to continue from; None: training starts at the teacher.

    Raises:
        UserError: for a value of the wrong type or out of range.
    """

    algo: dict[str, Any]
    latent: dict[str, Any] | None
    teacher: str
    teacher_ema: bool = True
    rounds: Count | None = None
    student: str | None = None

    def __post_init__(self) -> None:
        """Check types and ranges."""
        fit_fields(self)

    def make(self, process: Process) -> Algorithm:
        """Return the algorithm; raises UserError for options that it does not take."""
        return make_algorithm(self.algo, process)

    def latent_of(self, role: Role) -> dict[str, Any] | None:
        """Return the latent of a network with this role, None for a product model."""
        return latent_of(role, self.latent, LATENT)


def distillation(config: Mapping[str, Any], *, fallback: str | None = None) -> Distillation:
    """Return the distillation that a host's config describes.

    Args:
        config: the complete config, as plain values.
        fallback: the teacher if `teacher` is null: the checkpoint that the host would start from.

    Raises:
        UserError: if there is no algo group or it trains teachers, there is no teacher, and as
            `Distillation`.
    """
    algo = config.get("algo")
    if algo is None:
        raise UserError(ONLY_SAMPLER)
    if not isinstance(algo, Mapping):
        raise UserError(
            f"Hydra did not find the algo group: algo is {algo!r}, not a set of options"
        )
    options = algo_options(algo)
    name = options["name"]
    if not getattr(lookup("algorithm", name), "needs_teacher", True):
        raise UserError(f"algo={name} trains teachers: leave it out, this program trains its own")
    teacher = config.get("teacher") or fallback
    if not teacher:
        raise UserError(
            f"algo={name} distils a teacher: add teacher=PATH or teacher=HUB_ID@REVISION"
        )
    return Distillation(
        options,
        config.get("latent") or None,
        str(teacher),
        config.get("teacher_ema", True),
        config.get("rounds"),
        str(config["student"]) if config.get("student") else None,
    )


def algo_options(algo: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and options of the algorithm.

    Its name is `method` where `name` holds one of the host's program (see `callback`).
    """
    return {"name": algo.get("method") or algo.get("name")} | {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in algo.items()
        if k not in ("name", "method")
    }


ONLY_SAMPLER = "sampler=… by itself is for evaluation; to distil, add algo=di4c teacher=SOURCE"
