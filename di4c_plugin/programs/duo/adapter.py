"""Duo (Sahoo et al. 2025), https://github.com/s-sahoo/duo: classes of its module `algo`.

`main.py` accepts eight values of `algo.name`; we use "distillation", whose own class is broken at
the pinned commit. The host's names stand only in this module.
"""

import copy
import importlib
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from omegaconf import open_dict
from torch import Tensor

from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Absorbing, DuoCosine, LogLinear, Process, Schedule, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families import dit as rebuild
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.generation import TextSampler
from di4c_plugin.programs.text.plans import plan_of
from di4c_plugin.programs.text.settings import ONLY_SAMPLER
from di4c_plugin.programs.text.student import Plan
from di4c_plugin.programs.text.swap import own_class

# The host's class for each of our processes, and what that class reads of `config.algo`.
CLASSES = {"absorbing": "MDLM", "uniform": "DUO_BASE"}
ABSORBING = {"parameterization": "subs", "time_conditioning": False}
UNIFORM = {"parameterization": "mean", "time_conditioning": True}
COMMON = {
    "backbone": "dit",
    "T": 0,
    "subs_masking": False,
    "causal_attention": False,
    "ignore_bos": False,
    "loss_type": "elbo",
}
# What the group `algo` holds beside the options of our method.
HOSTS_OWN = {*COMMON, *ABSORBING, "diffusion"}


def install(config: Mapping[str, Any]) -> Plan:
    """Replace the host's classes by a student's; `config` is the job's, as plain values.

    Raises:
        UserError: if the teacher is neither masked nor uniform-state diffusion, and as `plan_of`.
    """
    if config["mode"] == "train" and "method" not in config["algo"]:
        raise UserError(ONLY_SAMPLER)
    source, ema = config["eval"]["checkpoint_path"], not config["eval"]["disable_ema"]
    scorer = config["eval"].get("gen_ppl_eval_model_name_or_path")
    ours = distilling(config) if config["mode"] == "train" else config
    plan = plan_of(ours, config["training"]["finetune_path"], lambda: (source, ema), scorer)
    kind = process_of(config, plan.weights)
    host: Any = importlib.import_module("algo")
    replaced = ("Distillation", "MDLM", "DUO_BASE", "DUO")
    classes = {name: own_class(host, name) for name in replaced}
    student = student_class(classes[CLASSES[kind]], kind, plan)
    vars(host).update(dict.fromkeys(replaced, student))
    return plan


def distilling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a distillation, with nothing of the host's in the group `algo`.

    Raises:
        UserError: for an unknown method.
    """
    algo = config["algo"]
    known = inspect.signature(lookup("algorithm", algo["method"])).parameters
    return {**config, "algo": {k: v for k, v in algo.items() if k in known or k not in HOSTS_OWN}}


def process_of(config: Mapping[str, Any], weights: Weights) -> str:
    """Return the process of the weights, "absorbing" or "uniform".

    Raises:
        UserError: if neither the weights nor `algo.diffusion` name it, or it is another process.
    """
    diffusion, origin = config["algo"].get("diffusion"), weights.origin
    if diffusion is not None:
        kind = str(diffusion)
    elif rebuild.tells_process(weights):
        kind = rebuild.process_of(weights)["name"]
    elif "method" not in config["algo"]:
        # In evaluation the host's own `algo` names the kind of the weights.
        kind = "uniform" if config["algo"]["name"] in rebuild.UNIFORM else "absorbing"
    else:
        raise UserError(
            f"{origin} does not say what it is: add algo.diffusion=absorbing (trained with "
            "algo=mdlm) or algo.diffusion=uniform (duo_base, duo)"
        )
    if kind not in CLASSES:
        raise UserError(f"algo.diffusion={kind}: there are {', '.join(CLASSES)}")
    return kind


def host_config(config: Any, kind: str, weights: Weights) -> Any:
    """Return the host's config with the values that the class of this process asserts."""
    config = copy.deepcopy(config)
    algo = weights.config.get("algo") or {}
    sizes = weights.notes.get("network") or {}
    with open_dict(config):
        for key, value in (COMMON | (ABSORBING if kind == "absorbing" else UNIFORM)).items():
            config.algo[key] = value
        time_conditioning = algo.get("time_conditioning", sizes.get("time_conditioning"))
        if time_conditioning is not None:
            config.algo.time_conditioning = bool(time_conditioning)
        # Not used, but each class refuses the other's.
        config.sampling.predictor = "ancestral_cache" if kind == "absorbing" else "ancestral"
    return config


def student_class(base: type[Any], kind: str, plan: Plan) -> type[Any]:
    """Return a subclass of one of the host's diffusion classes that follows the plan."""
    run = plan

    class DuoStudent(TextSampler, base):  # type: ignore[misc]
        plan: ClassVar[Plan] = run

        @one_line
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(host_config(config, kind, run.weights), tokenizer)
            self.set_up()

        def make_process(self) -> Process:
            size = int(self.vocab_size)
            if kind == "uniform":
                return Uniform(size, schedule_of(self.noise), leave_one_out=True)
            return Absorbing(size, schedule_of(self.noise), mask=int(self.mask_index))

        def generate_samples(
            self,
            num_samples: int,
            labels: Tensor | None = None,
            num_steps: int | None = None,
            eps: float = 1e-5,
        ) -> Tensor:
            if labels is not None:
                raise UserError("class labels are not supported: text only")
            return self.draw(num_samples, num_steps or int(self.config.sampling.steps))

        def _semi_ar_sampler(
            self, n_samples: int, stride_length: int, num_strides: int, dt: float = 0.001
        ) -> Any:
            return self.draw_strides(n_samples, stride_length, num_strides, round(1 / dt))

    return DuoStudent


def schedule_of(noise: Any) -> Schedule:
    """Return the schedule of a noise module of the host; raises UserError if it is unknown."""
    kinds: dict[str, type[LogLinear] | type[DuoCosine]] = {
        "LogLinear": LogLinear,
        "Cosine": DuoCosine,
    }
    name = type(noise).__name__
    if name not in kinds:
        raise UserError(f"noise {name} is not supported; there are log-linear, cosine")
    return kinds[name](eps=float(noise.eps))
