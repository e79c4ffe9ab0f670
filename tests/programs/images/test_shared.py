"""Networks that share a host's weights, and leave the host's network alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.programs.images.shared import SharedNetworks, share, tensors_of
from tests.stand_ins.images import small_halton, small_maskgit, small_tauldr
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_maskgit import COND, T, X
from tests.stand_ins.images.trainers import Wrapped, hooks_of

OPTIONS: dict[str, dict[str, Any]] = {
    "maskgit": {"heads": 2, "codes": 7},
    "halton_maskgit": {"heads": 2},
    "tauldr": {"config": small_tauldr.CONFIG},
}
CASES = [small_maskgit, small_halton, small_tauldr]


def predicted(module: Any, denoiser: Any) -> Tensor:
    if module is small_tauldr:
        return denoiser(small_tauldr.X, small_tauldr.T)
    return denoiser(X, T, cond=COND)


def direct(module: Any, network: Any) -> Tensor:
    """What the host's network itself says."""
    if module is small_tauldr:
        t = small_tauldr.T.float()
        return small_tauldr.log_p_of(network(small_tauldr.X.view(2, 3, 4, 4), t))
    logits: Tensor = network(X.view(-1, 3, 3), COND.clamp(min=0), COND == -1)
    return logits[..., :7].log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("module", CASES, ids=lambda module: module.NETS.name)
def test_it_says_what_the_network_says(root: Root, module: Any) -> None:
    place = root(module.NETS.name)
    network = module.plain(place)
    expected, hooks = direct(module, network), hooks_of(network)
    network.train()
    shared, owner = SharedNetworks(module.NETS, place), Wrapped(network)
    before = torch.random.get_rng_state()
    denoiser = shared.of(owner, tensors_of(Wrapped(owner)), **OPTIONS[module.NETS.name])
    found = predicted(module, denoiser)[..., : expected.shape[-1]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(before, torch.random.get_rng_state())
    # The host's network: in train mode, no hook more, the same memory.
    assert all(part.training for part in network.modules())
    assert hooks_of(network) == hooks
    pointers = {p.data_ptr() for p in network.parameters()}
    assert {p.data_ptr() for p in denoiser.network.parameters()} == pointers
    for p in network.parameters():
        p.mul_(0.5)  # as an optimiser does
    network.eval()
    changed = predicted(module, denoiser)[..., : expected.shape[-1]]
    torch.testing.assert_close(changed, direct(module, network), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(changed, expected)


@torch.no_grad()
def test_tensors_that_the_host_has_replaced_are_followed(root: Root) -> None:
    place = root("maskgit")
    first, second = small_maskgit.plain(place), small_maskgit.plain(place).double()
    second.bias.add_(torch.randn_like(second.bias))
    shared, owner = SharedNetworks(small_maskgit.NETS, place), Wrapped(first)
    options = OPTIONS["maskgit"]
    denoiser = shared.of(owner, tensors_of(first), **options)
    assert shared.of(owner, tensors_of(second), **options) is denoiser
    found = predicted(small_maskgit, denoiser)[..., :7]
    torch.testing.assert_close(found, direct(small_maskgit, second), atol=1e-8, rtol=1e-6)
    assert shared.of(Wrapped(second), tensors_of(second), **options) is not denoiser


def test_other_networks_are_refused(root: Root) -> None:
    place = root("maskgit")
    network = small_maskgit.plain(place)
    with pytest.raises(UserError, match=r"is of MaskGIT-pytorch v1, not of Halton-MaskGIT"):
        SharedNetworks(small_halton.NETS, place).of(network, tensors_of(network), heads=2)
    with pytest.raises(UserError, match=r"no size that its host names: say .*heads="):
        SharedNetworks(small_maskgit.NETS, place).of(network, tensors_of(network), codes=7)
    with pytest.raises(UserError, match=r"the host's network has changed: .*Missing key"):
        share(nn.Linear(2, 2), {})
