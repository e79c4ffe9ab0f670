from typing import Any

import pytest
import torch

from di4c_plugin.checkpoints.digest import digest_of

CONTENT: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)},
    "list": [1, 1.5, None, "x", (True, torch.empty(0))],
}


def test_it_is_of_the_values_whatever_holds_them() -> None:
    weights = CONTENT["weights"] | {"a": torch.arange(12.0).reshape(2, 6)[:, ::2] / 2}
    weights["a"] = torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]).T
    assert digest_of(CONTENT | {"weights": weights}) == digest_of(CONTENT)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"a": CONTENT["weights"]["a"].double(), "b": torch.tensor(True)}},
        {"weights": {"a": CONTENT["weights"]["a"].reshape(3, 2), "b": torch.tensor(True)}},
        {"weights": {"a": CONTENT["weights"]["a"].clone(), "b": torch.tensor(False)}},
        {"weights": {"a": CONTENT["weights"]["a"], "c": torch.tensor(True)}},
        {"list": [1, 1.5, None, "x"]},
        {"list": [1, 1.5, None, "x", (1, torch.empty(0))]},
        {"list": [1, 1.5, "None", "x", (True, torch.empty(0))]},
        {"list": [1, [1.5, None, "x", (True, torch.empty(0))]]},
        {"more": 1},
    ],
)
def test_whatever_differs_is_seen(change: dict[str, Any]) -> None:
    assert digest_of(CONTENT | change) != digest_of(CONTENT)


def test_one_bit_of_a_tensor_is_seen() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        x = torch.ones(4, dtype=dtype)
        before = digest_of(x)
        x.view(torch.uint8)[1] ^= 1
        assert digest_of(x) != before
