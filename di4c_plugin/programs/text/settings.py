"""What `algo=…` asks of a text host's run, read from the host's composed config."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from di4c_plugin.algorithms.base import Algorithm, Role
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup
from di4c_plugin.training import make_algorithm


@dataclass(frozen=True)
class Distillation:
    """The options of a distillation inside a host.

    Attributes:
        algo: name and options of a registered algorithm.
        latent: name and options of a latent, for networks that take one; None: none was named.
        teacher: what `di4c_plugin.checkpoints.weights.read_weights` takes.
        teacher_ema: the moving average of the teacher's weights, where its file holds one.
        rounds: how many times the student becomes the teacher, plus one; None: as the method says.
        student: what training goes on from, as for `teacher`; None: it starts from the teacher.
    """

    algo: dict[str, Any]
    latent: dict[str, Any] | None
    teacher: str
    teacher_ema: bool = True
    rounds: int | None = None
    student: str | None = None

    def make(self, process: Process) -> Algorithm:
        """Return the algorithm; raises UserError for options that it does not take."""
        return make_algorithm(self.algo, process)

    def latent_of(self, role: Role) -> dict[str, Any] | None:
        """Return the latent of a network with this role, None for a product model."""
        if role.latent == "none":
            return None
        return self.latent or (DEFAULT_LATENT if role.latent == "required" else None)


def distillation(config: Mapping[str, Any], *, fallback: str | None = None) -> Distillation:
    """Read a host's config, as plain values.

    Args:
        config: the whole config.
        fallback: the teacher where `teacher` is null: what the host itself would start from.

    Raises:
        UserError: where the algo group was not found or trains teachers, there is no teacher, or
            `rounds` is below 1.
    """
    algo, rounds = config.get("algo"), config.get("rounds")
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
    if rounds is not None and (not isinstance(rounds, int) or rounds < 1):
        raise UserError(f"rounds must be a whole number of at least 1, not {rounds!r}")
    latent = config.get("latent")
    return Distillation(
        options,
        dict(latent) if latent else None,
        str(teacher),
        bool(config.get("teacher_ema", True)),
        rounds,
        str(config["student"]) if config.get("student") else None,
    )


def algo_options(algo: Mapping[str, Any]) -> dict[str, Any]:
    """Return the algorithm's own options, without what Duo's program reads in the same group.

    Duo knows a fixed set of algo names, and finds one of them under `name`: `method` says which of
    ours it is, and where that is missing the file of the group that was chosen (see `callback`).
    """
    name = algo.get("method") or algo.get("name")
    known = inspect.signature(lookup("algorithm", str(name))).parameters
    foreign = HOST_KEYS - known.keys()
    return {"name": name} | {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in algo.items()
        if k not in foreign | {"name", "method"}
    }


DEFAULT_LATENT = {"name": "token"}
ONLY_SAMPLER = "sampler=… by itself is for evaluation; to distil, add algo=di4c teacher=SOURCE"
HOST_KEYS = {
    "backbone",
    "parameterization",
    "time_conditioning",
    "T",
    "subs_masking",
    "causal_attention",
    "ignore_bos",
    "loss_type",
    "diffusion",
}
