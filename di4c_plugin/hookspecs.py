"""What a plugin may register; the docstrings are the contract.

A plugin is a module, or any object, that an entry point of the group `di4c_plugin` names. It
implements some of these hooks under the marker `hookimpl`. Each maps names to what they stand for;
a name is taken once per kind. A hook is called when its kind is asked for, so heavy imports belong
inside it. The built-ins (`di4c_plugin/builtins.py`) enter by the same door; `tests/example_plugin`
is a complete third-party package.

Options are checked by the annotations of what is called (`di4c_plugin.options`), and a name without
a YAML file is chosen like one that has it, with its defaults.
"""

from collections.abc import Mapping, Sequence

import pluggy

hookspec = pluggy.HookspecMarker("di4c_plugin")
hookimpl = pluggy.HookimplMarker("di4c_plugin")


@hookspec
def di4c_hosts() -> Mapping[str, object]:
    """Hosts by name: values of `di4c_plugin.hosts.Host`.

    One says which `Family` its networks are of, and may add to it data and pictures (a subclass of
    `HostData`), a program, and the latent of its students.
    """


@hookspec
def di4c_algorithms() -> Mapping[str, object]:
    """Training methods: subclasses of `di4c_plugin.algorithms.base.Algorithm`.

    One is made as `method(process, **options)`, with the options of `algo.*`; it names the networks
    that it trains (`roles`) and returns, for each update, the loss of each of them.
    """


@hookspec
def di4c_samplers() -> Mapping[str, object]:
    """Samplers: `(denoiser, x, times, *, process, generator, cond=None, callback=None) -> x`.

    It carries states x, (B, D), int64, from times[0] to times[-1], (steps + 1,), decreasing:

    - `denoiser(x_t, t, cond=cond)` returns log p_{0|t}, (B, D, S), for times t (B,), float64. A
      student draws its λ in this call, so that a sampler need not; the user's `latents=` says how.
      Classifier-free guidance (`guidance=`) is within it too, and dropout and gradients are off.
    - `process` is a `di4c_plugin.diffusion.Process`; all randomness is from `generator`, which is
      on the device of x. `cond` are class labels (B,), or None.
    - `callback(Step(index, t, s, x))`, if it is not None, after each step from t to s, with index
      0, 1, ... and x (B, D) at s; `di4c_plugin.samplers.walk` does that.
    - Further keyword arguments are options: `sampler.NAME=` in a host, `--option NAME=` in `di4c`.
      One named `teacher` is a model, treated as `denoiser` is. A sampler that has `latents` or
      `guidance` itself is given what the user says there, and calls the model with `latent=`.
    - Mistakes of the user raise `di4c_plugin.errors.UserError`.
    """


@hookspec
def di4c_latents() -> Mapping[str, object]:
    """Ways to feed λ into a student: subclasses of `di4c_plugin.networks.latent.LatentInjector`."""


@hookspec
def di4c_teacher_sources() -> Mapping[str, object]:
    """Functions `(rest) -> Model` that load the teacher named `scheme:rest`, by their scheme.

    Or `(rest, *, ema) -> Model`, with ema false where the user wants no moving averages.
    """


@hookspec
def di4c_metrics() -> Mapping[str, object]:
    """Functions (samples, data) -> float on tokens; or metrics of pictures, or of texts.

    Those are subclasses of `di4c_plugin.evaluation.picture_metric.PictureMetric` and of
    `di4c_plugin.evaluation.text_metric.TextMetric`.
    """


@hookspec
def di4c_programs() -> Mapping[str, object]:
    """Programs of image hosts that `di4c run` enters, by the name of their host.

    Those are `di4c_plugin.programs.images.program.ScriptProgram`: how a checkout is told, and by
    module what is done to it once it is imported. There a subclass of
    `di4c_plugin.programs.images.sampler.HostSampler` takes the place of the host's own sampler, so
    that `--sampler`, `--student` and `--sampler-option` work. The module that defines the program
    imports nothing but the standard library: the program decides how torch starts.
    """


@hookspec
def di4c_config_paths() -> Sequence[str]:
    """Hydra search paths, such as `pkg://my_package.configs`, that `di4c` appends to its own."""
