"""What `algo=di4c` asks of a text host's run, read from the host's composed config.

Tests: tests/hosts/text/test_settings.py.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from di4c_plugin.algorithms.base import Algorithm
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup
from di4c_plugin.training import make_algorithm


@dataclass(frozen=True)
class Distillation:
    """The options of a distillation inside a host.

    Attributes:
        algo: name and options of a registered algorithm.
        latent: name and options of the student's latent.
        teacher: what `di4c_plugin.hosts.weights.read_weights` takes.
        teacher_ema: the moving average of the teacher's weights, where its file holds one.
        rounds: how many times the student becomes the teacher, plus one (Di4C, iterated).
    """

    algo: dict[str, Any]
    latent: dict[str, Any]
    teacher: str
    teacher_ema: bool = True
    rounds: int = 1

    def make(self, process: Process) -> Algorithm:
        """Return the algorithm; raises UserError for options that it does not take."""
        return make_algorithm(self.algo, process)


def distillation(config: Mapping[str, Any], *, fallback: str | None = None) -> Distillation:
    """Read a host's config, as plain values.

    Args:
        config: the whole config.
        fallback: the teacher where `teacher` is null: what the host itself would start from.

    Raises:
        UserError: where the algo group was not found or makes no student, there is no teacher, or
            `rounds` is below 1.
    """
    algo, rounds = config.get("algo"), config.get("rounds", 1)
    if algo is None:
        raise UserError(ONLY_SAMPLER)
    if not isinstance(algo, Mapping):
        raise UserError(
            f"Hydra did not find the algo group: algo is {algo!r}, not a set of options"
        )
    options = algo_options(algo)
    if not getattr(lookup("algorithm", options["name"]), "makes_mixture", True):
        raise UserError(f"algo={options['name']} makes no student: train by the host's own program")
    teacher = config.get("teacher") or fallback
    if not teacher:
        raise UserError("algo=di4c distils a teacher: add teacher=PATH or teacher=HUB_ID@REVISION")
    if not isinstance(rounds, int) or rounds < 1:
        raise UserError(f"rounds must be a whole number of at least 1, not {rounds!r}")
    return Distillation(
        options,
        dict(config.get("latent") or {"name": "token"}),
        str(teacher),
        bool(config.get("teacher_ema", True)),
        rounds,
    )


def algo_options(algo: Mapping[str, Any]) -> dict[str, Any]:
    """Return the algorithm's own options, without what Duo's program reads in the same group.

    Duo knows a fixed set of algo names, so ours goes by `method` there.
    """
    name = algo.get("method") or algo.get("name")
    known = inspect.signature(lookup("algorithm", str(name))).parameters
    foreign = HOST_KEYS - known.keys()
    return {"name": name} | {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in algo.items()
        if k not in foreign | {"name", "method"}
    }


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
