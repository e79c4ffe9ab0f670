"""`cfg.loss` of tauLDR's config for the loss "Di4C", see `training`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from di4c_plugin.algorithms.base import Algorithm, Role
from di4c_plugin.errors import UserError
from di4c_plugin.options import fit_fields, fitted, with_defaults
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.tauldr.sampler import HOST, plain
from di4c_plugin.programs.tauldr.step import STUDENT
from di4c_plugin.training.recipes import Recipe, recipe
from di4c_plugin.training.recorded import as_text
from di4c_plugin.training.start import latent_of
from di4c_plugin.values import Count, Range, shown

# The parts of the host's config that determine an update, beside `loss`.
PARTS = ("data", "model", "optimizer", "training")


@dataclass(frozen=True)
class LossSettings:
    """The entries of `cfg.loss` that are ours.

    Attributes:
        teacher: path of its checkpoint; None: not said.
        options: name and options of the method, over its recipe.
        latent: options of the latent, and perhaps its name; None: not chosen.
        rounds: after each but the last, the student becomes the teacher; None: the method's.
        student: path of a student to continue from; None: training starts at the teacher.
        seed: of new weights and of all draws of the loss.

    Raises:
        UserError: for a value of the wrong type or out of range.
    """

    teacher: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    latent: Mapping[str, Any] | None = None
    rounds: Count | None = None
    student: Path | None = None
    seed: Annotated[int, Range(0)] = 0

    def __post_init__(self) -> None:
        """Check types and ranges, and name the method."""
        fit_fields(self, "cfg.loss.")
        options = {"name": "di4c"} | dict(self.options)
        if not isinstance(options["name"], str):
            raise UserError(f"cfg.loss.options.name must be text, not {shown(options['name'])}")
        object.__setattr__(self, "options", options)

    @classmethod
    def of(cls, cfg: Any) -> "LossSettings":
        """Return those of a host's config; null and empty text count as not said."""
        known = {f.name for f in fields(cls)}
        given = {k: v for k, v in plain(cfg.loss).items() if k in known and v is not None}
        return cls(**{k: v for k, v in given.items() if not (isinstance(v, str) and v == "")})

    @property
    def recipe(self) -> Recipe:
        """The method's recipe on this host."""
        return recipe(HOST, self.options["name"])

    @property
    def algo(self) -> dict[str, Any]:
        """Name and options of the method, over its recipe's."""
        return self.recipe.algo_with(self.options)

    @property
    def own_latent(self) -> dict[str, Any] | None:
        """Name and options of the latent that the user chose, or None."""
        own = {"name": lookup("host", HOST).latent}
        return own | dict(self.latent) if self.latent else None

    def latent_of(self, role: Role) -> dict[str, Any] | None:
        """Return the latent of a network with this role, None for a product model."""
        options = self.recipe.latent_with(self.latent or None) or None
        return latent_of(role, options, lookup("host", HOST).latent)


def recorded(cfg: Any, settings: LossSettings, method: Algorithm) -> dict[str, str]:
    """Return the settings of a run by dotted name, as text; no paths.

    All options of method and latent are listed, so that one may be left out or said.
    """
    options = settings.algo
    name = options.pop("name")
    factory = lookup("algorithm", name)
    options = fitted(factory, options, f"algorithm {name!r}", positional=1)
    latent = settings.latent_of(method.roles[STUDENT])
    if latent is not None:
        latent = with_defaults(lookup("latent", latent["name"]), latent)
    ours = {
        "algo": {"name": name} | with_defaults(factory, options),
        "latent": latent,
        "rounds": method.rounds if settings.rounds is None else settings.rounds,
        "seed": settings.seed,
    }
    return as_text({part: plain(getattr(cfg, part, None) or {}) for part in PARTS} | ours)
