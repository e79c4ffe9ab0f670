import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from di4c_plugin.diffusion import LogLinear
from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.dit import DiT, DiTConfig
from di4c_plugin.networks.latent import AdaLNLatent, MaskNoiseLatent, TokenLatent
from tests.conftest import host_named
from tests.networks import dit_reference
from tests.networks.backbone import doors

CONFIG = DiTConfig(
    vocab_size=7,
    length=6,
    hidden_size=24,
    cond_dim=5,
    n_blocks=2,
    n_heads=3,
    time_conditioning=True,
)
SCHEDULE = LogLinear(eps=1e-3)


def make(state: dict[str, Tensor], config: DiTConfig = CONFIG, *, blocks: int | None = None) -> DiT:
    network = DiT(config, SCHEDULE)
    if any(name.startswith("latent_projection") for name in state):
        injector = TokenLatent(config)
        injector.blocks = blocks
        attach_latent(network, injector, doors(network))
    network.load_state_dict(state)
    return network.eval()


def batch(length: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randint(7, (3, length), generator=generator)
    return x_t, torch.tensor([0.03, 0.5, 1.0], dtype=torch.float64)


def sigma(t: Tensor) -> Tensor:
    return -torch.log(1 - (1 - 1e-3) * t)


@pytest.mark.parametrize("length", [6, 1, 9])
def test_it_is_the_function_that_the_weights_mean(length: int) -> None:
    state = dit_reference.random_state(7, 24, 5, 2)
    x_t, t = batch(length)
    expected = dit_reference.logits(state, x_t, sigma(t), 3)
    torch.testing.assert_close(make(state)(x_t, t).double(), expected, rtol=1e-4, atol=1e-4)
    exact = make(state).double()(x_t, t)
    torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-5)


def test_official_students_are_read_by_name() -> None:
    state = dit_reference.random_state(7, 24, 5, 2, latent=True)
    (x_t, t), lam = batch(), torch.tensor([[0.0], [0.3], [0.99]])
    expected = dit_reference.logits(state, x_t, sigma(t), 3, lam[:, 0])
    logits = make(state)(x_t, t, latent=lam)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    assert (logits - make(state)(x_t, t, latent=lam + 0.2)).abs().max() > 1e-2


def test_without_time_conditioning_it_sees_sigma_zero() -> None:
    state = dit_reference.random_state(7, 24, 5, 2)
    timeless = DiTConfig(**{**vars(CONFIG), "time_conditioning": False})
    x_t, t = batch()
    expected = dit_reference.logits(state, x_t, torch.zeros(3), 3)
    logits = make(state, timeless)(x_t, t)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [TokenLatent, AdaLNLatent, MaskNoiseLatent])
def test_every_latent_enters_and_survives_a_copy(kind: type) -> None:
    torch.manual_seed(0)
    network = DiT(CONFIG, SCHEDULE)
    network.load_state_dict(dit_reference.random_state(7, 24, 5, 2))
    attach_latent(network, kind(CONFIG), doors(network))
    network.eval()
    assert network.latent_shape is not None
    lam = torch.rand(2, 3, *network.latent_shape)
    x_t, t = batch()
    a, b = (network(x_t, t, latent=one) for one in lam)
    assert a.shape == (3, 6, 7)
    assert not torch.allclose(a, b)
    assert copy.deepcopy(network)(x_t, t, latent=lam[0]).equal(a)


