"""What the tests of sharded training run in two processes, and in one with the draws of both."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Batch, Data
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.families import new_model, student_of
from di4c_plugin.networks import DiTConfig
from di4c_plugin.networks.predict import AllPositions, States, predict
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.sharding import block_names
from tests.stand_ins.images import small_halton
from tests.training import toy

RANKS, PER_RANK, UPDATES = 2, 3, 3
DI4C = {"name": "di4c", "latents": 3, "loss_mb": 1}
DMMD = {"name": "dmmd", "loss_mb": 1}
TOKEN, NOISE = {"name": "token", "dim": 1, "features": 8}, {"name": "mask_noise", "dim": 3}


def grid() -> Model:
    return toy.teacher()


def dit() -> Model:
    """A DiT with an odd vocabulary and width, so that shards are uneven."""
    torch.manual_seed(0)
    sizes = DiTConfig(vocab_size=7, length=5, hidden_size=12, cond_dim=5, n_blocks=2, n_heads=2)
    model = new_model(sizes, Absorbing(7, mask=6))
    return random(model)


def hf(kind: str = "bert", dtype: str = "float32") -> Model:
    """A masked language model of transformers; the folder was written before."""
    from tests.families.hf.snapshots import load_teacher

    host = {"name": "hf", "dtype": dtype, "trust_remote_code": kind.endswith("like")}
    return load_teacher(Path(os.environ["DI4C_TEST_SNAPSHOTS"]) / kind, host=host)


def halton() -> Model:
    """Halton-MaskGIT's network, on its stand-in; the checkout was made before."""
    family = small_halton.NETS.at(Path(os.environ["DI4C_TEST_SNAPSHOTS"]) / "halton_maskgit")
    torch.manual_seed(0)
    codes = small_halton.SIZES.codes
    return random(family.new(small_halton.SIZES, Absorbing(codes + 1, mask=codes)))


def random(model: Model) -> Model:
    """Parameters that start as zeros have no gradients worth comparing."""
    for parameter in model.denoiser.parameters():
        parameter.data = torch.randn_like(parameter) / 4
    return model


CASES: dict[str, tuple[Callable[[], Model], dict[str, Any] | None, dict[str, Any]]] = {
    "grid di4c": (grid, TOKEN, DI4C),
    "dit di4c encoder": (dit, NOISE, DI4C | {"encoder": 2, "encoder_hidden": 32}),
    "halton di4c": (halton, TOKEN, DI4C),
    "halton dmmd": (halton, NOISE, DMMD),
    "lladalike di4c": (partial(hf, "lladalike"), NOISE, DI4C),
    "lladalike dmmd": (partial(hf, "lladalike"), NOISE, DMMD | {"together": True}),
    "dreamlike di4c": (partial(hf, "dreamlike"), TOKEN, DI4C),
    "dit di4c": (dit, TOKEN, DI4C),
    "dit di4c checkpoint": (dit, TOKEN, DI4C | {"loss": "checkpoint"}),
    "dit di4c two_pass": (dit, TOKEN, DI4C | {"loss": "two_pass"}),
    "dit di4c naive": (dit, toy.LATENTS["adaln"], DI4C | {"loss": "naive"}),
    "dit di4c late": (dit, TOKEN | {"blocks": 1}, DI4C),
    "dit di4c average": (dit, TOKEN, DI4C | {"target": "average"}),
    "dit dmmd": (dit, NOISE, DMMD),
    "dit dmmd together": (dit, NOISE, DMMD | {"together": True}),
    "dit sdtt rounds": (dit, None, {"name": "sdtt", "teacher_steps": 8, "steps": 2}),
    "dit rsmmd": (dit, NOISE, {"name": "rsmmd", "block": 0}),
    "bert di4c": (hf, NOISE, DI4C),
    "bert dmmd": (hf, NOISE, DMMD),
    "modernbert di4c": (partial(hf, "modernbert"), TOKEN, DI4C),
    "bf16 di4c": (partial(hf, "bert", "bfloat16"), NOISE, DI4C),
    "bf16 dmmd": (partial(hf, "bert", "bfloat16"), NOISE, DMMD),
}


EXACT = (("bf16 di4c", "32-true"), ("dit di4c", "bf16-mixed"))


def made(case: str, *, sharded: bool, precision: str = "32-true") -> TrainingModule:
    teach, latent, options = CASES[case]
    teacher = teach()
    algorithm = make_algorithm(options, teacher.process)
    torch.manual_seed(1)
    length = getattr(teacher.network, "positions", 4)
    models = {"student": student_of(teacher, latent)}
    for name, role in algorithm.roles.items():
        if role.make is not None:
            denoiser: Any = role.make(models["student"].denoiser, length)
            models[name] = Model(denoiser, denoiser.network.config)
        elif name != "student":
            models[name] = student_of(teacher, None)
    # Where all are the teacher, there is nothing to learn.
    for model in models.values():
        for parameter in model.denoiser.parameters():
            parameter.data += (torch.randn(parameter.shape) / 8).to(parameter.dtype)
    x_0 = torch.randint(3, (RANKS * PER_RANK, length), generator=torch.Generator().manual_seed(3))
    x_0 += 5 if teacher.network.kind == "hf" else 0
    config = TrainingConfig(steps=UPDATES, ema=0.5, precision=precision)
    blocks = {name: block_names(model) for name, model in (models | {"teacher": teacher}).items()}
    module = TrainingModule(
        algorithm,
        {name: model.denoiser for name, model in models.items()},
        teacher.denoiser,
        Data(x_0),
        config,
        blocks if sharded else None,
    )
    if sharded:
        mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
        strategy: Any = SimpleNamespace(mesh=mesh)
        module._trainer = SimpleNamespace(strategy=strategy)  # type: ignore[assignment]
        module.configure_model()
    return module


