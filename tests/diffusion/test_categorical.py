import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import LOG_ZERO, categorical, sample_categorical
from tests.enumeration import assert_drawn_from


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw_at(u: float, log_p: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """The draw that falls on u in [0, 1)."""
    monkeypatch.setattr(
        categorical, "uniform", lambda shape, **_: torch.full(shape, u, dtype=torch.float64)
    )
    return int(sample_categorical(log_p, generator=torch.Generator()))


def test_frequencies(generator: torch.Generator) -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05], dtype=torch.float64)
    x = sample_categorical(p.log().expand(50_000, -1), generator=generator)
    assert_drawn_from(x, p)


def test_weights_need_not_be_normalised(generator: torch.Generator) -> None:
    p = torch.tensor([0.2, 0.8], dtype=torch.float64)
    x = sample_categorical((p.log() + 7).expand(20_000, -1), generator=generator)
    assert_drawn_from(x, p)


def test_each_row_has_its_own_law(generator: torch.Generator) -> None:
    log_p = torch.full((2, 3, 4), LOG_ZERO)
    x = torch.tensor([[0, 1, 2], [3, 2, 1]])
    assert torch.equal(
        sample_categorical(log_p.scatter(-1, x[..., None], 0), generator=generator), x
    )


@pytest.mark.parametrize(("u", "drawn"), [(1 - 1.5e-12, 0), (1 - 5e-13, 1), (1 - 2**-53, 1)])
def test_a_tail_of_1e_12_has_its_share(
    u: float, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_p = torch.tensor([1 - 1e-12, 1e-12], dtype=torch.float64).log()
    assert draw_at(u, log_p, monkeypatch) == drawn


def test_tails_of_float32_weights_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # A cumulative sum in float32 would be 1 from the first entry on.
    log_p = torch.tensor([1.0, *[1e-9] * 10]).log()
    drawn = [draw_at(1 - (k - 0.5) * 1e-9, log_p, monkeypatch) for k in range(1, 12)]
    assert drawn == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("zero", [LOG_ZERO, -torch.inf])
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_what_is_impossible_is_never_drawn(
    u: float, zero: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_p = torch.tensor([zero, -0.3, zero, zero, -1.7, zero])
    assert draw_at(u, log_p, monkeypatch) in (1, 4)


def test_equal_generators_draw_alike(generator: torch.Generator) -> None:
    log_p = torch.randn(100, 7, generator=generator)
    one, two = (sample_categorical(log_p, generator=generator.manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
