"""The reward of RS-MMD against a double loop, its estimators by enumeration of all fill-ins."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.losses.representation import (
    candidates,
    credited,
    median_alpha,
    own_terms,
    reward,
    similarities,
)
from tests.enumeration import states

ALPHA, REPULSION = 0.3, 0.8
SELECTED = torch.tensor(
    [[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool
)


def some(m: int, b: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(b, d, 3, generator=random, dtype=torch.float64),
        torch.randn(m, b, d, 3, generator=random, dtype=torch.float64),
    )


def k(a: Tensor, b: Tensor) -> float:
    return math.exp(-ALPHA * float((a - b).square().sum()))


def double_loop(real: Tensor, fakes: Tensor, at: list[int]) -> float:
    """The reward of one sequence, real (D, H), fakes (M, D, H)."""
    m, count = len(at), len(fakes)
    if m < 2:
        return 0.0
    near = sum(k(real[i], z[j]) for z in fakes for i in at for j in at)
    apart = sum(
        k(fakes[b][i], fakes[c][j])
        for b, c in itertools.permutations(range(count), 2)
        for i in at
        for j in at
        if i != j
    )
    return 2 * near / (count * m**2) - REPULSION * apart / (count * (count - 1) * m * (m - 1))


@pytest.mark.parametrize("max_bytes", [1, 2000, 1 << 30])
def test_the_reward_is_the_double_loop(max_bytes: int) -> None:
    real, fakes = some(3, 4, 5)
    found = similarities(real, fakes, SELECTED, ALPHA, max_bytes)
    r = reward(found, REPULSION)
    for n in range(4):
        at = SELECTED[n].nonzero().flatten().tolist()
        assert r[n].item() == pytest.approx(double_loop(real[n], fakes[:, n], at), abs=1e-12)
    assert not r[2:].any(), "rows of fewer than two positions"
    assert not found.a[:, ~SELECTED].any()
    assert not found.c[:, :, ~SELECTED].any()


def test_the_reward_in_fp32_far_from_the_origin() -> None:
    real, fakes = some(3, 1, 40)
    selected = torch.ones(1, 40, dtype=torch.bool)
    exact = reward(similarities(real, fakes, selected, ALPHA, 1 << 20), REPULSION)
    far = [(x + 100).float() for x in (real, fakes)]
    found = reward(similarities(far[0], far[1], selected, ALPHA, 1 << 20), REPULSION)
    assert found.item() == pytest.approx(exact.item(), rel=1e-3)


# ---- estimators

LENGTH = 2
SPACE = states(2, LENGTH)


def features_by_sequence() -> Tensor:
    """Random features of every sequence of two bits, (4, 2, 3)."""
    random = torch.Generator().manual_seed(4)
    return torch.randn(len(SPACE), LENGTH, 3, generator=random, dtype=torch.float64)


def features_by_token() -> Tensor:
    """Features that depend on their own token alone."""
    random = torch.Generator().manual_seed(5)
    table = torch.randn(2, 3, generator=random, dtype=torch.float64)
    return table[SPACE]


def estimates(name: str, table: Tensor, count: int, radius: int | None) -> tuple[Tensor, ...]:
    """The gradient of E[r] in the logits; mean and variance of its estimate; by all fill-ins."""
    logits = torch.tensor([[0.3, -0.2], [0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1)
    every = list(itertools.product(range(len(SPACE)), repeat=count))
    of_token = torch.stack([log_p[range(LENGTH), x] for x in SPACE])  # (4, D)
    real = table[1:2]  # the real sequence is one of them
    fakes = torch.stack([table[list(which)] for which in every], 1)  # (M, combinations, D, H)
    selected = torch.ones(len(every), LENGTH, dtype=torch.bool)
    found = similarities(real.expand(len(every), -1, -1), fakes, selected, ALPHA, 1 << 30)
    index = torch.tensor(every)
    chance = of_token.sum(-1)[index].sum(-1).exp()
    (wanted,) = torch.autograd.grad((chance * reward(found, REPULSION)).sum(), logits)
    logits = logits.detach().requires_grad_()
    of_token = torch.stack([logits.log_softmax(-1)[range(LENGTH), x] for x in SPACE])
    values = (
        own_terms(found, REPULSION)
        if name == "all_pairs"
        else candidates(found, REPULSION, count // 2)
    )
    credit = credited(values, radius).transpose(0, 1)  # (combinations, M, D)
    surrogate = (credit * of_token[index]).sum((1, 2)) / count
    gradients = torch.stack(
        [torch.autograd.grad(s, logits, retain_graph=True)[0] for s in surrogate]
    )
    law = chance.detach()[:, None, None]
    mean = (law * gradients).sum(0)
    return wanted, mean, (law * (gradients - mean).square()).sum()


@pytest.mark.parametrize(
    ("name", "count", "radius"),
    [
        ("all_pairs", 3, None),
        ("all_pairs", 4, None),
        ("candidates", 4, None),
        ("all_pairs", 3, 1),  # of two tokens that is all
    ],
)
def test_the_estimate_is_unbiased_by_enumeration(name: str, count: int, radius: int | None) -> None:
    wanted, mean, _ = estimates(name, features_by_sequence(), count, radius)
    torch.testing.assert_close(mean, wanted)
    assert wanted.abs().max() > 0.01


def test_local_credit_is_unbiased_where_features_are_local_and_else_not() -> None:
    wanted, mean, spread = estimates("all_pairs", features_by_token(), 3, 0)
    torch.testing.assert_close(mean, wanted)
    assert spread < estimates("all_pairs", features_by_token(), 3, None)[2]
    wanted, mean, _ = estimates("all_pairs", features_by_sequence(), 3, 0)
    assert (mean - wanted).abs().max() > 0.01


def test_all_pairs_vary_less() -> None:
    for table in (features_by_sequence(), features_by_token()):
        all_pairs = estimates("all_pairs", table, 4, None)[2]
        assert all_pairs < 0.7 * estimates("candidates", table, 4, None)[2]


def test_the_credit_of_a_token_is_of_its_neighbours() -> None:
    values = torch.arange(1.0, 6.0).expand(1, 1, 5)
    assert credited(values, None).flatten().tolist() == [15.0] * 5
    assert credited(values, 1).flatten().tolist() == [3.0, 6.0, 9.0, 12.0, 9.0]
    assert torch.equal(credited(values, 0), values)
    assert torch.equal(credited(values, 9), credited(values, None))


def test_the_width_of_the_kernel_is_the_median_distance() -> None:
    real, _ = some(1, 4, 5)
    tokens = real[SELECTED]
    pairs = [float((a - b).square().sum()) for a, b in itertools.combinations(tokens.unbind(), 2)]
    assert 1 / median_alpha(real, SELECTED).item() == pytest.approx(
        torch.tensor(pairs, dtype=torch.float64).median().item()
    )
    assert median_alpha(real, SELECTED & False).item() == 1
    assert median_alpha(torch.zeros(1, 5, 3), SELECTED[:1]).isfinite()


def test_mistakes() -> None:
    real, fakes = some(2, 4, 5)
    with pytest.raises(UserError, match="^the all-pairs estimator needs 3 fill-ins"):
        own_terms(similarities(real, fakes, SELECTED, ALPHA, 1 << 20), 1.0)
