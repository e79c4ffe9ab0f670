import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.moments import Moments


@pytest.mark.parametrize("cuts", [[40], [1, 39], [7, 13, 20], [39, 1]])
def test_batches_of_any_size_give_mean_and_covariance_of_all(cuts: list[int]) -> None:
    # Far from zero: a sum of squares would lose all digits of the spread in float32.
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) + 1e4
    moments = Moments()
    for part in x.split(cuts):
        moments.add(part)
    mean, covariance = moments.result()
    assert moments.count == 40
    torch.testing.assert_close(mean, x.double().mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(covariance, torch.cov(x.double().T), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_one_picture_has_no_covariance(count: int) -> None:
    moments = Moments()
    if count:
        moments.add(torch.ones(1, 3))
    with pytest.raises(UserError, match=f"^a covariance takes at least 2 pictures, not {count}$"):
        moments.result()
