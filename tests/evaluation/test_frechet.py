import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.frechet import frechet_distance, symmetric_sqrt


def tokens(n: int, seed: int, width: int = 6) -> Tensor:
    """Correlated integers (n, width)."""
    generator = torch.Generator().manual_seed(seed)
    mix, noise = (torch.randn(rows, width, generator=generator) for rows in (width, n))
    return (3 * noise @ mix).round().long()


def corners(centre: tuple[int, ...], sides: tuple[int, ...]) -> Tensor:
    """All sign choices of centre +- sides: uncorrelated, with known mean and variances."""
    signs = torch.cartesian_prod(*[torch.tensor([-1, 1])] * len(sides))
    return torch.tensor(centre) + signs * torch.tensor(sides)


def test_it_is_the_formula_with_scipys_root() -> None:
    x, reference = tokens(60, 0), tokens(80, 1)
    c_1, c_2 = np.cov(x.T.numpy()), np.cov(reference.T.numpy())
    shift = (x.double().mean(0) - reference.double().mean(0)).square().sum().item()
    expected = shift + np.trace(c_1 + c_2 - 2 * sqrtm(c_1 @ c_2).real)
    assert frechet_distance(x, reference) == pytest.approx(expected, rel=1e-9)


def test_independent_positions_have_a_closed_form() -> None:
    sides, others, shift = (1, 2, 5), (3, 2, 1), (4, 0, -1)
    unbiased = 8 / 7  # of 8 corners each
    roots = sum((a - b) ** 2 for a, b in zip(sides, others, strict=True)) * unbiased
    expected = sum(d**2 for d in shift) + roots
    distance = frechet_distance(corners((0, 0, 0), sides), corners(shift, others))
    assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [3, 60])
def test_a_set_is_at_no_distance_from_itself_in_any_order(n: int) -> None:
    x = tokens(n, 0)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-5)


def test_it_is_symmetric() -> None:
    # Fewer samples than positions have a singular covariance.
    x, reference = tokens(4, 0), tokens(80, 1)
    assert frechet_distance(x, reference) == pytest.approx(frechet_distance(reference, x))


def test_a_position_that_never_changes_counts_only_by_its_mean() -> None:
    x = torch.nn.functional.pad(tokens(60, 0), (0, 1), value=2)
    y = torch.nn.functional.pad(tokens(60, 0), (0, 1), value=5)
    assert frechet_distance(x, y) == pytest.approx(9)


def test_the_root_squares_to_the_matrix() -> None:
    matrix = torch.cov(tokens(60, 0).T.double())
    root = symmetric_sqrt(matrix)
    torch.testing.assert_close(root @ root, matrix)


@pytest.mark.parametrize(("n", "width"), [(1, 6), (60, 5)])
def test_sets_that_cannot_be_compared_are_refused(n: int, width: int) -> None:
    with pytest.raises(UserError, match=rf"not \({n}, {width}\) and \(60, 6\)$"):
        frechet_distance(tokens(n, 0, width), tokens(60, 1))


def test_of_few_samples_the_error_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    announce_once.cache_clear()
    generator = torch.Generator().manual_seed(0)
    reference = torch.randint(17, (400, 12), generator=generator)
    many, few = (torch.randint(17, (n, 12), generator=generator) for n in (13, 2))
    frechet_distance(many, reference)
    assert capsys.readouterr().err == ""
    value = frechet_distance(few, reference)
    line = capsys.readouterr().err
    assert line.startswith("di4c: 2 samples are few for 12 positions: as many of the reference")
    said = float(line.split("distance of ")[1].split()[0])
    # The same law: by its own error a distance of 2 samples is of this size, not near 0.
    assert 0.3 < value / said < 3
    assert said > 10 * frechet_distance(reference[:200], reference[200:])
