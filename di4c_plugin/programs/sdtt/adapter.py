"""SDTT (Deschenaux & Gulcehre 2024), https://github.com/jdeschena/sdtt: `MultiRoundSDTT`.

The host looks up `sdtt.core.distill.MultiRoundSDTT` when a job starts; `parameterization.name`
stays. The host's names stand only in this module.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import open_dict
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.masked import MaskedStudent, check_time
from di4c_plugin.programs.text.plans import plan_of
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.student import Plan
from di4c_plugin.programs.text.swap import swap


def install(config: Mapping[str, Any]) -> Plan:
    """Replace `MultiRoundSDTT` by a student's class; `config` is the job's, as plain values.

    Raises:
        UserError: for a model without a student, and as `plan_of`.
    """
    check(config)
    section = config["parameterization"]
    scorer = ((config.get("eval") or {}).get("ppl_with_ar") or {}).get("model")
    plan = plan_of(config, section["checkpoint_path"], lambda: evaluated(config), scorer)
    swap("sdtt.core.distill", "MultiRoundSDTT", lambda base: student_class(base, plan))
    return plan


def evaluated(config: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the checkpoint to evaluate, and whether to use its averages; raises UserError."""
    source = config["checkpointing"]["resume_ckpt_path"]
    if not Path(source).is_file():
        raise UserError(f"no such file: checkpointing.resume_ckpt_path={source}")
    return source, averaged(config["parameterization"]["sampling"])


def averaged(sampling: Mapping[str, Any]) -> bool:
    """Return whether the host's sampling uses averaged weights."""
    return any(sampling[kind]["run"] and sampling[kind]["from_ema"] for kind in sampling)


def name_samples(config: Any, sampler: SamplerSettings) -> None:
    """Put our sampler's name and steps into the names of the host's sample files."""
    sampling = config.parameterization.get("sampling") or {}
    for kind in sampling.values():
        with open_dict(kind):
            kind.sampler = sampler.name
            kind.num_steps = sampler.steps or kind.get("num_steps")


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError unless the model is masked diffusion on a DiT."""
    if config["parameterization"]["name"] != "multi-round-sdtt":
        name = config["parameterization"]["name"]
        raise UserError(f"parameterization={name}: only masked diffusion has a student")
    if not str(config["model"]["type"]).startswith("ddit"):
        raise UserError(f"model.type={config['model']['type']}: only DiT backbones take a latent")
    if config.get("compile") and config["mode"] != "train":
        raise UserError("compile=true makes this program refuse every checkpoint: leave it out")
    check_time(config)


def student_class(base: type[Any], plan: Plan) -> type[Any]:
    """Return a subclass of the host's `MultiRoundSDTT` that follows the plan."""
    run = plan

    class SDTTStudent(MaskedStudent, base):  # type: ignore[misc]
        plan: ClassVar[Plan] = run

        @one_line
        def __init__(self, config: Any, tokenizer: Any, verbose: bool = True) -> None:
            super().__init__(config, tokenizer, verbose)
            self.set_up()
            name_samples(self.config, run.sampler)

        def prepare_teacher_and_student(self) -> None:
            """Do nothing: the plan has the teacher, which the host would unpickle."""

        def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
            """Load weights in training; in evaluation the plan has loaded them."""
            if run.distillation is not None:
                return super().load_state_dict(*arguments, **options)
            return None

        def load_ema_from_checkpoint(self, checkpoint: Any) -> None:
            """As `load_state_dict`."""
            if run.distillation is not None:
                super().load_ema_from_checkpoint(checkpoint)

        def to(self, *arguments: Any, **options: Any) -> Any:
            """Restore torch's `to`: the host's takes only a device, and returns None."""
            return nn.Module.to(self, *arguments, **options)

        def loss(
            self, x: Tensor, t: Tensor | None = None, attention_mask: Tensor | None = None
        ) -> Tensor:
            """Return our loss, in nats per token, which the host logs as valid/loss."""
            generator = torch.Generator(x.device).manual_seed(self.seed)
            return self.losses(x, generator).total / self.positions

        def host_validation(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
            return base.validation_step(self, batch)

        def sample(
            self,
            n_samples: int = 8,
            num_steps: int = 256,
            seq_len: int | None = None,
            sampler: str = "ancestral",
            cache_preds: bool = False,
            verbose: bool = False,
            add_bos: bool = False,
            add_eos: bool = False,
            project_fn: Callable[[Tensor], Tensor] | None = None,
        ) -> Tensor:
            """Draw with our sampler; `project_fn`, `add_bos` and `add_eos` set given tokens."""
            if seq_len not in (None, self.positions):
                raise UserError(f"seq_len={seq_len} must be model.length={self.positions}")
            x_0 = self.process.prior(
                (n_samples, self.positions), generator=torch.Generator(), device=self.device
            )
            x_0 = x_0 if project_fn is None else project_fn(x_0)
            if add_bos:
                x_0[:, 0] = self.tokenizer.bos_token_id
            if add_eos:
                x_0[:, -1] = self.tokenizer.eos_token_id
            known = x_0 != int(self.mask_index)
            return self.draw(n_samples, num_steps, (x_0, known) if bool(known.any()) else None)

    return SDTTStudent
