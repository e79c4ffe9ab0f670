"""Di4C in tauLDR's own train.py, by its config: a loss and a training step named "Di4C".

    cfg.loss.name = cfg.training.train_step_name = "Di4C"
    cfg.loss.teacher = "teacher/checkpoints/ckpt_0001999999.pt"
    cfg.loss.latent = {"std": 0.1}                     # optional: of the latent, here its default
    cfg.loss.options = {"latents": 16, "delta": 0.02}  # optional: of the algorithm
    cfg.loss.seed = 0                                  # optional

The host's model is the student: its U-Net gets the latent when it is made, before the optimiser and
the averages are, and the teacher's weights (averages) before the first update. The teacher lies
outside the host's modules. Checkpoints are the host's own; `load_student` reads them.
Tests: tests/hosts/images/test_registered.py.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Batch, Networks
from di4c_plugin.errors import UserError
from di4c_plugin.hosts.announce import announce_once
from di4c_plugin.hosts.images.files import weights_of
from di4c_plugin.hosts.images.grid import check_range
from di4c_plugin.hosts.images.swap_tauldr import HOST, NAME, config_of, plain
from di4c_plugin.hosts.images.swap_twin import Twins, tensors_of
from di4c_plugin.hosts.images.tauldr import TauLDRNetworks, TauLDRSizes
from di4c_plugin.hosts.images.unet_latent import let_latent_in
from di4c_plugin.hosts.ours import our_kind
from di4c_plugin.models import Model
from di4c_plugin.models.attach import latent_shape
from di4c_plugin.plugins import lookup

NETWORKS = TauLDRNetworks()


def let_latents_in(module: ModuleType) -> None:
    """Have `lib.models.model_utils.create_model` make students where the config asks for "Di4C"."""
    create = module.create_model

    def create_model(cfg: Any, device: Any, rank: Any = None) -> Any:
        ours = getattr(getattr(cfg, "loss", None), "name", None) == NAME
        if ours and getattr(cfg, "distributed", False):
            raise UserError("loss Di4C runs on one process: di4c train host=tauldr runs on several")
        model = create(cfg, device, rank)
        if ours:
            make_student(model, cfg)
        return model

    module.create_model = create_model  # type: ignore[attr-defined]


def make_student(model: Any, cfg: Any) -> None:
    """Let a latent into the U-Net of a host's model, in place, with averages of its weights.

    Raises:
        UserError: for another model, and options that the latent has not.
    """
    config_of(model)
    device = next(model.net.parameters()).device
    let_latent_in(model.net, {"name": "unet"} | plain(getattr(cfg.loss, "latent", None) or {}))
    model.net.to(device)
    model.init_ema()


class Di4CLoss:
    """The loss: made of the host's config, called for each batch.

    Args:
        cfg: with `loss` and `training`, see above.

    Raises:
        UserError: where no teacher is named, there is none, or options are not the algorithm's.
    """

    root: ClassVar[Path | None] = None  # the host's checkout; None: see `importing.checkout`

    def __init__(self, cfg: Any) -> None:
        # The package of training loads Lightning, which no other run of the host needs.
        from di4c_plugin.training.build import make_algorithm
        from di4c_plugin.training.rng import step_generator

        source = getattr(cfg.loss, "teacher", None)
        if not source:
            raise UserError("loss Di4C distils a teacher: cfg.loss.teacher = PATH")
        self.cfg = cfg
        self.generator = partial(step_generator, getattr(cfg.loss, "seed", 0), 0)
        self.options = {"name": "di4c", "min_time": cfg.loss.min_time}
        self.options |= plain(getattr(cfg.loss, "options", None) or {})
        self.teacher = teacher_of(source, cfg, self.root)
        self.algorithm = make_algorithm(self.options, self.teacher.process)
        self.twins = Twins(NETWORKS, self.root)
        announce_once(f"loss Di4C: teacher {source}, {self.options}")
        self.networks: Networks | None = None

    def calc_loss(self, minibatch: Tensor, state: dict[str, Any], writer: Any) -> Tensor:
        """Return the loss of a batch of levels (B, C, H, W) or (B, D), and log its terms.

        Raises:
            UserError: for levels that there are not, and another teacher than the model.
        """
        model, update = state["model"], state["n_iter"]
        if self.networks is None:
            self.networks = self._networks(model)
        device = next(model.net.parameters()).device
        x_0 = minibatch.flatten(1).long().to(device)
        check_range(x_0, 0, self.teacher.process.num_tokens - 1, "levels of a pixel")
        losses = self.algorithm.losses(
            Batch(x_0),
            self.networks,
            generator=self.generator(update, device=device),
            progress=update / self.cfg.training.n_iters,
        )
        for name, value in losses.terms.items():
            writer.add_scalar(f"di4c/{name}", value, update)
        return losses.total

    def _networks(self, model: Any) -> Networks:
        """Return the networks of the run; a fresh student starts from the teacher's weights."""
        if latent_shape(model.net) is None:
            raise UserError("this model has no latent: start train.py by di4c run")
        config, tensors = config_of(model), tensors_of(model.net)
        sizes = NETWORKS.sizes(weights_of(tensors, "the model", "tauldr"), config=config)
        check_same(sizes, self.teacher.network)
        teacher = self.teacher.denoiser.to(next(model.net.parameters()).device)
        if not model.num_updates:  # of the averages: a run that goes on has some
            start_from(model, teacher.network)
        student = NETWORKS.wrap(model.net, sizes, teacher.process)
        # Where gradients stop there is no dropout either: the same weights, in eval mode.
        target = self.twins.of(model, tensors, latent={"name": "unet"}, config=config)
        return Networks(student, teacher, target)