def run(module: TrainingModule, ranks: Sequence[int]) -> dict[str, Tensor]:
    """Train with the draws of some ranks; return the first gradients, and what came of it.

    By plain SGD: Adam would make much of the rounding of small gradients.
    """
    engine, found = module.engine, {}
    optimizer = torch.optim.SGD(engine.groups(0.5), 0.5)
    for index in range(UPDATES):
        engine.begin(index, UPDATES, optimizer)
        optimizer.zero_grad()
        for rank in ranks:
            rows = module.data.x_0[rank * PER_RANK : (rank + 1) * PER_RANK]
            losses = engine.losses(
                Batch(rows), index, UPDATES, rank=rank, step=index, device=torch.device("cpu")
            )
            (losses.total / len(ranks)).backward()
            module.on_after_backward()
        for role, network in engine.trained_networks.items():
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient {index} {role} {name}"] = full(parameter.grad)
        engine.clip(1.0)
        optimizer.step()
        engine.finish(index, UPDATES)
    for role, network in engine.trained_networks.items():
        found |= {f"{role} {n}": full(p) for n, p in network.named_parameters()}
    found |= {f"student() {n}": p.detach() for n, p in module.student().named_parameters()}
    return found


def full(value: Any) -> Tensor:
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole.detach().clone()


def head_alone(kind: str) -> dict[str, Tensor]:
    """The gradient of a head that is asked for after its network was sharded again."""
    from di4c_plugin.networks.attach import Head
    from di4c_plugin.training.sharding import settle

    module = made("dit di4c", sharded=True)
    student: Any = module.engine.trained_networks["student"]
    x = torch.full((2, 5), 6)
    h = student.hidden(x, torch.full((2,), 0.5), latent=torch.rand(2, 1))
    settle([module])
    head: Head = student.head
    assert hasattr(head.weight, "full_tensor")
    weight = head.exact()[0] if kind == "head" else head.weight.full_tensor()
    ones = torch.ones(2, 5, h.shape[-1]) * (1 + dist.get_rank())
    nn.functional.linear(ones, weight).sum().backward()
    return {"weight": full(head.weight.grad)}


def head_anew() -> dict[str, Tensor]:
    """The fp32 head of bf16 weights after these have changed, and the weights."""
    from di4c_plugin.training.sharding import settle

    module = made("bf16 di4c", sharded=True)
    student: Any = module.engine.trained_networks["student"]
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for when in ("before", "after"):
            student.hidden(torch.full((2, 5), 4), torch.full((2,), 0.5), latent=None)
            found[when] = student.head.exact()[0].clone()
            settle([module])
            student.head.weight.mul_(2)
        found["weights"] = full(student.head.weight).float() / 2
    return found


def exact(case: str, precision: str) -> dict[str, Tensor]:
    """How far log p is from that of the same hidden states and head in float64, both ways."""
    module = made(case, sharded=True, precision=precision)
    process = module.engine.algorithm.process  # type: ignore[attr-defined]
    student: Any = module.engine.networks()["student"].eval()  # type: ignore[attr-defined]
    x, t = torch.full((2, 5), process.mask), torch.full((2,), 0.5, dtype=torch.float64)
    latent = torch.rand(2, *student.latent_shape)
    states = States(x.unsqueeze(0), t, None, latent.unsqueeze(0))
    with torch.no_grad():
        formed = student(x, t, latent=latent)
        taken = predict(student, states, AllPositions(x == process.mask), process, hidden=True)
        log_p = taken.log_p(slice(None)).view_as(formed)
        h = student.hidden(x, t, latent=latent)
        head = student.head

        def want(dtype: torch.dtype) -> Tensor:
            bias = None if head.bias is None else head.bias.to(dtype)
            logits = nn.functional.linear(h.to(dtype), head.weight.to(dtype), bias)
            return process.restrict(logits.double()).log_softmax(-1)

        possible = want(torch.float64) > -1e5
        errors = [formed - want(torch.float64), log_p - want(torch.float64)]
        errors.append(want(torch.bfloat16) - want(torch.float64))
    return {"errors": torch.stack([e[possible].double().abs().max() for e in errors])}


def work(rank: int, folder: Path) -> None:
    """One of the processes: every case, each result into a file."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS
    )
    work: dict[str, Callable[[], Any]] = {
        case: lambda case=case: run(made(case, sharded=True), [rank])  # type: ignore[misc]
        for case in CASES
    }
    mixed = lambda: run(made("dit di4c", sharded=True, precision="bf16-mixed"), [rank])  # noqa: E731
    work |= {"mixed": mixed, "head": lambda: head_alone("head")}
    work["head anew"] = head_anew
    work |= {f"exact {p}": lambda c=c, p=p: exact(c, p) for c, p in EXACT}  # type: ignore[misc]
    work["bare head"] = lambda: head_alone("bare")
    for name in sys.argv[3:] or work:
        call = work[name]
        try:
            found: object = call()
        except Exception as error:
            import traceback

            found = "".join(traceback.format_exception(error)[-6:])
        if rank == 0:
            torch.save(found, folder / f"{name}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[2]), Path(sys.argv[1]))
    # As in tests/losses/test_distributed.py.
    os._exit(0)
