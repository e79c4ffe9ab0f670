from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, DuoCosine, LogLinear, Process, Uniform
from di4c_plugin.families.dit import backbone_sizes
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.latent import AdaLNLatent
from di4c_plugin.programs.text.denoiser import BackboneDenoiser
from tests.networks import dit_reference
from tests.networks.backbone import CONFIG, backbone, batch, doors, state

MASK = 6
T = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
MASKED, MIXED = Absorbing(7, LogLinear(eps=1e-3), mask=MASK), Uniform(7, DuoCosine(eps=1e-3))


def denoiser(process: Process = MASKED, *, time_conditioned: bool = True) -> BackboneDenoiser:
    return BackboneDenoiser(backbone(), process, time_conditioned=time_conditioned).eval()


def reference(sigma: Tensor) -> Tensor:
    return dit_reference.logits(state(), batch()[0], sigma, CONFIG.n_heads)


def test_masked_diffusion_gets_subs() -> None:
    x_t, log_p = batch()[0], denoiser()(batch()[0], T)
    want = reference(-torch.log(1 - (1 - 1e-3) * T))
    want[..., MASK] = -torch.inf
    p = want.softmax(-1)
    p[x_t != MASK] = torch.nn.functional.one_hot(x_t, 7).double()[x_t != MASK]
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().double(), p, rtol=1e-4, atol=1e-6)
    assert log_p.isfinite().all()


def test_uniform_diffusion_leaves_every_position_open() -> None:
    alpha = 1 - torch.cos((1 - (1 - 1e-3) * T) * torch.pi / 2)
    want = reference(-alpha.log()).softmax(-1)
    log_p = denoiser(MIXED)(batch()[0], T)
    torch.testing.assert_close(log_p.exp().double(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("process", [MASKED, MIXED])
def test_without_time_conditioning_the_network_sees_sigma_0(process: Process) -> None:
    timeless = denoiser(process, time_conditioned=False)
    assert timeless.sigma(T).tolist() == [0, 0, 0]
    assert torch.equal(timeless(batch()[0], T), timeless(batch()[0], T * 0.3))
    assert denoiser(process).sigma(T).dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
def test_the_head_turns_hidden_states_into_the_logits(autocast: bool) -> None:
    model, x_t = denoiser(), batch()[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model.hidden(x_t, T)
        assert model.head is not None
        logits = model.head(hidden)
        assert hidden.shape == (3, 6, CONFIG.hidden_size)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, model.backbone(x_t, model.sigma(T)))


def test_after_a_failure_the_head_works_again() -> None:
    model = denoiser()
    with pytest.raises(IndexError):
        model.hidden(batch()[0] + 99, T)
    assert model(batch()[0], T).shape == (3, 6, 7)


def test_a_students_lambda_gets_through() -> None:
    network: Any = backbone()
    attach_latent(
        network, AdaLNLatent(backbone_sizes(network, 6), std=0.3), doors(network), mask=MASK
    )
    model = BackboneDenoiser(network, MASKED, time_conditioned=False)
    assert model.latent_shape == (1,)
    assert denoiser().latent_shape is None
    one, other = (model(batch()[0], T, latent=torch.full((3, 1), v)) for v in (0.1, 0.9))
    assert not torch.allclose(one, other)
    assert torch.equal(one, model(batch()[0], T, latent=torch.full((3, 1), 0.1)))


def test_a_student_that_starts_silent_is_the_teacher() -> None:
    network: Any = backbone()
    attach_latent(
        network, AdaLNLatent(backbone_sizes(network, 6), std=0.0), doors(network), mask=MASK
    )
    model = BackboneDenoiser(network, MASKED, time_conditioned=True)
    assert torch.equal(model(batch()[0], T, latent=torch.rand(3, 1)), denoiser()(batch()[0], T))


def test_log_probabilities_are_exact_under_autocast() -> None:
    """The head and the sums in fp32: what is left is the rounding of the blocks."""
    with torch.autocast("cpu", torch.bfloat16):
        log_p = denoiser()(batch()[0], T)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(3, 6), atol=1e-6, rtol=0)
