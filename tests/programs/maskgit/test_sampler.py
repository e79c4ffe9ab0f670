"""`MaskGIT.sample` of v1 by our samplers: signature, results, what stays as it was."""

import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from di4c_plugin.diffusion import time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.images.sampler import host_generator
from di4c_plugin.programs.maskgit.sampler import MaskGITSampler, half_precision, install
from di4c_plugin.samplers import maskgit
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_maskgit import NETS, SIZES, as_weights
from tests.stand_ins.images.trainers import MaskGIT, hooks_of, student_of

LABELS = torch.tensor([0, 4, 2, 1, 1, 3])


@pytest.fixture
def trainer(root: Root) -> Any:
    return MaskGIT(root("maskgit"))


def test_results_are_the_hosts_and_its_network_stays_as_it_was(trainer: Any, root: Root) -> None:
    sampler = MaskGITSampler(root=root("maskgit"))
    hooks = hooks_of(trainer.vit)
    x, codes, masks = sampler(trainer, nb_sample=6, labels=LABELS, w=2, step=4)
    assert x.shape == (6, 3, 3, 3)
    assert (int(x.min()) >= 0, int(x.max()) < 7) == (True, True)
    assert [c.shape for c in codes] == [m.shape for m in masks] == [(6, 3, 3)] * 4
    assert torch.equal(codes[-1], x[:, 0].long())
    left = [int(m.sum()) for m in masks]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0 < left[0]
    for before, after, state, code in zip(masks, masks[1:], codes, codes[1:], strict=False):
        assert not bool(((after == 1) & (before == 0)).any())
        assert torch.equal(state[before == 0], code[before == 0])  # what is known stays
    assert all(int(c.max()) < 7 for c in codes)  # the host decodes them
    assert all(part.training for part in trainer.vit.modules())
    assert hooks_of(trainer.vit) == hooks
    assert all(p.requires_grad for p in trainer.vit.parameters())


def test_samples_are_those_of_our_sampler_with_the_hosts_flags(trainer: Any, root: Root) -> None:
    place = root("maskgit")
    torch.manual_seed(5)
    x, _, _ = MaskGITSampler(root=place)(
        trainer, None, 6, LABELS, 1, 2.5, "linear", 3.0, "cosine", 4
    )
    denoiser = NETS.at(place).restore(as_weights(trainer.vit), SIZES)
    config = {"name": "confidence", "num_tokens": 8, "mask": 7, "schedule": "duo_cosine"}
    process = NETS.at(place).denoiser(SIZES, process=config).process
    torch.manual_seed(5)
    expected = maskgit(
        denoiser,
        torch.full((6, 9), 7),
        time_grid(4),
        process=process,
        generator=host_generator(torch.device("cpu")),
        cond=LABELS,
        temperature=3.0,
        counts="increments",
        guidance=2.5,
    )
    assert torch.equal(x[:, 0].long().flatten(1), expected)


def test_one_step_and_no_guidance(trainer: Any, root: Root) -> None:
    for sampler in ("di4c", "maskgit", "halton"):
        ours = MaskGITSampler(sampler, root=root("maskgit"))
        for w in (0, 3):
            x, codes, _ = ours(trainer, nb_sample=3, labels=None, w=w, step=1)
            assert len(codes) == 1
            assert int(x.max()) < 7


def test_codes_to_start_from_are_kept(trainer: Any, root: Root) -> None:
    start = torch.full((2, 3, 3), 7)
    start[0, 1], start[1, 0, 2] = 5, 2
    given = start.clone()
    sampler = MaskGITSampler(root=root("maskgit"))
    x, _, masks = sampler(trainer, given, nb_sample=2, labels=LABELS[:2], step=3)
    assert torch.equal(given, start)
    assert torch.equal(x[:, 0].long()[start != 7], start[start != 7])
    assert bool((masks[0][start != 7] == 0).all())


@pytest.mark.parametrize("name", ["ancestral", "di4c"])
def test_a_student_is_sampled_from_with_lambdas_of_its_own(
    name: str, trainer: Any, root: Root
) -> None:
    place = root("maskgit")
    student = student_of(NETS, trainer.vit, SIZES, place)
    seen: list[Any] = []
    network: Any = student.denoiser.network
    network.latent_projection.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    sampler = MaskGITSampler(name, student, root=place)
    sampler(trainer, nb_sample=6, labels=LABELS, w=0, step=2)
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1]) is (name == "ancestral")
    assert not torch.equal(seen[0][0], seen[0][1])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"labels": LABELS + 1}, r"labels .-1 is none. are -1 ... 4 here, and there are 1 ... 5"),
        ({"labels": LABELS[:4]}, "6 samples take 6 labels, not 4"),
        ({"sched_mode": [1, 2, 6]}, "the name of a schedule, not a list of counts"),
        ({"sched_mode": "cubic"}, "root, linear, square, cosine, arccos, not 'cubic'"),
        ({"randomize": "warm_up"}, "randomize linear and no, not 'warm_up'"),
        ({"init_code": torch.full((6, 2, 2), 7)}, "start from are 6 x 2 x 2, for 6 x 9"),
        ({"init_code": torch.full((6, 3, 3), 8)}, "codes .* are 0 ... 7 here"),
    ],
)
def test_mistakes(trainer: Any, root: Root, options: Any, line: str) -> None:
    sampler = MaskGITSampler(root=root("maskgit"))
    with pytest.raises(UserError, match=line):
        sampler(trainer, **({"nb_sample": 6, "labels": LABELS} | options))


def test_another_mask_is_refused(trainer: Any, root: Root) -> None:
    trainer.args.mask_value = 1024
    sampler = MaskGITSampler(root=root("maskgit"))
    with pytest.raises(UserError, match="the mask is 1024 here: our samplers need 7"):
        sampler(trainer, nb_sample=2)


def test_the_method_is_replaced(trainer: Any, root: Root) -> None:
    vit = ModuleType("Trainer.vit")
    kind = type("MaskGIT", (MaskGIT,), {})
    vit.MaskGIT = kind  # type: ignore[attr-defined]
    assert trainer.sample() == "the host's own"
    install(vit, SamplerFlags("halton", options={"steps": 2}), root("maskgit"))
    trainer.__class__ = kind
    x, codes, _ = trainer.sample(nb_sample=6, labels=LABELS, sm_temp=1.0, step=5)
    assert (x.shape, len(codes)) == ((6, 3, 3, 3), 2)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_half_precision_is_for_gpus() -> None:
    with half_precision(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cuda")
    context: Any = half_precision(SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
    assert (context.device, context.fast_dtype) == ("cuda", torch.float16)


@pytest.mark.host
def test_the_signature_is_the_hosts(real_root: Root) -> None:
    text = (real_root("maskgit") / "Trainer/vit.py").read_text()
    names = list(inspect.signature(MaskGITSampler.request).parameters)[2:]
    start = text.index("def sample(self, ")
    declared = text[start : text.index("):", start)].replace("def sample(self, ", "")
    assert [part.split("=")[0].strip() for part in declared.split(",")] == names
