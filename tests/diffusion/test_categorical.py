import bisect
import itertools

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import LOG_ZERO, categorical, sample_categorical
from di4c_plugin.diffusion.categorical import BLOCK, host_uniform, inverse_cdf, uniform
from tests.enumeration import assert_drawn_from

CPU = torch.device("cpu")


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


# Small vocabularies by one sum, larger ones block by block; both exact.

SIZES = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK + 7]
ENDS = [0.0, 2**-60, 0.5, 1 - 2**-52, 1 - 2**-53]


def by_bisection(p: Tensor, u: float) -> int:
    """The first index whose cumulative probability is above u, by Python's own floats."""
    cdf = list(itertools.accumulate(p.double().tolist()))
    return bisect.bisect_right(cdf, u * cdf[-1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_index_is_where_the_cumulative_sum_passes_u(
    size: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    log_p = (3 * torch.randn(20, size, generator=generator)).log_softmax(-1).to(dtype)
    u = torch.rand(20, generator=generator, dtype=torch.float64)
    want = [by_bisection(row.exp(), v) for row, v in zip(log_p, u.tolist(), strict=True)]
    assert inverse_cdf(log_p, u).tolist() == want


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("zero", [LOG_ZERO, -torch.inf])
def test_the_ends_of_the_unit_interval(size: int, zero: float) -> None:
    """Only one token is possible, wherever it stands: first, last, or at the edge of a block."""
    places = sorted({0, size // 2, size - 1, min(BLOCK, size) - 1, min(BLOCK, size - 1)})
    for place in places:
        log_p = torch.full((size,), zero)
        log_p[place] = -3.0
        for u in ENDS:
            assert inverse_cdf(log_p, torch.tensor(u, dtype=torch.float64)) == place


@pytest.mark.parametrize("u", ENDS)
def test_nothing_impossible_is_drawn_from_a_large_vocabulary(u: float) -> None:
    """Whole blocks are impossible, before, between and behind those that are not."""
    possible = torch.zeros(7 * BLOCK, dtype=torch.bool)
    for first, last in ((BLOCK + 5, BLOCK + 9), (4 * BLOCK - 1, 4 * BLOCK + 1)):
        possible[first:last] = True
    log_p = torch.randn(50, 7 * BLOCK, generator=torch.Generator().manual_seed(2))
    drawn = inverse_cdf(log_p.where(possible, LOG_ZERO), torch.full((50,), u, dtype=torch.float64))
    assert possible[drawn].all()


def test_frequencies_in_a_large_vocabulary(generator: torch.Generator) -> None:
    law = torch.zeros(3 * BLOCK, dtype=torch.float64)
    law[[0, 7, BLOCK - 1, BLOCK, 2 * BLOCK + 500, 3 * BLOCK - 1]] = torch.tensor(
        [0.1, 0.2, 0.05, 0.3, 0.25, 0.1], dtype=torch.float64
    )
    x = inverse_cdf(law.log()[None], uniform((20_000, 1), generator=generator, device=CPU))
    assert_drawn_from(x, law)


def test_tails_in_a_large_vocabulary_are_not_lost() -> None:
    """float32 sums would give the last 5000 tokens, 1e-10 each, nothing."""
    p = torch.full((1 + 5000,), 1e-10)
    p[0] = 1.0
    total = p.double().sum().item()
    for k in (1, 2, 1500, 4999, 5000):
        u = torch.tensor((1 + (k - 0.5) * 1e-10) / total, dtype=torch.float64)
        assert inverse_cdf(p.log(), u) == k


@pytest.mark.parametrize("size", [5, BLOCK + 5])
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4, 3, 2), (4, 1, 1), (1, 3)])
def test_one_law_serves_every_draw_of_it(
    size: int, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    log_p = torch.randn(1, *shape[1:], size, generator=generator)
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    want = inverse_cdf(log_p.repeat(shape[0], *[1] * len(shape)), u)
    found = inverse_cdf(log_p, u)
    assert found.shape == shape
    assert found.dtype == torch.int64
    assert torch.equal(found, want)


@pytest.mark.parametrize("size", [5, BLOCK + 5])
def test_no_draws_of_no_laws(size: int) -> None:
    u = torch.empty(3, 0, dtype=torch.float64)
    assert inverse_cdf(torch.empty(3, 0, size), u).shape == (3, 0)
    assert inverse_cdf(torch.empty(1, 0, size), u).shape == (3, 0)


def test_what_is_drawn_from_is_left_as_it_was(generator: torch.Generator) -> None:
    for size in (5, BLOCK + 5):
        log_p = torch.randn(4, size, generator=generator, requires_grad=True)
        kept = log_p.detach().clone()
        x = inverse_cdf(log_p, torch.rand(4, generator=generator, dtype=torch.float64))
        assert torch.equal(log_p, kept)
        assert not x.requires_grad


# Decisions of the host


def test_on_a_cpu_the_host_draws_from_the_generator(generator: torch.Generator) -> None:
    other = torch.Generator().manual_seed(0)
    drawn = [host_uniform(generator) for _ in range(3)]
    assert drawn == [uniform((), generator=other, device=CPU).item() for _ in range(3)]
    assert torch.equal(torch.rand(2, generator=generator), torch.rand(2, generator=other))


def assert_host_draws(device: str) -> None:
    def draws(seed: int, count: int) -> list[float]:
        generator = torch.Generator(device).manual_seed(seed)
        return [host_uniform(generator) for _ in range(count)]

    many = draws(0, 2000)
    assert len(set(many)) == 2000
    assert draws(0, 3) == many[:3]
    assert draws(1, 3) != many[:3]
    cells = (torch.tensor(many) * 20).long()
    assert_drawn_from(cells, torch.full((20,), 0.05, dtype=torch.float64))


def test_a_hosts_draws_are_uniform_and_reproducible() -> None:
    assert_host_draws("cpu")


@pytest.mark.gpu
def test_a_hosts_draws_do_not_wait_for_the_gpu() -> None:
    torch.rand(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert_host_draws("cuda")
        generator = torch.Generator("cuda").manual_seed(0)
        first = host_uniform(generator)
        torch.rand(3, generator=generator, device="cuda")
        assert host_uniform(generator) != first
    finally:
        torch.cuda.set_sync_debug_mode("default")
