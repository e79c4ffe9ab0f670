"""A training step for tauLDR's train.py, see `training`: one update of a method's networks."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.programs.tauldr.bookkeeping import run_of
from di4c_plugin.training.engine import Engine

STUDENT = "student"


class Di4CStep:
    """The training step, made from the host's config: one update, with warm-up and clipping.

    It works with any loss of the host. For a method that trains only the student, the host's own
    step "Standard" works too.
    """

    def __init__(self, cfg: Any) -> None:
        self.clip, self.warmup = cfg.training.clip_grad, cfg.training.warmup
        self.lr, self.total = cfg.optimizer.lr, cfg.training.n_iters

    def step(self, state: dict[str, Any], minibatch: Tensor, loss: Any, writer: Any) -> Tensor:
        """Update the networks and their averages, and return the loss.

        Raises:
            UserError: if the loss or its gradient is not finite; the model is then unchanged.
        """
        run = run_of(state["model"])
        with nullcontext() if run is None else run.step():
            return self._step(state, minibatch, loss, writer)

    def _step(self, state: dict[str, Any], minibatch: Tensor, loss: Any, writer: Any) -> Tensor:
        model, optimizer, update = state["model"], state["optimizer"], state["n_iter"]
        optimizer.di4c_step = True
        value: Tensor = loss.calc_loss(minibatch, state, writer)
        if not value.isfinite():
            raise UserError(f"the loss is not finite at update {update + 1}; a smaller lr may help")
        optimizer.zero_grad()
        value.backward()
        rate = self.lr * min(1.0, (update + 1) / max(1, self.warmup))
        engine: Engine | None = getattr(loss, "engine", None)
        if engine is None or engine.plain:
            limit = 1.0 if self.clip else math.inf
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
            check_norm(norm, update)
            writer.add_scalar("di4c/gradient_norm", norm, update)
            stepped(optimizer, rate)
        else:
            self._by_role(engine, optimizer, rate, writer, update)
        trained = (STUDENT,) if engine is None else engine.trained(update, self.total)
        if engine is not None:
            engine.finish(update, self.total)
        if hasattr(model, "update_ema") and STUDENT in trained:
            model.update_ema()
        writer.add_scalar("loss", value.detach(), update)
        return value.detach()

    def _by_role(
        self, engine: Engine, optimizer: Any, rate: float, writer: Any, update: int
    ) -> None:
        """Step once per role: the host has one parameter group, but roles have their own rates."""
        for name, norm in engine.clip(1.0 if self.clip else math.inf).items():
            check_norm(norm, update)
            writer.add_scalar(f"di4c/gradient_norm/{name}", norm, update)
        gradients = {
            name: [(p, p.grad) for p in network.parameters()]
            for name, network in engine.trained_networks.items()
        }
        optimizer.zero_grad()
        for name in engine.trained(update, self.total):
            for p, gradient in gradients[name]:
                p.grad = gradient
            role = engine.algorithm.roles[name]
            options = {k: v for k, v in (("betas", role.betas), ("eps", role.eps)) if v is not None}
            stepped(optimizer, rate * role.lr, **options)
            for p, _ in gradients[name]:
                p.grad = None


def check_norm(norm: Tensor, update: int) -> None:
    """Raise UserError for a gradient that is not finite."""
    if not norm.isfinite():
        raise UserError(f"the gradient is not finite at update {update + 1}; a smaller lr may help")


def stepped(optimizer: Any, lr: float, **options: Any) -> None:
    """Step an optimiser with this learning rate and these options, and restore the options."""
    saved = [{name: group[name] for name in options} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(options, lr=lr)
    optimizer.step()
    for group, old in zip(optimizer.param_groups, saved, strict=True):
        group.update(old)