class Di4CStep:
    """The training step, made of the host's config: one update, with warm-up and clipping.

    It works with any loss of the host; "Standard" of the host works with ours as well.
    """

    def __init__(self, cfg: Any) -> None:
        self.clip, self.warmup = cfg.training.clip_grad, cfg.training.warmup
        self.lr = cfg.optimizer.lr

    def step(self, state: dict[str, Any], minibatch: Tensor, loss: Any, writer: Any) -> Tensor:
        """Update model and averages, and return the loss.

        Raises:
            UserError: if the loss is not finite; the model then is as it was.
        """
        model, optimizer, update = state["model"], state["optimizer"], state["n_iter"]
        value: Tensor = loss.calc_loss(minibatch, state, writer)
        if not value.isfinite():
            raise UserError(f"the loss is not finite at update {update}; a smaller lr may help")
        optimizer.zero_grad()
        value.backward()
        if self.clip:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            writer.add_scalar("di4c/gradient_norm", norm, update)
        for group in optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (update + 1) / max(1, self.warmup))
        optimizer.step()
        if hasattr(model, "update_ema"):
            model.update_ema()
        writer.add_scalar("loss", value.detach(), update)
        return value.detach()


def teacher_of(source: str, cfg: Any, root: Path | None) -> Model:
    """Return the teacher at a path; what its weights do not tell is as in its config, or in `cfg`.

    Raises:
        UserError: if there is none.
    """
    if our_kind(Path(source)) is not None:
        model: Model = lookup("host", HOST)(root=root and str(root)).load_teacher(source)
        return model
    weights = NETWORKS.read(source)
    config = weights.config or {"data": plain(cfg.data), "model": plain(cfg.model)}
    sizes = NETWORKS.sizes(weights, config=config)
    return Model(NETWORKS.restore(weights, sizes, root=root), sizes, weights.latent)


def check_same(student: TauLDRSizes, teacher: Any) -> None:
    """Refuse a teacher that is another network or for another process; raises UserError."""
    ours, theirs = asdict(student), asdict(teacher)
    for name in ours.keys() - {"dropout"}:
        if ours[name] != theirs.get(name):
            raise UserError(
                f"the teacher has {name} {theirs.get(name)}, and this config {ours[name]}"
            )


def start_from(model: Any, network: nn.Module) -> None:
    """Give a host's model the weights of a network where it has them, and averages of the whole."""
    model.net.load_state_dict(model.net.state_dict() | network.state_dict())
    model.init_ema()


def register_loss(module: ModuleType, root: Path) -> None:
    """Put "Di4C" into `lib.losses.losses_utils`."""
    module.register_loss(type(NAME, (Di4CLoss,), {"root": root}))


def register_train_step(module: ModuleType) -> None:
    """Put "Di4C" into `lib.training.training_utils`."""
    module.register_train_step(type(NAME, (Di4CStep,), {}))
