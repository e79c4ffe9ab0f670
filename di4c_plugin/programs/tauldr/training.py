"""A method in tauLDR's own train.py, by its config: a loss and a training step named "Di4C".

    cfg.loss.name = cfg.training.train_step_name = "Di4C"
    cfg.loss.teacher = "teacher/checkpoints/ckpt_0001999999.pt"
    cfg.loss.latent = {"std": 0.1}                     # optional: of the latent
    cfg.loss.options = {"latents": 16, "delta": 0.02}  # optional: of the method, "name": "di4c";
                                                       # defaults: configs/recipe/tauldr
    cfg.loss.rounds = 2                                # optional: default is the method's
    cfg.loss.student = "student/checkpoints/ckpt.pt"   # optional: start here, not at the teacher
    cfg.loss.seed = 0                                  # optional

The host's model is the student: its U-Net gets the latent when it is made, before the optimiser and
the averages, and the teacher's averaged weights before the first update. The method's further
networks and averages are submodules of the model; the teacher is not. Checkpoints have the host's
format (see `bookkeeping`); `load_student` reads them.
"""

import copy
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Algorithm, Batch
from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import build_process
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import check_range
from di4c_plugin.families.tauldr import TauLDRNetworks, TauLDRSizes
from di4c_plugin.families.unet_latent import let_latent_in
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import latent_shape
from di4c_plugin.programs.images.shared import tensors_of
from di4c_plugin.programs.tauldr.bookkeeping import Run, end
from di4c_plugin.programs.tauldr.sampler import NAME, averaged, config_of, plain
from di4c_plugin.programs.tauldr.settings import LossSettings, recorded
from di4c_plugin.programs.tauldr.step import STUDENT, Di4CStep
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine, check_rounds, round_of
from di4c_plugin.training.start import check_latent, tell_lost_latent

NETWORKS = TauLDRNetworks()


def let_latents_in(module: ModuleType) -> None:
    """Make `lib.models.model_utils.create_model` return students if the config selects "Di4C"."""
    create = module.create_model

    def create_model(cfg: Any, device: Any, rank: Any = None) -> Any:
        is_ours = getattr(getattr(cfg, "loss", None), "name", None) == NAME
        if is_ours and getattr(cfg, "distributed", False):
            raise UserError("loss Di4C runs on one process: di4c train host=tauldr runs on several")
        model = create(cfg, device, rank)
        if is_ours:
            make_student(model, cfg)
        return model

    module.create_model = create_model  # type: ignore[attr-defined]


