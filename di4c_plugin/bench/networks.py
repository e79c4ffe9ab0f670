"""An update of a method, and a network call at sampling, of the user's teacher or a random DiT."""

import random
from collections.abc import Callable, Iterable
from itertools import chain
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from di4c_plugin.algorithms.base import Algorithm, Batch
from di4c_plugin.api import load_teacher
from di4c_plugin.bench.cases import NetworkCase, SampleCase, UpdateCase
from di4c_plugin.bench.measure import median_seconds, peak_bytes, seconds
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import build_process
from di4c_plugin.families import new_model
from di4c_plugin.families.adapted import teaching
from di4c_plugin.hosts.choose import as_host
from di4c_plugin.hosts.start import start_networks
from di4c_plugin.networks import DiTConfig
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine
from di4c_plugin.training.precision import MixedPrecision

WARM_UP = 3


def make_teacher(case: NetworkCase) -> Model:
    """Return the case's teacher; raises UserError as `load_teacher`, and for sizes that do not fit.

    Weights that a new DiT initialises to zero (head, modulations) are random: zeros are atypical.
    """
    if case.teacher is not None:
        return load_teacher(case.teacher)
    torch.manual_seed(case.seed)
    config = DiTConfig(
        case.vocab,
        case.positions,
        hidden_size=case.hidden,
        n_blocks=case.layers,
        n_heads=case.heads,
    )
    mask = {"mask": case.vocab - 1} if case.process == "absorbing" else {}
    process = build_process({"name": case.process, "num_tokens": case.vocab} | mask)
    teacher = new_model(config, process)
    for parameter in teacher.denoiser.parameters():
        if parameter.ndim == 2 and not parameter.any():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return teacher


def start(
    case: NetworkCase, algo: dict[str, Any], adapter: dict[str, Any] | None = None
) -> tuple[Algorithm, Model, dict[str, Model]]:
    """Return a method, its teacher, and the network that each of its roles starts from.

    Raises:
        UserError: for an unknown method or latent, and one that does not fit.
    """
    lora = None if adapter is None else Adapter.of(adapter, "adapter")
    teacher = teaching(make_teacher(case), lora)
    method = make_algorithm(algo, teacher.process)
    host = as_host(None, teacher)
    networks = start_networks(host, method, teacher, case.latent, None, case.seed, lora)
    for model in (teacher, *networks.values()):
        model.denoiser.to(case.device)
    return method, teacher, networks


def make_update(case: UpdateCase) -> tuple[Callable[[], None], int, Callable[[], int]]:
    """Return a function for the next update, its number of tokens, and one for `kept_bytes`.

    Raises:
        UserError: as `start`.
    """
    method, teacher, models = start(case, case.algo, case.adapter)
    device = torch.device(case.device)
    networks = {name: model.denoiser.train() for name, model in models.items()}
    averages = {
        name: EMA(net, 0.99) for name, net in networks.items() if method.roles[name].averaged
    }
    engine = Engine(
        method,
        networks,
        teacher.denoiser.eval().requires_grad_(False),
        averages=averages,
        next_teacher=lambda: teacher.denoiser,
        seed=case.seed,
        view=lambda net: MixedPrecision(net, device) if case.dtype == "bfloat16" else net,
    )
    optimiser = torch.optim.AdamW(engine.groups(1e-4), fused=device.type == "cuda")
    shape = (case.batch, teacher.network.positions)
    generator = torch.Generator().manual_seed(case.seed)
    process = teacher.process
    never = {getattr(process, "mask", process.num_tokens - 1), *getattr(process, "barred", ())}
    tokens = torch.tensor([token for token in range(process.num_tokens) if token not in never])
    x_0 = tokens[torch.randint(len(tokens), shape, generator=generator)].to(device)
    index, total = 0, 10**9  # no round ends

    def update() -> None:
        nonlocal index
        engine.begin(index, total)
        optimiser.zero_grad()
        losses = engine.losses(Batch(x_0), index, total, rank=0, step=index, device=device)
        losses.total.backward()
        optimiser.step()
        engine.finish(index, total)
        index += 1

    kept = [teacher.denoiser, *networks.values(), *averages.values()]
    return update, x_0.numel(), lambda: kept_bytes(kept, optimiser)


def kept_bytes(networks: Iterable[nn.Module], optimiser: torch.optim.Optimizer) -> int:
    """Return the bytes of weights, gradients and optimiser state; what is shared counts once."""
    tensors = [t for net in networks for t in (*net.parameters(), *net.buffers())]
    tensors += [t.grad for t in tensors if t.grad is not None]
    states = chain.from_iterable(state.values() for state in optimiser.state.values())
    tensors += [value for value in states if isinstance(value, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measure_update(case: UpdateCase) -> dict[str, Any]:
    """Return "tokens_per_second", "seconds", "peak_mb", "kept_mb" and "total_mb".

    The peak is above the weights, gradients and moments that are kept between updates; the total is
    that of the process (on CUDA, of its tensors).
    """
    device, (update, tokens, kept) = torch.device(case.device), make_update(case)
    update()
    peak, total = peak_bytes(update, device)
    clock = median_seconds(update, lambda: None, case.repeats, device)
    return {
        "tokens_per_second": tokens / clock,
        "seconds": clock,
        "peak_mb": peak / 1e6,
        "kept_mb": kept() / 1e6,
        "total_mb": total / 1e6,
    }


def make_calls(case: SampleCase) -> dict[str, Callable[[], Any]]:
    """Return functions "teacher" and "student", each one network call on the same prior draw."""
    _, teacher, networks = start(case, {"name": "di4c"})
    device, bf16 = torch.device(case.device), case.dtype == "bfloat16"
    models = {"teacher": teacher, "student": networks["student"]}
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (case.batch, teacher.network.positions)
    x_t = teacher.process.prior(shape, generator=generator, device=device)
    t = torch.ones(case.batch, dtype=torch.float64, device=device)

    def call_of(name: str) -> Callable[[], Any]:
        denoiser: Any = models[name].denoiser.eval()
        kind = denoiser.latent_shape
        latent = None if kind is None else torch.rand(case.batch, *kind, device=device)

        def call() -> None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                denoiser(x_t, t, latent=latent)

        return call

    return {name: call_of(name) for name in models}


def measure_sample(case: SampleCase) -> dict[str, Any]:
    """Return the median "ratio" of student to teacher over pairs of calls, and its spread.

    The two of a pair follow each other, in random order, so that neither what else the machine does
    nor its warming up favours one. "ratio_spread" is half the distance between the quartiles.
    """
    calls, device = make_calls(case), torch.device(case.device)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    rng = random.Random(case.seed)
    pairs = []
    for _ in range(case.repeats):
        order = rng.sample(sorted(calls), 2)
        pairs.append({name: seconds(calls[name], device) for name in order})
    ratios = [pair["student"] / pair["teacher"] for pair in pairs]
    return {
        "ratio": median(ratios),
        "ratio_spread": spread(ratios),
        "teacher_seconds": median(pair["teacher"] for pair in pairs),
        "student_seconds": median(pair["student"] for pair in pairs),
    }


def spread(values: list[float]) -> float | None:
    """Return half the distance between the quartiles; of a single value None."""
    if len(values) < 2:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2
