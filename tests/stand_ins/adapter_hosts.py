"""Stand-ins of the three hosts: the configs, classes and entry points that the adapters know."""

from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from tests.stand_ins.text import stand_in, stand_in_parts

D, MASK = stand_in.D, stand_in.MASK
ALGO = {"name": "di4c", "latents": 2}
COMMON: dict[str, Any] = {
    "T": 0,
    "training": {"ema": 0.5, "change_of_variables": False, "finetune_path": ""},
    "eval": {"checkpoint_path": "", "disable_ema": False},
}
SAMPLING = {"uncond": {"run": True, "from_ema": True}, "cond": {"run": False, "from_ema": False}}
CONFIGS: dict[str, dict[str, Any]] = {
    "mdlm": COMMON | {"parameterization": "subs", "backbone": "dit", "algo": ALGO},
    "sdtt": COMMON
    | {
        "parameterization": {
            "name": "multi-round-sdtt",
            "checkpoint_path": "",
            "sampling": SAMPLING,
        },
        "checkpointing": {"resume_ckpt_path": ""},
        "algo": ALGO,
    },
    "duo": COMMON | {"algo": {"name": "distillation", "method": "di4c", "latents": 2}},
}


class MDLM(stand_in.Host):
    parameterization = "subs"

    def _maybe_sub_sample(self, x_0: Tensor, mask: Tensor) -> tuple[Tensor, None, Tensor]:
        return x_0[:, :D], None, mask[:, :D]


class SDTT(stand_in.Host):
    def __init__(self, config: Any, tokenizer: Any, verbose: bool = True) -> None:
        super().__init__(config, tokenizer)
        self.prepare_teacher_and_student()

    def prepare_teacher_and_student(self) -> None:
        raise AssertionError("unpickles")

    def to(self, device: Any) -> None:  # type: ignore[override]
        raise AssertionError("returns nothing")

    def load_ema_from_checkpoint(self, checkpoint: Any) -> None:
        raise AssertionError("by position")


class Cosine(stand_in_parts.Noise):
    pass


class LogLinearNoise(stand_in_parts.Noise):
    pass


LogLinearNoise.__name__ = "LogLinear"


class Duo(stand_in.Host):
    """Takes from `config.algo` what the host asserts of it."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        algo = config.algo
        assert algo.parameterization == self.parameterization
        assert (algo.backbone, algo.T) == ("dit", 0)
        OmegaConf.update(config, "time_conditioning", algo.time_conditioning, force_add=True)
        super().__init__(config, tokenizer)
        kinds = {"cosine": Cosine, "loglinear": LogLinearNoise}
        self.noise = kinds[config.noise.type](config.noise.eps)


class DuoMDLM(Duo):
    parameterization = "subs"


class DuoBase(Duo):
    parameterization = "mean"


CLASSES: dict[str, dict[str, type[Any]]] = {
    "diffusion": {"Diffusion": MDLM},
    "sdtt.core.distill": {"MultiRoundSDTT": SDTT},
    "algo": {"MDLM": DuoMDLM, "DUO_BASE": DuoBase, "DUO": Duo, "Distillation": Duo},
}
