"""Makes the plan of a run from a host's composed config."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from di4c_plugin.checkpoints.model import bare_names, describe
from di4c_plugin.checkpoints.schemes import has_scheme, load_scheme
from di4c_plugin.checkpoints.weights import Weights, fingerprint, read_weights
from di4c_plugin.errors import UserError
from di4c_plugin.networks.dit import DiTConfig
from di4c_plugin.programs.text.measuring import Measurement, metric_settings
from di4c_plugin.programs.text.sampling import SamplerSettings, sampler_settings
from di4c_plugin.programs.text.settings import distillation
from di4c_plugin.programs.text.student import Plan


def plan_of(
    config: Mapping[str, Any],
    teacher: str | None,
    checkpoint: Callable[[], tuple[str | None, bool]],
    scorer: str | None = None,
) -> Plan:
    """Return the plan of a run of a host's program, which trains or evaluates.

    Args:
        config: the host's, as plain values.
        teacher: the default teacher of a distillation.
        checkpoint: returns the checkpoint to evaluate, and whether to use its moving averages.
        scorer: the language model of the host's own evaluation.

    Raises:
        UserError: as `training_plan` and `evaluation_plan`.
    """
    if config["mode"] == "train":
        if config.get("metrics") is not None:
            raise UserError("metrics=… is for evaluation: mode=train measures nothing by it")
        return training_plan(config, teacher)
    source, ema = checkpoint()
    return evaluation_plan(config, source, ema=ema, scorer=scorer)


def training_plan(config: Mapping[str, Any], fallback: str | None) -> Plan:
    """Return the plan of a distillation; `fallback` is the default teacher.

    Raises:
        UserError: as `distillation`, `sampler_settings` and `teacher_weights`.
    """
    sampler = sampler_settings(config.get("sampler"))
    options = distillation(config, fallback=fallback)
    weights = teacher_weights(options.teacher, ema=options.teacher_ema)
    start = None if options.student is None else teacher_weights(options.student)
    return Plan(sampler, options, weights, hybrid_weights(sampler), start)


def evaluation_plan(
    config: Mapping[str, Any], checkpoint: str | None, *, ema: bool, scorer: str | None = None
) -> Plan:
    """Return the plan of an evaluation of a teacher or student; arguments as for `plan_of`.

    Raises:
        UserError: without a checkpoint, for metrics without a sampler, and as `sampler_settings`,
            `metric_settings` and `read_weights`.
    """
    if not checkpoint:
        raise UserError("there is nothing to evaluate: name the checkpoint")
    sampler = sampler_settings(config.get("sampler"))
    metrics = metric_settings(config.get("metrics"), scorer)
    if metrics is not None and not config.get("sampler"):
        raise UserError("metrics=… measures what our samplers draw: add sampler=…")
    weights, hybrid = read_weights(checkpoint, ema=ema), hybrid_weights(sampler)
    if metrics is None:
        return Plan(sampler, None, weights, hybrid)
    described = {
        "model": weights.origin,
        "fingerprint": weights.fingerprint,
        "averages": ema,
        "latent": weights.latent,
        "sampler": asdict(sampler),
        "teacher": None if hybrid is None else hybrid.fingerprint,
        "seed": config.get("seed", 0),
    }
    return Plan(sampler, None, weights, hybrid, measurement=Measurement(metrics, described))


def hybrid_weights(sampler: SamplerSettings) -> Weights | None:
    """Return the weights of the hybrid sampler's teacher, or None."""
    return None if sampler.teacher is None else teacher_weights(sampler.teacher)


def teacher_weights(source: str, *, ema: bool = True) -> Weights:
    """Return the weights of a source as for `load_teacher`, if its network is a DiT.

    Raises:
        UserError: for other networks, and as `load_scheme` and `read_weights`.
    """
    if not has_scheme(source):
        return read_weights(source, ema=ema)
    model = load_scheme(source, ema=ema)
    if not isinstance(model.network, DiTConfig):
        raise UserError(f"{source} is a {model.network.kind}: this program's teachers are DiTs")
    tensors, notes = bare_names(model), describe(model)
    return Weights(
        tensors, model.latent, {}, model.process.config, source, fingerprint(tensors), notes
    )
