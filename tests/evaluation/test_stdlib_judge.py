"""Metrics with a judge that was trained, on real text: the standard library's sources."""

import pytest
import torch
from torch import Tensor

from di4c_plugin.evaluation.entropy import entropies
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.gen_ppl import GenPPL
from di4c_plugin.evaluation.gradient_moment import GradientMoment
from di4c_plugin.evaluation.scorer import Scorer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts
from tests.stand_ins import stdlib_text
from tests.stand_ins.stdlib_judge import train_judge

pytestmark = pytest.mark.slow
ROWS = 400


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Tensor]:
    """A GPT-2 of two layers, trained for seconds, and blocks of other files."""
    folder = tmp_path_factory.mktemp("judge")
    stdlib_text.write_text(folder, train=200_000, validation=1_000, held_out=100_000)
    train_judge(folder, folder / "judge", 250, layers=2, width=32)
    x = torch.from_numpy(stdlib_text.blocks((folder / "held_out.txt").read_text("ascii")))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return Scorer(str(folder / "judge")), x[order]


def texts(x: Tensor) -> Texts:
    return Texts(list(x), len(stdlib_text.TOKENS))


def shuffled(x: Tensor) -> Tensor:
    """The same characters, in any order within their block."""
    order = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    return x.gather(1, order)


def moment(scorer: Scorer, x: Tensor, data: Tensor) -> Figure:
    return GradientMoment(texts(data), TextOptions(scorer))(texts(x))["gradient_moment"]


def test_real_text_has_the_gradient_of_real_text(judged: tuple[Scorer, Tensor]) -> None:
    scorer, x = judged
    real = moment(scorer, x[:ROWS], x[ROWS : 2 * ROWS])
    assert real.error is not None
    assert abs(real.value) < 2 * real.error
    other = moment(scorer, shuffled(x[:ROWS]), x[ROWS : 2 * ROWS])
    assert other.error is not None
    assert other.value > 10 * other.error
    assert other.value > 10 * abs(real.value)


def test_shuffled_text_has_the_entropy_of_real_text_and_a_higher_perplexity(
    judged: tuple[Scorer, Tensor],
) -> None:
    scorer, x = judged
    metric = GenPPL(None, TextOptions(scorer))
    real, other = (texts(rows) for rows in (x[:ROWS], shuffled(x[:ROWS])))
    assert metric(other)["gen_ppl"].value > 2 * metric(real)["gen_ppl"].value
    assert entropies(other).allclose(entropies(real))
