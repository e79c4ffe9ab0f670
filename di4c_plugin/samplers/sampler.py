"""Wraps a sampler's function with labels, lambda, guidance, eval mode and checked callbacks.

The function is the paper's algorithm: it calls a denoiser and knows nothing of lambda and guidance.
Both are done by wrapping the model, for samplers of plugins as for ours.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.options import fitted, parameters
from di4c_plugin.plugins import lookup
from di4c_plugin.samplers.base import LATENTS, Callback, Step, check_policy, inference, with_latent
from di4c_plugin.samplers.guidance import guide

if TYPE_CHECKING:
    from di4c_plugin.checkpoints.model import Model

Draw = Callable[..., Tensor]
CONTRACT = "(denoiser, x, times, *, process, generator, cond=None, callback=None) -> x"
GIVEN = dict.fromkeys(("process", "generator", "cond", "callback"))


@dataclass(frozen=True)
class ModelOptions:
    """Options of every sampler, about its models.

    Attributes:
        latents: how a student's lambda is drawn, see `WithLatent`.
        guidance: weight of classifier-free guidance, see `Guided`.
        guidance_ramp: "linear" or "constant" over the steps.
        guidance_teacher: the model that predicts without a class; None: the denoiser itself.
    """

    latents: str = LATENTS
    guidance: float = 0.0
    guidance_ramp: str = "linear"
    guidance_teacher: Denoiser | None = None


class Sampler:
    """A function of `CONTRACT`, with `ModelOptions` as further keyword arguments.

    The function's own options take precedence. An option `teacher` is a model too: it draws its own
    lambda, and is guided by its own unconditional branch.

    Args:
        draw: the function.
        grid: `(times, positions, process, *, options) -> times`: changes the grid before the
            function sees it; its options become the sampler's.
        defaults: other defaults of options.
    """

    def __init__(
        self, draw: Draw, *, grid: Callable[..., Tensor] | None = None, **defaults: Any
    ) -> None:
        self.draw, self.grid, self.defaults = draw, grid, defaults
        self.own = parameters(draw) or {}
        self.of_grid = keywords(grid) if grid else {}
        self.of_models = {k: p for k, p in keywords(ModelOptions).items() if k not in self.own}
        functools.update_wrapper(self, draw)
        added = {k: p for k, p in (self.of_grid | self.of_models).items() if k not in self.own}
        merged = [
            p.replace(default=defaults.get(k, p.default)) for k, p in {**self.own, **added}.items()
        ]
        merged.sort(key=lambda p: p.kind)
        self.__signature__ = inspect.Signature(merged, return_annotation=Tensor)

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        *,
        process: Process,
        generator: torch.Generator,
        cond: Tensor | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Tensor:
        """Carry x, shape (B, D), from times[0] to times[-1].

        Args:
            denoiser: teacher or student.
            x: states at times[0], usually from `process.prior`.
            times: decreasing, shape (steps + 1,), as from `time_grid`.
            process: the forward process the denoiser was trained for.
            generator: on the device of x; two calls with equal generators agree bit for bit.
            cond: class labels (B,), or None.
            callback: called with a `Step` after each step.
            options: of the function, its grid, and `ModelOptions`.

        Returns:
            x at times[-1], shape (B, D), int64.

        Raises:
            UserError: for an unknown latent policy or ramp, guidance without labels, a callback or
                a report that is not as above, and as the function and its grid.
        """
        options = self.defaults | options
        if self.grid is not None:
            chosen = {k: options.pop(k) for k in self.of_grid if k in options}
            times = self.grid(times, x.shape[1], process, **chosen)
        wrap = ModelOptions(**{k: options.pop(k) for k in self.of_models if k in options})

        def wrapped(model: Denoiser, unconditional: Denoiser | None) -> Denoiser:
            guided = guide(model, times, wrap.guidance, wrap.guidance_ramp, unconditional)
            own_latent = "latents" in self.own
            return guided if own_latent else with_latent(guided, wrap.latents, generator)

        denoiser = wrapped(denoiser, wrap.guidance_teacher)
        if options.get("teacher") is not None:
            options["teacher"] = wrapped(options["teacher"], None)
        with inference(*(m for m in (denoiser, options.get("teacher")) if m is not None)):
            return self.draw(
                denoiser,
                x,
                times,
                process=process,
                generator=generator,
                cond=cond,
                callback=None if callback is None else self._reporting(callback),
                **options,
            )

    def having(self, **defaults: Any) -> "Sampler":
        """Return the same sampler with other defaults."""
        return Sampler(self.draw, grid=self.grid, **(self.defaults | defaults))

    def _reporting(self, callback: Callback) -> Callable[..., object]:
        """Return the callback that the function gets: it passes steps on, and nothing else."""
        if not takes(callback, None):
            raise UserError("the callback must take a step, callback(Step), and nothing more")

        def report(*reported: object) -> object:
            if len(reported) != 1 or not isinstance(reported[0], Step):
                name = getattr(self.draw, "__name__", "the sampler")
                raise UserError(f"{name} must report callback(Step(index, t, s, x)) at each step")
            return callback(reported[0])

        return report


def sampler(
    *, grid: Callable[..., Tensor] | None = None, **defaults: Any
) -> Callable[[Draw], Sampler]:
    """Decorate a function as a `Sampler`; arguments as there."""
    return functools.partial(Sampler, grid=grid, **defaults)


def sampler_named(name: str) -> Sampler:
    """Return the registered sampler; a plugin's function becomes a `Sampler`.

    Raises:
        UserError: for an unknown name, and a function without the signature `CONTRACT`.
    """
    entry = lookup("sampler", name)
    if isinstance(entry, Sampler):
        return entry
    if not callable(entry) or not takes(entry, None, None, None, **GIVEN):
        raise UserError(f"sampler {name!r} is not as it must be: {CONTRACT}")
    return Sampler(entry)


def sampler_options(
    name: str, options: Mapping[str, Any], *, later: Collection[str] = ()
) -> dict[str, Any]:
    """Return options of the registered sampler, converted to its annotations.

    Args:
        name: of the sampler.
        options: keyword arguments.
        later: names of options that the caller will add.

    Raises:
        UserError: as `sampler_named`; for unknown or missing options, values of another type, and
            an unknown latent policy.
    """
    target = sampler_named(name)
    accepted = target.__signature__.parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    supplied = {name for name in later if anything or name in accepted}
    checked = {k: v for k, v in options.items() if k != "callback"} | dict.fromkeys(
        {*later} - supplied
    )
    typed = fitted(target, checked, f"sampler {name!r}", positional=3, given={*GIVEN, *supplied})
    if "latents" in typed and "latents" in target.of_models:
        check_policy(typed["latents"])
    return typed | {k: v for k, v in options.items() if k == "callback"}


def as_method(
    model: "Model", steps: int | None, sampler: str | None, options: Mapping[str, Any]
) -> tuple[int, str, dict[str, Any]]:
    """Return steps, sampler and options, completed by the defaults of the model's method.

    What a sampler is always given (`GIVEN`) is never the model's.

    Raises:
        UserError: as `sampler_options`; for the model's own defaults it names the model's file.
    """
    own = dict(model.sampling)
    steps = own.pop("steps", 8) if steps is None else steps
    default = own.pop("sampler", "ancestral")
    try:
        known = (parameters(sampler_named(sampler or default)) or {}).keys() - GIVEN.keys()
        own = {k: v for k, v in own.items() if k in known}
        own = sampler_options(sampler or default, own, later=known - own.keys())
    except UserError as error:
        if sampler is not None:
            raise
        file = getattr(model, "file", None) or "this model"
        raise UserError(f"how {file} asks to be sampled: {error}") from error
    return steps, sampler or default, own | dict(options)


def keywords(function: Callable[..., object]) -> dict[str, Parameter]:
    """Return the options of a grid's function, or the fields of `ModelOptions`, as keywords."""
    signature = parameters(function) or {}
    return {
        k: p.replace(kind=Parameter.KEYWORD_ONLY)
        for k, p in signature.items()
        if p.default is not Parameter.empty
    }


def takes(function: Callable[..., object], *args: object, **options: object) -> bool:
    """Return whether a function accepts these arguments; true where its signature is unknown.

    With `options`, other keywords that it requires are not checked.
    """
    try:
        signature = inspect.signature(function)
        (signature.bind_partial if options else signature.bind)(*args, **options)
    except TypeError:
        return False
    except ValueError:  # of some built-in functions
        return True
    return True
