import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Absorbing, LogLinear, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families.dit import tells_process
from di4c_plugin.programs.text.denoiser import BackboneDenoiser
from di4c_plugin.programs.text.networks import (
    check_weights,
    new_student,
    restore,
)
from tests.networks.backbone import Backbone, backbone, batch, with_latent
from tests.stand_ins.text.stand_in import weights

PROCESS = Absorbing(7, LogLinear(eps=1e-3), mask=6)
TOKEN = {"name": "token", "dim": 1, "features": 128}
T = torch.tensor([0.1, 0.5, 1.0]).double()
BODY = backbone().state_dict().keys()


def is_latent(name: str) -> bool:
    return name not in BODY


def untouched() -> Backbone:
    return backbone(seed=9)


def log_p(network: Any, **latent: torch.Tensor) -> torch.Tensor:
    copied = copy.deepcopy(network).eval()
    model = BackboneDenoiser(copied, PROCESS, time_conditioned=True)
    return model(batch()[0], T, **latent)


def test_a_teacher_is_restored_beside_the_hosts_backbone() -> None:
    network = untouched()
    before = copy.deepcopy(network.state_dict())
    teacher = restore(network, weights(), PROCESS, 6)
    assert torch.equal(log_p(teacher), log_p(backbone(seed=0)))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_mixture_teacher_is_restored_with_its_latent() -> None:
    lam = torch.rand(3, 1)
    teacher = restore(untouched(), weights(latent=TOKEN), PROCESS, 6)
    assert not torch.allclose(log_p(teacher, latent=lam), log_p(teacher, latent=1 - lam))


@pytest.mark.parametrize("name", ["adaln", "mask_noise"])
def test_a_silent_student_is_its_teacher_exactly(name: str) -> None:
    student: Any = new_student(untouched(), {"name": name, "std": 0.0}, weights(), PROCESS, 6)
    lam = torch.rand(3, *student.di4c_injector[0].latent_shape)
    assert torch.equal(log_p(student, latent=lam), log_p(backbone(seed=0)))


