"""The two orders as samplers: counts of the hosts by formula and by the hosts' own code."""

import ast
import importlib.util
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import (
    Absorbing,
    Arccos,
    Confidence,
    Cosine,
    Halton,
    LogLinear,
    Schedule,
    Uniform,
    time_grid,
)
from di4c_plugin.diffusion.halton import halton_ranks
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import Step, ancestral, halton, maskgit
from tests.enumeration import TableDenoiser
from tests.samplers.test_guidance import Labelled

EXTERNAL = Path(__file__).parents[2] / "external"
STEPS = [1, 2, 3, 4, 8, 12, 16]


class Flat:
    """The same prediction everywhere; keeps the times of its calls."""

    latent_shape = None

    def __init__(self, process: Absorbing) -> None:
        self.process = process
        self.times: list[float] = []

    def __call__(self, x_t: Tensor, t: Tensor, **_: Any) -> Tensor:
        self.times.append(float(t[0]))
        logits = torch.zeros(*x_t.shape, self.process.num_tokens)
        return self.process.carry_over(self.process.restrict(logits).log_softmax(-1), x_t)


def run(sampler: Any, process: Any, steps: int, side: int = 16, **options: Any) -> list[Tensor]:
    """Which positions are open after each step, (n, D) each."""
    generator = torch.Generator().manual_seed(0)
    n = options.pop("n", 3)
    x = process.prior((n, side * side), generator=generator, device=torch.device("cpu"))
    seen: list[Step] = []
    found = sampler(
        options.pop("denoiser", None) or Flat(process),
        x,
        time_grid(steps),
        process=process,
        generator=generator,
        callback=seen.append,
        **options,
    )
    assert torch.equal(found, seen[-1].x)
    assert [step.index for step in seen] == list(range(steps))
    return [step.x != process.mask for step in seen]


def counts(masks: list[Tensor]) -> list[int]:
    """How many are open after each step: the same in every sample."""
    per_sample = torch.stack([mask.sum(-1) for mask in masks])
    assert (per_sample == per_sample[:, :1]).all()
    return per_sample[:, 0].tolist()


def close(found: list[int], want: list[int]) -> None:
    assert len(found) == len(want)
    assert all(abs(one - other) <= 1 for one, other in zip(found, want, strict=True))


# Counts by the hosts' formulas


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("mask", [None, 3])
def test_counts_are_those_of_the_schedule(steps: int, mask: int | None) -> None:
    want = [
        max(i + 1, int((1 - math.acos((i + 1) / steps) / (math.pi / 2)) * 256))
        for i in range(steps)
    ]
    process = Absorbing(5, Arccos(), mask=mask)
    for sampler in (maskgit, halton):
        found = counts(run(sampler, process, steps))
        close(found, want)
        assert found[-1] == 256


@pytest.mark.parametrize("steps", STEPS)
def test_shifted_counts_begin_with_one_token(steps: int) -> None:
    grid = [i / max(steps - 1, 1) for i in range(steps)] if steps > 1 else [1.0]
    want = [max(i + 1, int((1 - math.acos(r) / (math.pi / 2)) * 256)) for i, r in enumerate(grid)]
    assert counts(run(maskgit, Absorbing(5, Arccos()), steps, counts="shifted")) == want


@pytest.mark.parametrize("schedule", [Arccos(), LogLinear(), Cosine()], ids=str)
@pytest.mark.parametrize("steps", STEPS)
def test_increments_are_proportional_to_the_schedule(schedule: Schedule, steps: int) -> None:
    t = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    share = 1 - schedule.alpha(t)
    each = [max(1, round(float(v / max(float(share.sum()), 1e-9)) * 256)) for v in share[:-1]]
    found = counts(run(maskgit, Absorbing(5, schedule), steps, counts="increments"))
    close(torch.tensor(found).diff(prepend=torch.zeros(1)).int().tolist()[:-1], each)
    assert found[-1] == 256


@pytest.mark.parametrize("kind", ["schedule", "shifted", "increments"])
def test_more_steps_than_tokens(kind: str) -> None:
    found = counts(run(maskgit, Absorbing(5, Arccos()), 30, side=4, counts=kind))
    assert found[-1] == 16
    assert found == sorted(found)
    assert found[:10] == list(range(1, 11))


