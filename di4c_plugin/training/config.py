"""The options of training: length, optimiser, device.

configs/training/default.yaml has the same options and defaults for the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from di4c_plugin.errors import UserError
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.options import fit_fields
from di4c_plugin.values import BelowOne, Choices, Count, Range

NotNegative = Annotated[float, Range(0)]


@dataclass(frozen=True)
class TrainingConfig:
    """The options of `di4c_plugin.training.run.train`.

    Attributes:
        steps: optimiser updates.
        batch_size: examples for each process and micro-step.
        accumulate: micro-steps whose gradients make one update.
        lr: peak learning rate of AdamW; with weight_decay and betas.
        schedule: "one_cycle" decays to almost zero after the peak, "constant" stays there.
        warmup: fraction of the updates in which the learning rate rises to `lr`, in [0, 1).
        clip: largest gradient norm; 0 for no limit.
        ema: decay of the moving average that is evaluated and saved, in [0, 1).
        rounds: how many rounds the run has; after each the student becomes the teacher. None: the
            method's default.
        adapter: options of `Adapter`: each network is the frozen teacher with an adapter and its
            latent. None: all weights of each network are trained.
        seed: of data order, times, masks and latents.
        precision: "32-true", or "bf16-mixed": networks under autocast, losses in fp32.
        compile: whether the trained networks run under `torch.compile`.
        devices, accelerator: as in `lightning.Trainer`; devices is a number.
        strategy: "auto", "ddp", or "fsdp", which shards networks and optimiser state over the
            devices (FSDP2). A sharded run may be resumed on another number of devices if devices
            times batch_size stays the same.
        checkpoint_every, log_every: in updates.
        logger: "csv", "tensorboard", "wandb" (offline unless WANDB_MODE says otherwise), "none".

    Raises:
        UserError: for a value of the wrong type or out of range.
    """

    steps: Count = 1500
    batch_size: Count = 16
    accumulate: Count = 1
    lr: NotNegative = 2e-3
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    schedule: Annotated[str, Choices("one_cycle", "constant")] = "one_cycle"
    warmup: BelowOne = 0.3
    clip: NotNegative = 1.0
    ema: BelowOne = 0.99
    rounds: Count | None = None
    adapter: Mapping[str, Any] | None = None
    seed: Annotated[int, Range(0)] = 0
    precision: Annotated[str, Choices("32-true", "bf16-mixed")] = "32-true"
    compile: bool = False
    devices: Count = 1
    accelerator: str = "auto"
    strategy: Annotated[str, Choices("auto", "ddp", "fsdp")] = "auto"
    checkpoint_every: Count = 200
    log_every: Count = 10
    logger: Annotated[str, Choices("csv", "tensorboard", "wandb", "none")] = "csv"

    def __post_init__(self) -> None:
        """Check types, ranges and combinations."""
        fit_fields(self)
        if self.strategy == "fsdp" and self.compile:
            raise UserError("training.compile goes with strategy=auto or ddp, not fsdp")
        if self.strategy == "fsdp" and self.adapter is not None:
            raise UserError("training.adapter goes with strategy=auto or ddp, not fsdp")
        if self.adapter is not None:
            plain = Adapter.of(self.adapter, "training.adapter").plain
            object.__setattr__(self, "adapter", plain)
