import pytest
import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import Entry, LatentInjector

B, N = 2, 3


class Spy(LatentInjector):
    """Writes down which door is called, and with how many rows; shifts by the code."""

    latent_shape = (1,)

    def __init__(self, blocks: int | None = None) -> None:
        super().__init__()
        self.blocks = blocks
        self.calls: list[tuple[str, int]] = []

    def on_embedding(self, e: Tensor, code: Tensor, active: Tensor) -> Tensor:
        assert code.dtype == e.dtype
        assert active.shape == e.shape[:2]
        self.calls.append(("embedding", len(e)))
        return e + code.unsqueeze(1)

    def on_sequence(self, h: Tensor, code: Tensor) -> Tensor:
        self.calls.append(("sequence", len(h)))
        return h

    def on_norm(self, h: Tensor, code: Tensor, layer: int) -> Tensor:
        self.calls.append((f"norm {layer}", len(h)))
        return h


def passed(spy: Spy, *, num_blocks: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a network does; the residual stream starts as the number of the example."""
    entry = Entry(spy, torch.arange(N * B).view(N * B, 1) * 10.0, B, num_blocks)
    active = torch.ones(B, 4, dtype=torch.bool)
    h = entry.at_embedding(torch.arange(B).view(B, 1, 1).expand(B, 4, 5).to(dtype), active)
    for i in range(num_blocks):
        h = entry.at_block(i, h, active)
        h = entry.at_norm(entry.at_norm(h, 2 * i), 2 * i + 1)
    return entry.at_output(entry.at_norm(h, 2 * num_blocks))


def test_without_blocks_the_latent_enters_at_the_embedding() -> None:
    spy = Spy()
    passed(spy)
    doors = ["embedding", "sequence", *(f"norm {i}" for i in range(7))]
    assert spy.calls[1:] == [(door, N * B) for door in doors[1:]]
    assert spy.calls[0] == ("embedding", N * B)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_late_latent_sees_the_last_blocks_as_if_they_were_all(blocks: int) -> None:
    spy = Spy(blocks)
    passed(spy)
    doors = ["embedding", "sequence", *(f"norm {i}" for i in range(2 * blocks + 1))]
    assert spy.calls == [(door, N * B) for door in doors]


@pytest.mark.parametrize("blocks", [None, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_lambda_major(blocks: int | None, dtype: torch.dtype) -> None:
    """Row n B + b is example b with lambda n: 10 (n B + b) is added to b."""
    h = passed(Spy(blocks), dtype=dtype)
    assert h.dtype == dtype
    assert h[:, 0, 0].tolist() == [10.0 * row + row % B for row in range(N * B)]


def test_only_what_has_a_row_for_each_example_is_widened() -> None:
    entry = Entry(Spy(), torch.rand(N * B, 1), B, 3)
    x, wide = torch.rand(B, 4), torch.rand(N * B, 4)
    assert torch.equal(entry.widen(x), torch.cat([x] * N))
    assert entry.widen(wide) is wide
    assert entry.widen(torch.tensor(1.0)).ndim == 0
    alone = Entry(Spy(), torch.rand(B, 1), B, 3)
    assert alone.widen(x) is x


def test_uneven_numbers_of_latents_are_refused() -> None:
    with pytest.raises(UserError, match="3 latents for 2 examples"):
        Entry(Spy(), torch.rand(3, 1), 2, 3)


def test_no_example_is_no_mistake() -> None:
    entry = Entry(Spy(), torch.rand(0, 1), 0, 3)
    assert entry.at_embedding(torch.rand(0, 4, 5), torch.ones(0, 4).bool()).shape == (0, 4, 5)
