import itertools
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.gradient_moment import GradientMoment, halves
from di4c_plugin.evaluation.scorer import Scorer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts


@pytest.fixture(scope="module")
def scorer(lm: Path) -> Scorer:
    return Scorer(str(lm))


def population(n: int, seed: int, high: int = 10, length: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (n, length), generator=generator)


def moment(scorer: Scorer, gen: Tensor, data: Tensor) -> Figure:
    metric = GradientMoment(Texts(list(data), 10), TextOptions(scorer))
    return metric(Texts(list(gen), 10))["gradient_moment"]


def gradients(lm: Path, rows: Tensor) -> Tensor:
    """The gradient of transformers' own loss, flat, for each sequence, (n, P), float64."""
    model = import_module("transformers").AutoModelForCausalLM.from_pretrained(lm).eval()
    found = []
    for row in rows:
        model.zero_grad()
        model(input_ids=row[None], labels=row[None]).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    return torch.stack(found)


def test_it_is_the_product_of_the_halves_differences(scorer: Scorer, lm: Path) -> None:
    gen, data = population(6, 0), population(8, 1, high=4)
    g, q = gradients(lm, gen), gradients(lm, data[[0, 1, 2, 4, 5, 6]])
    expected = (g[::2].mean(0) - q[::2].mean(0)) @ (g[1::2].mean(0) - q[1::2].mean(0))
    assert moment(scorer, gen, data).value == pytest.approx(float(expected), rel=1e-4)


def test_it_is_unbiased(scorer: Scorer, lm: Path) -> None:
    """Over all ways to draw its halves from populations of two, the mean is the true value."""
    gen, data = population(2, 2), population(2, 3, high=4)
    true = (gradients(lm, gen).mean(0) - gradients(lm, data).mean(0)).square().sum()
    choices = [*itertools.product((0, 1), repeat=2)]
    total = 0.0
    for a, b in itertools.product(choices, repeat=2):
        # Each half twice the same sequence: its mean is that sequence's gradient.
        picked = [gen[[a[0], a[1], a[0], a[1]]], data[[b[0], b[1], b[0], b[1]]]]
        total += moment(scorer, *picked).value
    assert total / 16 == pytest.approx(float(true), rel=1e-4)


def test_real_against_real_is_zero_and_other_text_is_not(scorer: Scorer) -> None:
    real = moment(scorer, population(60, 4, high=4), population(60, 5, high=4))
    assert real.error is not None
    assert abs(real.value) < 2 * real.error
    other = moment(scorer, population(60, 4, high=10), population(60, 5, high=4))
    assert other.error is not None
    assert other.value > 4 * other.error


@pytest.mark.slow
@pytest.mark.parametrize(("high", "least", "most"), [(4, 0.8, 2.0), (10, 0.7, 1.6)])
def test_the_standard_error_is_that_of_repetition(
    scorer: Scorer, high: int, least: float, most: float
) -> None:
    """Never too small, but for the noise of repetitions, and at most root two too large."""
    found = [
        moment(scorer, population(12, 100 + k, high=high), population(12, 200 + k, high=4))
        for k in range(24)
    ]
    scatter = float(torch.tensor([f.value for f in found]).std())
    claimed = float(torch.tensor([f.error for f in found]).square().mean().sqrt())
    assert least < claimed / scatter < most


def test_the_weights_stay_as_they_are(scorer: Scorer) -> None:
    before = {k: v.clone() for k, v in scorer.network.state_dict().items()}
    moment(scorer, population(4, 6), population(4, 7))
    assert all(torch.equal(v, before[k]) for k, v in scorer.network.state_dict().items())
    assert not any(p.requires_grad for p in scorer.network.parameters())


def test_too_few_sequences_and_no_reference_are_refused(scorer: Scorer) -> None:
    with pytest.raises(UserError, match="takes at least 4 sequences of two tokens, not 3 of the s"):
        moment(scorer, population(3, 0), population(8, 1))
    with pytest.raises(UserError, match="gradient_moment compares with real text: --reference"):
        GradientMoment(None, TextOptions(scorer))
    short = Texts([*population(3, 0), torch.tensor([1])], 10)
    with pytest.raises(UserError, match="not 3 of the reference"):
        halves(scorer, short, "the reference")
