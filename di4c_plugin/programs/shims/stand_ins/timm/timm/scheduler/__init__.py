"""Stand-in for `timm.scheduler`."""

from di4c_plugin.programs.shims.refuse import refusal


class CosineLRScheduler:
    """The hosts derive a class from it; making one raises UserError."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise refusal("timm", "lr_scheduler=cosine_decay_warmup", "timm")
