"""What the stand-in of a host is made of: averages by position, a schedule, a tokenizer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-3


class Average:
    """Moving averages of parameters, by their order alone."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay, self.num_updates = decay, 0
        self.shadow_params = [p.clone().detach() for p in parameters if p.requires_grad]
        self.kept: list[Tensor] = []

    def move_shadow_params_to_device(self, device: torch.device) -> None:
        self.shadow_params = [p.to(device) for p in self.shadow_params]

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        self.num_updates += 1
        trained = (p for p in parameters if p.requires_grad)
        for average, p in zip(self.shadow_params, trained, strict=False):
            average.lerp_(p, 1 - self.decay)

    def store(self, parameters: Iterable[nn.Parameter]) -> None:
        self.kept = [p.detach().clone() for p in parameters]

    def copy_to(
        self, parameters: Iterable[nn.Parameter], values: list[Tensor] | None = None
    ) -> None:
        for value, p in zip(values or self.shadow_params, parameters, strict=False):
            p.data.copy_(value)

    def restore(self, parameters: Iterable[nn.Parameter]) -> None:
        self.copy_to(parameters, self.kept)

    def state_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("decay", "num_updates", "shadow_params")}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        vars(self).update(values)


class Noise(nn.Module):
    """A schedule; `learnt` gives it a parameter, as one schedule of MDLM has."""

    def __init__(self, eps: float = EPS, *, learnt: bool = False) -> None:
        super().__init__()
        self.eps = eps
        if learnt:
            self.bias = nn.Parameter(torch.zeros(2))


class Tokenizer:
    """Letters a to f; a space ends a text."""

    eos_token_id, bos_token_id = 5, 0

    def __len__(self) -> int:
        return 6

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}

    def batch_decode(self, x: Tensor) -> list[str]:
        return ["".join(chr(ord("a") + token) for token in row) for row in x.tolist()]