def test_official_di4cs_four_steps() -> None:
    """Maskgit-pytorch's adap_sche(4) of 16 x 16: 1, 59, 87 and the rest."""
    process = Absorbing(5, Arccos())
    flat = Flat(process)
    found = counts(run(maskgit, process, 4, counts="increments", denoiser=flat))
    assert found == [1, 60, 147, 256]
    # The network is told the times at which its schedule has these counts.
    masked = 256 * (1 - Arccos().alpha(torch.tensor(flat.times)))
    torch.testing.assert_close(masked, torch.tensor([256.0, 255, 196, 109]).double())


# Order


def test_confidence_is_the_process_of_that_name() -> None:
    process = Confidence(5, temperature=2.0)
    teacher = TableDenoiser(process, 4, seed=3)

    def draw(sampler: Any, given: Any, **options: Any) -> list[Tensor]:
        return run(sampler, given, 3, side=2, n=200, denoiser=teacher, **options)

    found = draw(maskgit, Absorbing(5, Arccos()), temperature=2.0)
    want = draw(ancestral, process)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_halton_opens_along_the_order(steps: int) -> None:
    places = halton_ranks(16, 16, torch.device("cpu"))
    for mask in run(halton, Absorbing(5, Arccos()), steps):
        assert torch.equal(mask, (places < mask[0].sum()).expand(3, -1))


def test_a_sample_keeps_its_random_start() -> None:
    order = halton_ranks(16, 16, torch.device("cpu")).argsort()
    masks = [
        mask[:, order] for mask in run(halton, Absorbing(5, Arccos()), 12, n=50, randomize=True)
    ]
    # Open places follow each other, from the one whose predecessor is closed.
    starts = (masks[0] & ~masks[0].roll(1, -1)).int().argmax(-1).tolist()
    assert len(set(starts)) > 10
    for mask in masks:
        for row, start in zip(mask, starts, strict=True):
            assert row.roll(-start)[: int(row.sum())].all()


def test_halton_takes_a_grid() -> None:
    process = Absorbing(5, Arccos())
    generator = torch.Generator().manual_seed(0)
    x = torch.full((2, 12), process.mask)
    found = halton(
        Flat(process), x, time_grid(3), process=process, generator=generator, grid=(3, 4)
    )
    assert (found < 5).all()
    own = Halton(5, grid=(3, 4))
    assert (halton(Flat(own), x, time_grid(3), process=own, generator=generator) < 5).all()
    with pytest.raises(UserError, match="12 positions is no square"):
        halton(Flat(process), x, time_grid(3), process=process, generator=generator)


# Guidance, mistakes


@pytest.mark.parametrize("sampler", [maskgit, halton])
def test_guidance_makes_the_class_surer(sampler: Any) -> None:
    process = Absorbing(2, Arccos())

    class Square(Labelled):
        """Two positions of four."""

        def __call__(self, x_t: Tensor, t: Tensor, **options: Any) -> Tensor:
            half = super().__call__(x_t[:, :2], t, **options)
            return torch.cat([half, half], 1)

    model, generator = Square(process, 2), torch.Generator().manual_seed(0)
    x, cond = torch.full((4000, 4), 2), torch.zeros(4000, dtype=torch.int64)
    one = torch.ones(1, dtype=torch.float64)
    options: dict[str, Any] = {"process": process, "generator": generator, "cond": cond}
    likely = model(x[:1], one, cond=cond[:1], latent=one[None] / 4)
    none = model(x[:1], one, cond=cond[:1] - 1, latent=one[None] / 4)
    plain = sampler(model, x, time_grid(1), **options, latents="fixed")
    guided = sampler(model, x, time_grid(1), **options, latents="fixed", guidance=8.0)
    favoured = (likely - none)[0, 0].argmax()
    assert (guided[:, 0] == favoured).double().mean() > (plain[:, 0] == favoured).double().mean()
    with pytest.raises(UserError, match="give labels"):
        sampler(model, x, time_grid(1), process=process, generator=generator, guidance=1.0)


