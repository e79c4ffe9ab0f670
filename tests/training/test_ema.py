import pytest
import torch

from di4c_plugin.training.ema import EMA
from tests.training import toy

# (1 + i) / (10 + i), and no more than 0.4.
DECAYS = [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 0.4]


def test_it_is_the_weighted_mean_of_the_weights_it_saw() -> None:
    network = toy.student().denoiser
    ema = EMA(network, 0.4)
    expected = network.get_parameter("network.norm.weight").detach().double()
    for update, decay in enumerate(DECAYS):
        with torch.no_grad():
            network.get_parameter("network.norm.weight").add_(update + 1)
        ema.update(network)
        expected = (
            decay * expected
            + (1 - decay) * network.get_parameter("network.norm.weight").detach().double()
        )
    assert torch.allclose(
        ema.network.get_parameter("network.norm.weight").double(), expected, rtol=1e-6
    )


def test_its_decay_grows_to_the_one_given() -> None:
    network = toy.student().denoiser
    ema = EMA(network, 0.6)
    before = ema.network.get_parameter("network.norm.weight").clone()
    with torch.no_grad():
        network.get_parameter("network.norm.weight").add_(1)
    ema.updates = 10_000
    ema.update(network)
    moved = (ema.network.get_parameter("network.norm.weight") - before).mean().item()
    assert moved == pytest.approx(0.4, rel=1e-5)


def test_it_copies_buffers_and_is_not_trained() -> None:
    network = toy.student().denoiser
    network.register_buffer("seen", torch.zeros(2))
    ema = EMA(network, 0.9)
    network.get_buffer("seen").add_(5)
    ema.update(network)
    assert ema.network.get_buffer("seen").tolist() == [5, 5]
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.parameters())
