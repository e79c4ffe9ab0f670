import torch
from torch import Tensor, nn

from di4c_plugin.networks.recompute import recomputed


@torch.jit.script
def scripted(x: Tensor, scale: Tensor) -> Tensor:
    """As the hosts' modulation: TorchScript, with gradients of both arguments."""
    return x * (1 + scale) + scale


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(3)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = scripted(scripted(x.exp(), self.scale), self.scale)
        return out


def test_a_network_with_torchscript_is_differentiated() -> None:
    """torch's early stop ended in an error of the TorchScript interpreter."""
    network, x = Network(), torch.randn(2, 3)
    network(x).sum().backward()
    want = network.scale.grad
    network.scale.grad, network.calls = None, 0
    recomputed(network, x).sum().backward()
    assert network.calls == 2
    assert want is not None
    assert network.scale.grad is not None
    torch.testing.assert_close(network.scale.grad, want)


def test_draws_are_the_same_both_times() -> None:
    seen: list[Tensor] = []

    def noisy(x: Tensor) -> Tensor:
        noise = torch.rand(3)
        seen.append(noise)
        return x * noise

    x = torch.ones(3, requires_grad=True)
    recomputed(noisy, x).sum().backward()
    assert len(seen) == 2
    assert torch.equal(*seen)
    assert x.grad is not None
    assert torch.equal(x.grad, seen[0])