def test_mistakes_are_told() -> None:
    process = Absorbing(5, Arccos())
    with pytest.raises(UserError, match="for masked diffusion, not for the process 'uniform'"):
        maskgit(None, torch.zeros(1, 4), time_grid(1), process=Uniform(3), generator=None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'more'; there are schedule, shifted, increments"):
        run(maskgit, process, 2, counts="more")
    with pytest.raises(UserError, match="temperature must be at least 0"):
        run(maskgit, process, 2, temperature=-1.0)
    x, generator = torch.full((1, 4), 5), torch.Generator()
    options: dict[str, Any] = {"process": process, "generator": generator, "counts": "shifted"}
    with pytest.raises(UserError, match="counts=shifted is for grids from 1 to 0"):
        maskgit(Flat(process), x, time_grid(2, 0.5), **options)


# The hosts' own code


def module_of(path: str) -> Any:
    """A host's module from its file."""
    file = EXTERNAL / path
    if not file.exists():
        pytest.skip(f"external/{path} is not there")
    spec = importlib.util.spec_from_file_location(f"host_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Network:
    """What Halton-MaskGIT's samplers call: uniform logits for 7 tokens and the mask."""

    def __call__(self, code: Tensor, *_: Any, **__: Any) -> Tensor:
        logits = torch.zeros(len(code), 256, 8)
        logits[..., 7] = -math.inf
        return logits

    def eval(self) -> None: ...

    def train(self) -> None: ...


def host_run(sampler: Any) -> list[Tensor]:
    """The masks that a sampler of Halton-MaskGIT reports, (n, D) each."""
    network = Network()
    trainer = SimpleNamespace(
        input_size=16,
        autocast=nullcontext(),
        vit=network,
        ema=network,
        ae=SimpleNamespace(decode_code=lambda code: code.double()),
        args=SimpleNamespace(mask_value=7, codebook_size=7, device="cpu", use_ema=False),
    )
    labels = torch.zeros(3, dtype=torch.int64)
    masks = sampler(trainer, nb_sample=3, labels=labels, verbose=False)[2]
    return [mask.flatten(1).bool() for mask in masks]


@pytest.mark.host
@pytest.mark.parametrize("steps", STEPS)
def test_halton_is_the_hosts_halton_sampler(steps: int) -> None:
    sampler = module_of("halton_maskgit/Sampler/halton_sampler.py").HaltonSampler(w=0, step=steps)
    opened = torch.stack(host_run(sampler)).cumsum(0).bool()
    found = run(halton, Absorbing(7, Arccos()), steps)
    for one, other in zip(found, opened, strict=True):
        assert (one ^ other).sum(-1).max() <= 1


@pytest.mark.host
@pytest.mark.parametrize("steps", STEPS[1:])
def test_shifted_counts_are_the_hosts_confidence_sampler(steps: int) -> None:
    """Its own run divides by zero at one step."""
    path = "halton_maskgit/Sampler/confidence_sampler.py"
    sampler = module_of(path).ConfidenceSampler(w=0, step=steps)
    opened = [256 - mask.sum(-1) for mask in host_run(sampler)]
    found = run(maskgit, Absorbing(7, Arccos()), steps, counts="shifted")
    close(counts(found), [int(row[0]) for row in opened])


@pytest.mark.host
@pytest.mark.parametrize("steps", STEPS[1:])
def test_increments_are_maskgit_v1s(steps: int) -> None:
    file = EXTERNAL / "maskgit/Trainer/vit.py"
    if not file.exists():
        pytest.skip("external/maskgit is empty")
    wanted = next(
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "adap_sche"
    )
    names: dict[str, Any] = {"torch": torch, "math": math, "tqdm": lambda values, **_: values}
    exec(compile(ast.Module([wanted], []), str(file), "exec"), names)
    each = names["adap_sche"](SimpleNamespace(patch_size=16), steps, "arccos").tolist()
    found = counts(run(maskgit, Absorbing(7, Arccos()), steps, counts="increments"))
    assert torch.tensor(found).diff(prepend=torch.zeros(1)).int().tolist() == each