def make_student(model: Any, cfg: Any) -> None:
    """Turn a host's model into the student of the config's method, in place.

    Its U-Net gets a latent if the method's student has one; the method's further networks and
    averages become submodules; the host's averages are reset. `cfg.loss.seed` seeds new weights.

    Raises:
        UserError: for a model other than the U-Net, and for unknown options of latent or method.
    """
    settings = LossSettings.of(cfg)
    method = method_of(settings, sizes_of(model))
    device = next(model.net.parameters()).device
    others = {
        name: copy.deepcopy(model.net)
        for name, role in method.roles.items()
        if name != STUDENT and role.make is None
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # the host has no seed
        for name, network in {STUDENT: model.net, **others}.items():
            latent = settings.latent_of(method.roles[name])
            if latent is not None:
                let_latent_in(network, latent)
                network.to(device)
        for name, role in method.roles.items():
            if role.make is not None:
                network = role.make(wrapped(model, STUDENT), sizes_of(model).positions)
                others[name] = network.to(device)
    if others:
        model.di4c_networks = nn.ModuleDict(others)
    networks = {name: wrapped(model, name) for name, r in method.roles.items() if r.averaged}
    if networks:
        model.di4c_averages = nn.ModuleDict({k: EMA(v, model.decay) for k, v in networks.items()})
    model.init_ema()
    model.di4c_run = Run(cfg.training.n_iters, recorded(cfg, settings, method))


def wrapped(model: Any, role: str) -> Any:
    """Return a role's network in the host's model as a denoiser."""
    network = model.net if role == STUDENT else model.di4c_networks[role]
    if isinstance(network, NetworkDenoiser):
        return network
    sizes = sizes_of(model)
    return NETWORKS.wrap(network, sizes, build_process(NETWORKS.process(sizes)))


def sizes_of(model: Any) -> TauLDRSizes:
    """Return the sizes of a host's model; raises UserError for a model other than the U-Net."""
    weights = Weights(tensors_of(model.net), None, {}, None, "the model", "")
    return NETWORKS.sizes(weights, config=config_of(model))


def method_of(settings: LossSettings, sizes: TauLDRSizes) -> Algorithm:
    """Return the method of `cfg.loss`, with options over the recipe; raises UserError.

    The host's own `cfg.loss.min_time` is not read.
    """
    return make_algorithm(settings.algo, build_process(NETWORKS.process(sizes)))


class Di4CLoss:
    """The loss, made from the host's config and called for each batch.

    Args:
        cfg: with `loss` and `training`, see the module.

    Raises:
        UserError: for a missing teacher, and as `LossSettings`, `method_of` and `start_of`.
    """

    root: ClassVar[Path | None] = None  # the host's checkout; None: see `importing.checkout`

    def __init__(self, cfg: Any) -> None:
        self.cfg, self.settings = cfg, LossSettings.of(cfg)
        source = self.settings.teacher
        if source is None:
            raise UserError("loss Di4C distils a teacher: cfg.loss.teacher = PATH")
        self.teacher = teacher_of(source, cfg, self.root)
        self.method = method_of(self.settings, self.teacher.network)  # type: ignore[arg-type]
        self.start = start_of(self.settings, cfg, self.method, self.teacher, self.root)
        announce_once(f"loss Di4C: teacher {source}, {type(self.method).__name__}")
        self.engine: Engine | None = None

    def calc_loss(self, minibatch: Tensor, state: dict[str, Any], writer: Any) -> Tensor:
        """Return the loss of a batch of levels (B, C, H, W) or (B, D), and log its terms.

        Raises:
            UserError: for levels out of range, a teacher that does not fit the model, a loss that
                is not finite, and a run resumed with another teacher or start.
            SystemExit: if the resumed run has ended.
        """
        model, update = state["model"], state["n_iter"]
        engine = self.engine = self.engine or self._engine(model)
        end(model.di4c_run)
        if len(self.method.roles) > 1 and not getattr(state["optimizer"], "di4c_step", False):
            raise UserError("this method trains several networks: train_step_name = 'Di4C'")
        device = next(model.net.parameters()).device
        x_0 = minibatch.flatten(1).long().to(device)
        check_range(x_0, 0, self.teacher.process.num_tokens - 1, "levels of a pixel")
        if engine.begin(update, self.cfg.training.n_iters, state["optimizer"]):
            teacher: Any = engine.teacher
            model.di4c_run.round = engine.round
            model.di4c_run.weights = teacher.network.state_dict()
            announce_once(f"round {engine.round + 1} of {engine.rounds}: a new teacher")
            if "average" in self.method.renew:
                model.init_ema()
        losses = engine.losses(
            Batch(x_0), update, self.cfg.training.n_iters, rank=0, step=update, device=device
        )
        if not losses.total.isfinite():
            raise UserError(f"the loss is not finite at update {update + 1}; a smaller lr may help")
        for name, value in losses.terms.items():
            writer.add_scalar(f"di4c/{name}", value, update)
        model.di4c_run.updates = update + 1
        return losses.total

    def _engine(self, model: Any) -> Engine:
        """Return the engine of the run; in a new run networks get the teacher's weights."""
        if self.method.roles[STUDENT].latent == "required" and latent_shape(model.net) is None:
            raise UserError("this model has no latent: start train.py by di4c run")
        check_same(sizes_of(model), self.teacher.network)
        teacher = self.teacher.denoiser.to(next(model.net.parameters()).device)
        run, mark = model.di4c_run, fingerprint(teacher.network.state_dict())
        if run.teacher not in ("", mark):
            raise UserError("the run to resume distils another teacher than is in that file now")
        start = "" if self.start is None else fingerprint(self.start.denoiser.network.state_dict())
        if run.start not in (None, start):
            raise UserError("the run to resume started from another cfg.loss.student than this one")
        run.teacher, run.start = mark, start
        if not (run.updates or model.num_updates):
            start_from(model, teacher.network)
            if self.start is not None:
                start_from(model, self.start.denoiser.network, student=True)
            elif latent_shape(model.net) is None:
                tell_lost_latent(self.teacher.latent, None)
        engine = Engine(
            self.method,
            {role: wrapped(model, role) for role in self.method.roles},
            teacher.eval().requires_grad_(False),
            averages=getattr(model, "di4c_averages", {}),
            next_teacher=lambda: self._next_teacher(model, averaged(model)),
            rounds=self.settings.rounds,
            seed=self.settings.seed,
        )
        check_rounds(engine.rounds, run.total)
        if run.weights is not None:
            engine.round, engine.teacher = run.round, self._next_teacher(model, run.weights)
        elif round_of(max(run.updates - 1, 0), run.total, engine.rounds):
            raise UserError("the checkpoint is of an earlier version, which kept no later teacher")
        return engine

    def _next_teacher(self, model: Any, weights: dict[str, Tensor]) -> Any:
        """Return a frozen copy of the student with these weights."""
        frozen = copy.deepcopy(wrapped(model, STUDENT)).eval().requires_grad_(False)
        frozen.network.load_state_dict(weights)
        return frozen


def start_of(
    settings: LossSettings, cfg: Any, method: Algorithm, teacher: Model, root: Path | None
) -> Model | None:
    """Return the student `cfg.loss.student` to start from, or None.

    Raises:
        UserError: if it does not exist, or does not fit the method and the teacher.
    """
    if settings.student is None:
        return None
    model = teacher_of(settings.student, cfg, root)
    check_latent(method.roles[STUDENT], settings.own_latent, model.latent)
    check_same(model.network, teacher.network)
    return model


def teacher_of(source: Path, cfg: Any, root: Path | None) -> Model:
    """Return the teacher at a path; settings come from its own config, else from `cfg`.

    Raises:
        UserError: if there is none.
    """
    networks = NETWORKS.at(root)
    weights = networks.read(read_content(source))
    config = weights.config or {"data": plain(cfg.data), "model": plain(cfg.model)}
    return networks.load(weights, config=config)


def check_same(student: Any, teacher: Any) -> None:
    """Raise UserError for a teacher with another network or process."""
    expected, actual = asdict(student), asdict(teacher)
    for name in expected.keys() - {"dropout"}:
        if expected[name] != actual.get(name):
            raise UserError(
                f"the teacher has {name} {actual.get(name)}, and this config {expected[name]}"
            )


def start_from(model: Any, network: nn.Module, *, student: bool = False) -> None:
    """Load a network's weights into those of a host's model, by name; reset the averages.

    With `student` only the student gets them.
    """
    weights = network.state_dict()
    others = () if student else getattr(model, "di4c_networks", {}).values()
    for target in (model.net, *others):
        state = target.state_dict()
        target.load_state_dict(state | {k: v for k, v in weights.items() if k in state})
    for role, average in getattr(model, "di4c_averages", {}).items():
        average.restart(wrapped(model, role))
    model.init_ema()


def register_loss(module: ModuleType, root: Path) -> None:
    """Register "Di4C" in `lib.losses.losses_utils`."""
    module.register_loss(type(NAME, (Di4CLoss,), {"root": root}))


def register_train_step(module: ModuleType) -> None:
    """Register "Di4C" in `lib.training.training_utils`."""
    module.register_train_step(type(NAME, (Di4CStep,), {}))
