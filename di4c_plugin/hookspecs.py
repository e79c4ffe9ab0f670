"""The hooks of a plugin; the docstrings are the contract.

A plugin is a module, or any object, that an entry point of the group `di4c_plugin` names. It
implements some of these hooks, marked with `hookimpl`. Each hook maps names to objects; a name can
be registered once per kind. A hook is called when its kind is first needed, so heavy imports belong
inside it. The built-ins (`di4c_plugin/builtins.py`) use the same hooks; `tests/example_plugin` is a
complete third-party package.

Options are checked by the annotations of the registered object (`di4c_plugin.options`). A name
without a YAML file can be chosen like one that has it, with the defaults of its signature.
"""

from collections.abc import Mapping, Sequence

import pluggy

hookspec = pluggy.HookspecMarker("di4c_plugin")
hookimpl = pluggy.HookimplMarker("di4c_plugin")


@hookspec
def di4c_hosts() -> Mapping[str, object]:
    """Hosts by name: values of `di4c_plugin.hosts.Host`.

    A host names the `Family` of its networks, and may add data and pictures (a subclass of
    `HostData`), a program, and the latent of its students.
    """


@hookspec
def di4c_algorithms() -> Mapping[str, object]:
    """Training methods: subclasses of `di4c_plugin.algorithms.base.Algorithm`.

    It is called as `method(process, **options)`, with the options of `algo.*`. It names the
    networks that it trains (`roles`) and returns, for each update, the loss of each of them.
    """


@hookspec
def di4c_samplers() -> Mapping[str, object]:
    """Samplers: `(denoiser, x, times, *, process, generator, cond=None, callback=None) -> x`.

    It carries states x, (B, D), int64, from times[0] to times[-1], (steps + 1,), decreasing:

    - `denoiser(x_t, t, cond=cond)` returns log p_{0|t}, (B, D, S), for times t (B,), float64. A
      student draws its λ in this call, as the user's `latents=` says. The call also applies
      classifier-free guidance (`guidance=`), without dropout and gradients.
    - `process` is a `di4c_plugin.diffusion.Process`; all randomness comes from `generator`, on the
      device of x. `cond` are class labels (B,), or None.
    - `callback(Step(index, t, s, x))`, unless None, is called after each step from t to s, with
      index 0, 1, ... and x (B, D) at s; `di4c_plugin.samplers.walk` does that.
    - Further keyword arguments are options: `sampler.NAME=` in a host, `--option NAME=` in `di4c`.
      An option named `teacher` is a model, wrapped like `denoiser`. A sampler with its own option
      `latents` or `guidance` gets the user's value, and calls the model with `latent=`.
    - User mistakes raise `di4c_plugin.errors.UserError`.
    """


@hookspec
def di4c_latents() -> Mapping[str, object]:
    """Ways to feed λ into a student: subclasses of `di4c_plugin.networks.latent.LatentInjector`."""


@hookspec
def di4c_teacher_sources() -> Mapping[str, object]:
    """Functions `(rest) -> Model` by scheme, which load the teacher named `scheme:rest`.

    Or `(rest, *, ema) -> Model`; ema is false if the user does not want moving averages.
    """


@hookspec
def di4c_metrics() -> Mapping[str, object]:
    """Metrics: functions (samples, data) -> float on tokens, or classes for pictures or texts.

    The classes derive from `di4c_plugin.evaluation.picture_metric.PictureMetric` or
    `di4c_plugin.evaluation.text_metric.TextMetric`.
    """


@hookspec
def di4c_programs() -> Mapping[str, object]:
    """Foreign programs that we enter, by name: values of `di4c_plugin.checkouts.Program`.

    - A program with Hydra names its adapter, a function that replaces the class which the program
      looks up when a job starts by a subclass of
      `di4c_plugin.programs.text.generation.TextSampler`, so that `algo=`, `sampler=` and `metrics=`
      work there, by `di4c run` and without it.
    - A program without Hydra has patches of its modules, which put a subclass of
      `di4c_plugin.programs.images.sampler.HostSampler` in the place of its sampler, so that
      `--sampler`, `--student` and `--sampler-option` of `di4c run` work.

    This hook is called in every Hydra app of the environment. So the plugin's module, and the one
    that defines the program, import no torch, only what is light: the standard library and
    `announce`, `checkouts`, `hookspecs`, `programs.images.program` and `programs.shims` of this
    package. The program decides how torch starts.
    """


@hookspec
def di4c_config_paths() -> Sequence[str]:
    """Hydra search paths, such as `pkg://my_package.configs`, that `di4c` appends to its own."""
