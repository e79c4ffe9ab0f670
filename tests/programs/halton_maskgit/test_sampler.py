"""Our samplers with Halton-MaskGIT's interface."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from di4c_plugin.diffusion import time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.families.importing import host_module
from di4c_plugin.programs.halton_maskgit.sampler import ConfidenceSampler, HaltonSampler, install
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.images.sampler import host_generator
from di4c_plugin.samplers import halton
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_halton import NETS, SIZES
from tests.stand_ins.images.small_maskgit import as_weights, randomised
from tests.stand_ins.images.trainers import HaltonTrainer, Wrapped, hooks_of, student_of

LABELS = torch.tensor([0, 4, 2, 1, 1, 3])


@pytest.fixture
def trainer(root: Root) -> Any:
    return HaltonTrainer(root("halton_maskgit"))


@pytest.mark.parametrize("kind", [HaltonSampler, ConfidenceSampler])
def test_results_are_the_hosts(trainer: Any, root: Root, kind: Any) -> None:
    hooks = hooks_of(trainer.vit)
    sampler = kind(w=1.5, step=4, root=root("halton_maskgit"))
    x, codes, masks = sampler(trainer, nb_sample=6, labels=LABELS, verbose=False)
    assert x.shape == (6, 3, 3, 3)
    assert float(x.max()) <= 1  # the decoder goes beyond
    assert [c.shape for c in codes] == [m.shape for m in masks] == [(6, 3, 3)] * 4
    counts = [int(m[0].sum()) for m in masks]
    if kind is HaltonSampler:  # what a step opens
        assert sum(counts) == 9
        assert min(counts) > 0
    else:  # what is still masked
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] == 0
    assert all(part.training for part in trainer.vit.modules())
    assert hooks_of(trainer.vit) == hooks


def test_samples_are_those_of_our_sampler_with_the_hosts_flags(trainer: Any, root: Root) -> None:
    place = root("halton_maskgit")
    torch.manual_seed(5)
    sampler = HaltonSampler(w=2, step=3, sched_pow=2, randomize=True, root=place)
    _, codes, _ = sampler(trainer=trainer, nb_sample=6, labels=LABELS)
    denoiser = NETS.at(place).restore(as_weights(trainer.vit), SIZES)
    torch.manual_seed(5)
    expected = halton(
        denoiser,
        torch.full((6, 9), 7),
        time_grid(3),
        process=denoiser.process,
        generator=host_generator(torch.device("cpu")),
        cond=LABELS,
        guidance=2,
        randomize=True,
    )
    assert torch.equal(codes[-1].flatten(1), expected)


def test_the_average_is_taken_where_the_host_keeps_one(trainer: Any, root: Root) -> None:
    place = root("halton_maskgit")
    trainer.ema = Wrapped(randomised(NETS.at(place).build(SIZES)))
    with torch.no_grad():
        for p in trainer.ema.parameters():
            p.mul_(-1)

    def drawn(use_ema: bool) -> torch.Tensor:
        trainer.args.use_ema = use_ema
        torch.manual_seed(0)
        sampler = ConfidenceSampler(w=0, step=2, root=place)
        return sampler(trainer, nb_sample=6, labels=LABELS)[1][-1]

    raw, averaged = drawn(False), drawn(True)
    assert not torch.equal(raw, averaged)
    trainer.vit = trainer.ema.module
    assert torch.equal(drawn(False), averaged)


def test_one_step(trainer: Any, root: Root) -> None:
    place = root("halton_maskgit")
    for sampler in (HaltonSampler(step=1, root=place), ConfidenceSampler(step=1, root=place)):
        _, codes, masks = sampler(trainer, nb_sample=2)
        assert len(codes) == len(masks) == 1
    student = student_of(NETS, trainer.vit, SIZES, place)
    sampler = ConfidenceSampler(
        step=12, sampler="di4c", student=student, options={"steps": 1}, root=place
    )
    assert str(sampler) == "Scheduler: di4c di4c, Steps: 1, of a student"
    assert len(sampler(trainer, nb_sample=2)[1]) == 1


def test_temperatures_of_the_softmax() -> None:
    sampler = HaltonSampler(1, 1.2, temp_pow=2, step=3, temp_warmup=1)
    assert sampler.softmax == pytest.approx([0.5, 1.21, 1.44])
    assert HaltonSampler(step=1).softmax == [1.0]
    assert ConfidenceSampler(sm_temp=1.3, step=3).softmax == [1.3]


def test_codes_to_start_from_may_be_flat(trainer: Any, root: Root) -> None:
    start = torch.full((2, 9), 7)
    start[:, 4] = 3
    sampler = HaltonSampler(step=2, root=root("halton_maskgit"))
    _, codes, _ = sampler(trainer, start, nb_sample=2, labels=LABELS[:2])
    assert bool((codes[-1].flatten(1)[:, 4] == 3).all())


def test_mistakes(trainer: Any) -> None:
    with pytest.raises(UserError, match="top_k must be -1, not 5"):
        HaltonSampler(top_k=5)
    with pytest.raises(UserError, match="randomize linear and no, not 'random'"):
        ConfidenceSampler(randomize="random")
    with pytest.raises(UserError, match="unknown sampler 'confidence'"):
        ConfidenceSampler(sampler="confidence")


def test_the_classes_are_replaced_with_our_sampler_in_them(
    trainer: Any, root: Root, tmp_path: Path
) -> None:
    place, module = root("halton_maskgit"), ModuleType("Sampler.confidence_sampler")
    student = student_of(NETS, trainer.vit, SIZES, place)
    student.save(tmp_path / "student.safetensors")
    flags = SamplerFlags("halton", str(tmp_path / "student.safetensors"), {"guidance": 0})
    install(module, "ConfidenceSampler", flags, place)
    made: Any = module
    sampler = made.ConfidenceSampler(sm_temp=1.0, w=3, r_temp=4.5, sched_mode="arccos", step=2)
    assert str(sampler) == f"Scheduler: di4c halton, Steps: 2, of {flags.student}"
    assert made.ConfidenceSampler().student is sampler.student, "it is loaded once"
    assert sampler(trainer, nb_sample=3)[0].shape == (3, 3, 3, 3)


@pytest.mark.host
@pytest.mark.parametrize(
    ("ours", "place"),
    [(HaltonSampler, "halton_sampler"), (ConfidenceSampler, "confidence_sampler")],
)
def test_the_interface_is_the_hosts(real_root: Root, ours: Any, place: str) -> None:
    root = real_root("halton_maskgit")
    host = getattr(host_module("halton_maskgit", f"Sampler.{place}", root), ours.__name__)
    for method, filled in (("__init__", "__init__"), ("__call__", "request")):
        declared = inspect.signature(getattr(host, method)).parameters
        found = inspect.signature(getattr(ours, filled)).parameters
        positional = {k: p for k, p in found.items() if p.kind is not p.KEYWORD_ONLY}
        assert {k: p.default for k, p in declared.items()} == {
            k: p.default for k, p in positional.items()
        }
