"""How long, how fast and where a network is trained.

The same options with the same defaults, for the command line: configs/training/default.yaml.
"""

from dataclasses import dataclass

from di4c_plugin.errors import UserError

CHOICES = {
    "schedule": ("one_cycle", "constant"),
    "strategy": ("auto", "ddp"),
    "precision": ("32-true", "bf16-mixed"),
    "logger": ("csv", "tensorboard", "wandb", "none"),
}
AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "devices": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "seed": 0,
    "lr": 0,
    "weight_decay": 0,
    "clip": 0,
}


@dataclass(frozen=True)
class TrainingConfig:
    """The options of `di4c_plugin.training.train`.

    Attributes:
        steps: optimiser updates.
        batch_size: examples for each process and micro-step.
        accumulate: micro-steps whose gradients make one update.
        lr: peak learning rate of AdamW; with weight_decay and betas.
        schedule: "one_cycle" falls to nothing after the peak, "constant" stays there.
        warmup: share of the updates in which the learning rate rises to `lr`, in [0, 1).
        clip: largest gradient norm; 0 for no limit.
        ema: decay of the moving average that is evaluated and saved, in [0, 1).
        rounds: into how many the run is divided: at the end of one the student becomes the
            teacher. None: as the method says.
        seed: of data order, times, masks and latents.
        precision: "32-true", or "bf16-mixed": networks under autocast, losses in fp32.
        compile: whether the student runs through `torch.compile`.
        devices, accelerator: as in `lightning.Trainer`; devices is a number.
        strategy: "auto" or "ddp".
        checkpoint_every, log_every: in updates.
        logger: "csv", "tensorboard", "wandb" (offline unless WANDB_MODE says otherwise), "none".

    Raises:
        UserError: for a value out of range.
    """

    steps: int = 1500
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 2e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "one_cycle"
    warmup: float = 0.3
    clip: float = 1.0
    ema: float = 0.99
    rounds: int | None = None
    seed: int = 0
    precision: str = "32-true"
    compile: bool = False
    devices: int = 1
    accelerator: str = "auto"
    strategy: str = "auto"
    checkpoint_every: int = 200
    log_every: int = 10
    logger: str = "csv"

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, least in AT_LEAST.items():
            if not getattr(self, name) >= least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.rounds is not None and not self.rounds >= 1:
            raise UserError(f"rounds must be at least 1, not {self.rounds}")
        for name in ("ema", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if len(self.betas) != 2:
            raise UserError(f"betas must be two numbers, not {list(self.betas)}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"unknown {name} {getattr(self, name)!r}; there are {', '.join(choices)}"
                )