def test_a_student_starts_from_the_teachers_weights_by_name() -> None:
    student = new_student(untouched(), TOKEN, weights(), PROCESS, 6)
    own = student.state_dict()
    assert {n for n in own if is_latent(n)} == {
        f"latent_projection.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    assert all(torch.equal(own[n], v) for n, v in weights().tensors.items())


def injector(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: v for n, v in network.state_dict().items() if is_latent(n)}


def test_a_latent_of_the_same_kind_and_sizes_carries_over() -> None:
    teacher = weights(latent={"name": "token"})  # as the released students, which say no more
    student = new_student(untouched(), TOKEN, teacher, PROCESS, 6)
    assert all(torch.equal(v, teacher.tensors[n]) for n, v in injector(student).items())


def test_blocks_that_are_not_said_are_all_blocks() -> None:
    teacher = weights(latent=TOKEN)
    student = new_student(untouched(), TOKEN | {"blocks": None}, teacher, PROCESS, 6)
    assert all(torch.equal(v, teacher.tensors[n]) for n, v in injector(student).items())


def test_a_late_latent_is_restored_late() -> None:
    late, lam = TOKEN | {"blocks": 1}, torch.rand(3, 1)
    student: Any = restore(untouched(), weights(latent=late), PROCESS, 6)
    assert student.di4c_injector[0].blocks == 1
    every = restore(untouched(), weights(latent=TOKEN), PROCESS, 6)
    assert not torch.allclose(log_p(student, latent=lam), log_p(every, latent=lam))
    with pytest.raises(UserError, match="latent.blocks is 3: this network has 1 to 2"):
        with_latent(untouched(), TOKEN | {"blocks": 3}, PROCESS, 6)


@pytest.mark.parametrize(
    "latent",
    [TOKEN | {"features": 64}, TOKEN | {"blocks": 1}, {"name": "adaln"}, {"name": "mask_noise"}],
)
def test_another_latent_starts_anew(latent: dict[str, Any]) -> None:
    teacher = weights(latent=TOKEN)
    torch.manual_seed(0)
    student = new_student(untouched(), latent, teacher, PROCESS, 6)
    torch.manual_seed(0)
    fresh = injector(with_latent(untouched(), latent, PROCESS, 6))
    assert injector(student).keys() == fresh.keys()
    assert all(torch.equal(v, fresh[n]) for n, v in injector(student).items())
    body = {n: v for n, v in student.state_dict().items() if not is_latent(n)}
    assert all(torch.equal(v, teacher.tensors[n]) for n, v in body.items())


def test_unknown_latents_and_options_are_named() -> None:
    with pytest.raises(UserError, match="unknown latent 'tokn' .*token"):
        with_latent(untouched(), {"name": "tokn"}, PROCESS, 6)
    with pytest.raises(UserError, match="latent 'token' cannot be made: .*'std'"):
        with_latent(untouched(), {"name": "token", "std": 1.0}, PROCESS, 6)


def test_rotations_may_be_in_the_file_or_not() -> None:
    network = untouched()
    network.rotary_emb.register_buffer("inv_freq", torch.ones(3))
    new_student(network, None, weights(), PROCESS, 6)
    assert torch.equal(network.get_buffer("rotary_emb.inv_freq"), torch.ones(3))


def changed(**tensors: torch.Tensor | None) -> Weights:
    given = weights()
    values = given.tensors | {n.replace("__", "."): v for n, v in tensors.items()}
    return replace(given, tensors={n: v for n, v in values.items() if v is not None})


def test_another_vocabulary_is_told_first() -> None:
    other = changed(vocab_embed__embedding=torch.ones(9, 12), sigma_map__mlp__0__bias=None)
    with pytest.raises(UserError, match="^teacher.ckpt has a vocabulary of 9 tokens, .* has 7 "):
        new_student(untouched(), None, other, PROCESS, 6)


def test_other_mismatches_are_named() -> None:
    other = changed(sigma_map__mlp__0__bias=None, more=torch.ones(1))
    message = "teacher.ckpt .*missing sigma_map.mlp.0.bias, unexpected more"
    with pytest.raises(UserError, match=message):
        new_student(untouched(), None, other, PROCESS, 6)


def described(**config: Any) -> Weights:
    return replace(weights(), config=config)


@pytest.mark.parametrize(
    "good",
    [
        weights(),
        described(time_conditioning=False, mask_index=6, noise={"type": "loglinear"}),
        replace(weights(), process=PROCESS.config),
    ],
)
def test_weights_of_the_same_kind_are_taken(good: Weights) -> None:
    check_weights(good, PROCESS, time_conditioned=False)


def test_weights_that_say_nothing_are_what_the_user_says() -> None:
    """A bare state dict; with rotary buffers its heads are known, and no more."""
    for silent in (weights(), described(head_size=6)):
        check_weights(silent, Uniform(7), time_conditioned=True)
        assert not tells_process(silent)
    assert tells_process(replace(weights(), process=PROCESS.config))
    assert tells_process(described(algo={"name": "mdlm"}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (described(algo={"name": "duo_base"}), "name differs"),
        (described(mask_index=2), "mask differs"),
        (replace(weights(), process=Uniform(7).config), "name differs"),
        (described(time_conditioning=True), "was trained with time_conditioning=True, this run"),
        (
            replace(weights(), notes={"network": {"time_conditioning": True}}),
            "was trained with time_conditioning=True",
        ),
        (described(parameterization="ar"), "an autoregressive model"),
        (described(parameterization="sedd"), "SEDD"),
    ],
)
def test_weights_of_another_kind_are_refused(wrong: Weights, message: str) -> None:
    with pytest.raises(UserError, match=f"^teacher.ckpt [^\n]*{message}[^\n]*$"):
        check_weights(wrong, PROCESS, time_conditioned=False)
