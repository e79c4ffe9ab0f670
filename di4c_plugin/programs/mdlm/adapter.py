"""MDLM (Sahoo et al. 2024), https://github.com/kuleshov-group/mdlm: `diffusion.Diffusion`.

Its `main.py` looks the class up when a job starts, so that one assignment replaces it. The host's
names stand only in this module.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.masked import MaskedStudent, check_time
from di4c_plugin.programs.text.plans import plan_of
from di4c_plugin.programs.text.student import Plan
from di4c_plugin.programs.text.swap import swap


def install(config: Mapping[str, Any]) -> Plan:
    """Replace `diffusion.Diffusion` by a student's class; `config` is the job's, as plain values.

    Raises:
        UserError: for a model without a student, and as `plan_of`.
    """
    check(config)
    evaluation = config["eval"]
    source, ema = evaluation["checkpoint_path"], not evaluation["disable_ema"]
    scorer = evaluation.get("gen_ppl_eval_model_name_or_path")
    plan = plan_of(config, source, lambda: (source, ema), scorer)
    swap("diffusion", "Diffusion", lambda base: student_class(base, plan))
    return plan


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError unless the model is masked diffusion, SUBS parameterisation, on a DiT."""
    model = f"parameterization={config['parameterization']} backbone={config['backbone']}"
    if config["parameterization"] != "subs":
        raise UserError(f"{model}: only masked diffusion (parameterization=subs) has a student")
    if config["backbone"] != "dit":
        raise UserError(f"{model}: use backbone=dit, which also takes the weights of hf_dit")
    if config["noise"]["type"] != "loglinear":
        raise UserError(f"noise={config['noise']['type']}: use the teacher's noise=loglinear")
    check_time(config)


def student_class(base: type[Any], plan: Plan) -> type[Any]:
    """Return a subclass of the host's `Diffusion` that follows the plan."""
    run = plan

    class MDLMStudent(MaskedStudent, base):  # type: ignore[misc]
        plan: ClassVar[Plan] = run

        @one_line
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(config, tokenizer)
            self.set_up()

        def tokens(self, batch: dict[str, Tensor]) -> Tensor:
            crop: Any = self._maybe_sub_sample
            return cast(Tensor, crop(super().tokens(batch), batch["attention_mask"])[0])

        def _sample(self, num_steps: int | None = None, eps: float = 1e-5) -> Tensor:
            count = int(self.config.loader.eval_batch_size)
            return self.draw(count, num_steps or int(self.config.sampling.steps))

        def sample_subs_guidance(
            self, n_samples: int, stride_length: int, num_strides: int, dt: float = 0.001
        ) -> Any:
            return self.draw_strides(n_samples, stride_length, num_strides, round(1 / dt))

    return MDLMStudent
