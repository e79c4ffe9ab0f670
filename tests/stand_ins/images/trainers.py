"""What the hosts' trainers and models are to a sampler, around a network of a checkout."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.families.base import Family
from tests.stand_ins.images import small_halton, small_maskgit, small_tauldr
from tests.stand_ins.images.small_maskgit import randomised


class Decoder:
    """Pictures (n, 3, h, w) whose pixels are codes, beyond [-1, 1]."""

    def decode_code(self, code: Tensor) -> Tensor:
        return code[:, None].float().expand(-1, 3, -1, -1)


class MaskGIT:
    """Of v1: nothing of it but what a sampler looks at."""

    def __init__(self, place: Path) -> None:
        self.vit = randomised(small_maskgit.NETS.at(place).build(small_maskgit.SIZES)).train()
        self.codebook_size, self.patch_size = 7, 3
        self.ae, self.args = Decoder(), SimpleNamespace(mask_value=7, device="cpu")

    def sample(self, *args: Any, **kwargs: Any) -> str:
        return "the host's own"


class HaltonTrainer:
    """Of Halton-MaskGIT."""

    def __init__(self, place: Path) -> None:
        self.vit = randomised(small_halton.NETS.at(place).build(small_halton.SIZES)).train()
        self.ae, self.autocast, self.input_size = Decoder(), nullcontext(), 3
        self.args = SimpleNamespace(
            mask_value=7, device="cpu", use_ema=False, vit_size="tiny", codebook_size=7
        )

    def transformer_size(self, size: str) -> tuple[int, int, int]:
        return 16, 2, small_halton.SIZES.heads


class Wrapped(nn.Module):
    """As DistributedDataParallel, or an average, has a network below another name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class GaussianModel(nn.Module):
    """As tauLDR's model: averages that `eval` puts in, a state dict with more than tensors."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        sizes = small_tauldr.SIZES
        self.net: Any = small_tauldr.plain(place).train()
        self.net.data_min_max, self.net.dropout = list(sizes.data_min_max), sizes.dropout
        self.net.skip_rescale = sizes.skip_rescale
        self.S, self.data_shape, self.fix_logistic = sizes.num_tokens, list(sizes.shape), False
        self.rate_sigma, self.Q_sigma = sizes.rate_sigma, sizes.q_sigma
        self.time_exponential, self.time_base = sizes.time_exponential, sizes.time_base
        self.decay, self.num_updates, self.collected = 0.9, 0, [torch.empty(0)]
        self.init_ema()

    def init_ema(self) -> None:
        self.shadow_params = [p.detach().clone() for p in self.parameters() if p.requires_grad]

    def update_ema(self) -> None:
        self.num_updates += 1
        trained = [p for p in self.parameters() if p.requires_grad]
        for mean, p in zip(self.shadow_params, trained, strict=True):
            mean.lerp_(p.detach(), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        return nn.Module.state_dict(self) | {
            "ema_decay": self.decay,
            "ema_num_updates": self.num_updates,
            "ema_shadow_params": self.shadow_params,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # type: ignore[override]
        missing, _ = nn.Module.load_state_dict(self, state, strict=False)
        if missing:
            raise ValueError
        self.decay, self.num_updates = state["ema_decay"], state["ema_num_updates"]
        self.shadow_params = state["ema_shadow_params"]

    def train(self, mode: bool = True) -> "GaussianModel":
        if self.training == mode:
            raise ValueError("the same mode twice")
        nn.Module.train(self, mode)
        kept = [p.detach().clone() for p in self.parameters()]
        source = self.collected if mode else self.shadow_params
        for p, value in zip(self.parameters(), source, strict=True):
            p.data.copy_(value)
        self.collected = kept
        return self


def student_of(nets: Family[Any], network: nn.Module, sizes: Any, place: Path) -> Model:
    """A student of a network, whose latent matters."""
    latent = {"name": "unet" if nets.name == "tauldr" else "token"}
    weights = Weights(dict(network.state_dict()), None, {}, None, "a network", "")
    denoiser = nets.at(place).student(weights, sizes, latent)
    return Model(denoiser.eval(), sizes, latent, role="student")


def hooks_of(network: nn.Module) -> int:
    """How many hooks there are on a network and its parts."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
