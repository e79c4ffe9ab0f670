"""Samplers of a plugin: what they are given, what they must keep, and what is said where not."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin import plugins
from di4c_plugin.diffusion import Absorbing, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.hookspecs import hookimpl
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.plugins import BUILTINS, GROUP, PluginManager
from di4c_plugin.samplers import Step, ancestral, sampler_named, sampler_options, walk
from tests.enumeration import TableDenoiser, assert_drawn_from, product_law, rank
from tests.samplers.test_guidance import Labelled

D, S = 2, 3
PROCESS = Absorbing(S)
Register = Callable[[Any], None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Make a sampler known as "theirs"."""

    def register(found: Any) -> None:
        plugin = ModuleType("one")
        plugin.di4c_samplers = hookimpl(lambda: {"theirs": found})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "one", plugin)
        manager = PluginManager([BUILTINS, EntryPoint("one", "one", GROUP)])
        monkeypatch.setattr(plugins, "get_manager", lambda: manager)

    return register


def plain(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Any,
    generator: torch.Generator,
    cond: Tensor | None = None,
    callback: Any = None,
) -> Tensor:
    """Ancestral sampling as a plugin may write it: no lambda, no guidance, no eval mode."""

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return process.step(denoiser(x, t, cond=cond), x, t, s, generator=generator)

    return walk(rule, x, times, callback)


def draw(name: str, model: Any, steps: int = 1, n: int = 20_000, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.full((n, D), PROCESS.mask)
    sampler_options(name, {k: v for k, v in options.items() if k != "cond"})
    found = sampler_named(name)
    return found(model, x, time_grid(steps), process=PROCESS, generator=generator, **options)


def test_a_sampler_that_draws_no_lambda_draws_from_the_mixture(register: Register) -> None:
    register(plain)
    student = TableDenoiser(PROCESS, D, 3)
    law = product_law(student.table(1.0)[:, -1]).mean(0)
    assert_drawn_from(rank(draw("theirs", student), S), law)


@pytest.mark.parametrize("policy", ["fixed", "fresh", "stratified"])
def test_its_user_says_how_lambda_is_drawn(register: Register, policy: str) -> None:
    register(plain)
    student = TableDenoiser(PROCESS, D, 3)
    found = draw("theirs", student, 3, 200, latents=policy)
    register(ancestral)
    assert torch.equal(found, draw("theirs", student, 3, 200, latents=policy))
    with pytest.raises(UserError, match="unknown latent policy 'stale'"):
        sampler_options("theirs", {"latents": "stale"})


def test_it_may_be_guided(register: Register) -> None:
    register(plain)
    model, cond = Labelled(PROCESS, 2), torch.arange(200) % 2
    options: dict[str, Any] = {"guidance": 3.0, "guidance_ramp": "constant", "cond": cond}
    found = draw("theirs", model, 3, 200, **options)
    register(ancestral)
    assert torch.equal(found, draw("theirs", model, 3, 200, **options))
    assert not torch.equal(found, draw("theirs", model, 3, 200, cond=cond))


def test_a_sampler_with_lambdas_and_guidance_of_its_own_keeps_them(register: Register) -> None:
    seen: list[object] = []

    def own(
        denoiser: Any, x: Tensor, times: Tensor, *, latents: int = 4, guidance: str = "", **_: Any
    ) -> Tensor:
        seen.extend([denoiser, latents, guidance])
        return x

    register(own)
    student = TableDenoiser(PROCESS, D, 3)
    draw("theirs", student, latents=7, guidance="mine")
    assert seen == [student, 7, "mine"]


def test_networks_are_in_eval_mode_and_back_after(register: Register) -> None:
    class Network(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return torch.zeros(*x_t.shape, S).log_softmax(-1)

    register(plain)
    network = Network().train()
    draw("theirs", network, 2, 4)
    assert network.training


def test_its_steps_are_reported(register: Register) -> None:
    register(plain)
    steps: list[Step] = []
    x = draw("theirs", TableDenoiser(PROCESS, D), 2, 5, callback=steps.append)
    assert [(step.index, step.t, step.s) for step in steps] == [(0, 1.0, 0.5), (1, 0.5, 0.0)]
    assert torch.equal(steps[-1].x, x)


def test_a_report_that_is_no_step_is_one_line(register: Register) -> None:
    def reports_otherwise(denoiser: Any, x: Tensor, times: Tensor, **options: Any) -> Tensor:
        options["callback"](0, x)
        return x

    register(reports_otherwise)
    with pytest.raises(UserError, match=r"^reports_otherwise must report callback\(Step\(index"):
        draw("theirs", TableDenoiser(PROCESS, D), callback=print)


@pytest.mark.parametrize("callback", [lambda: None, lambda index, x: None])
def test_a_callback_that_takes_no_step_is_one_line(callback: Any) -> None:
    with pytest.raises(UserError, match="^the callback must take a step, callback.Step., and"):
        draw("ancestral", TableDenoiser(PROCESS, D), callback=callback)


@pytest.mark.parametrize(
    "found",
    [
        1,
        lambda denoiser, x: x,
        lambda denoiser, x, times, process, generator, cond=None: x,
        lambda denoiser, x, times, *, generator, callback=None: x,
    ],
)
def test_what_is_no_sampler_is_one_line(register: Register, found: Any) -> None:
    register(found)
    with pytest.raises(UserError, match=r"^sampler 'theirs' is not as it must be: \(denoiser, x"):
        sampler_named("theirs")