def test_the_head_stays_in_fp32_under_autocast() -> None:
    network = make(dit_reference.random_state(7, 24, 5, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(*batch()).dtype == torch.float32


def test_a_new_network_predicts_nothing_and_gets_gradients() -> None:
    network = DiT(CONFIG, SCHEDULE)
    x_t, t = batch()
    assert network(x_t, t).abs().max() == 0
    network.load_state_dict(dit_reference.random_state(7, 24, 5, 2))
    network(x_t, t).square().sum().backward()
    assert all((p.grad != 0).any() for p in network.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in network.parameters())


def test_what_it_does_not_take_is_refused() -> None:
    network, (x_t, t) = DiT(CONFIG, SCHEDULE), batch()
    with pytest.raises(UserError, match="latent"):
        network(x_t, t, latent=torch.rand(3, 1))
    with pytest.raises(UserError, match="no class labels"):
        network(x_t, t, cond=torch.zeros(3, dtype=torch.long))
    with pytest.raises(UserError, match="5 heads do not divide hidden size 24 into even parts"):
        DiTConfig(7, 6, 24, 5, 2, 5)


# ---- the real classes, each in a process of its own: the hosts share top-level names

HOST_PROGRAM = """
import sys
from pathlib import Path
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from di4c_plugin.checkouts import Checkout
from di4c_plugin.plugins import lookup
from di4c_plugin.programs import shims
name, root, weights, out, latent = sys.argv[1:]
host = lookup("program", name)
shims.install(Checkout(host, Path(root), host.commit))
sys.path[:0] = [root, root + "/src"]
if name == "sdtt":
    from sdtt.models.dit_orig import DIT
else:
    from models.dit import DIT
given = load_file(weights)
x, sigma, lam = given.pop("x"), given.pop("sigma"), given.pop("lam")
config = OmegaConf.create({"algo": {"causal_attention": False}, "model": dict(hidden_size=24,
    cond_dim=5, n_blocks=2, n_heads=3, dropout=0.1, scale_by_sigma=True)})
network = DIT(config, vocab_size=7)
# The order that averages are mapped by, see hosts/naming.py.
names = [name for name in network.state_dict() if name != "rotary_emb.inv_freq"]
assert names == [name for name, _ in network.named_parameters()]
extra = {}
if latent != "none":
    from di4c_plugin.families.dit import backbone_sizes
    from di4c_plugin.networks.attach import attach_latent
    from di4c_plugin.networks.dit import DOORS
    from di4c_plugin.networks.doors import find_doors
    from di4c_plugin.networks.latent import TokenLatent
    injector = TokenLatent(backbone_sizes(network, 6))
    injector.blocks = None if latent == "all" else int(latent)
    attach_latent(network, injector, find_doors(network, DOORS))
    extra = {"latent": lam}
missing, unexpected = network.load_state_dict(given, strict=False)
assert not unexpected and set(missing) <= {"rotary_emb.inv_freq"}, (missing, unexpected)
with torch.no_grad():
    save_file({"logits": network.eval()(x, sigma, **extra)}, out)
"""


@pytest.mark.host
@pytest.mark.parametrize("latent", ["none", "all", "1"])
@pytest.mark.parametrize("name", ["mdlm", "sdtt", "duo"])
def test_it_is_the_function_of_the_hosts_own_class(
    name: str, latent: str, tmp_path: Path, repository: Path
) -> None:
    root = repository / "external" / name
    if not host_named(name).is_at(root):
        pytest.skip(f"external/{name} is empty; see di4c doctor")
    state = dit_reference.random_state(7, 24, 5, 2, latent=latent != "none")
    # Two latents for each of the three examples.
    (x_t, t), lam = batch(), torch.tensor([[0.1], [0.5], [0.9], [0.2], [0.4], [0.7]])
    given = {"x": x_t, "sigma": sigma(t).float(), "lam": lam}
    save_file(state | given, tmp_path / "weights")
    arguments = [name, root, tmp_path / "weights", tmp_path / "logits", latent]
    run = subprocess.run(
        [sys.executable, "-c", HOST_PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    theirs = load_file(tmp_path / "logits")["logits"]
    with torch.no_grad():
        network = make(state, blocks=1 if latent == "1" else None)
        ours = network(x_t, t, **({} if latent == "none" else {"latent": lam}))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert math.isfinite(float(theirs.sum()))
