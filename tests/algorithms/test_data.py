"""What a data set in memory may be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin.algorithms.base import Data
from di4c_plugin.errors import UserError

make_data: Any = Data
X = torch.tensor([[0, 1, 2], [2, 1, 0]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64])
def test_tokens_and_labels_are_whole_numbers_of_any_type(dtype: torch.dtype) -> None:
    data = Data((X % 2).to(dtype), torch.tensor([0, 1], dtype=dtype))
    assert data.x_0.dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_data(X.numpy()),
            r"x_0 of data must be a tensor of whole numbers up to int64, \(M,",
        ),
        (lambda: make_data(X.tolist()), r"x_0 .* \(M, D\), not \[\[0, 1, 2\], \[2, 1, 0\]\]$"),
        (lambda: make_data(X.float()), r"x_0 .* not torch.float32 \(2, 3\)$"),
        (lambda: make_data(X.to(torch.uint64)), "x_0 .* not torch.uint64"),
        (lambda: make_data(X[0]), r"x_0 .* not torch.int64 \(3,\)$"),
        (lambda: make_data(X[0, 0]), r"x_0 .* not torch.int64 \(\)$"),
        (lambda: make_data(X.to("meta")), "x_0 .* not tensor"),
        (lambda: make_data(X.to_sparse()), "x_0 .* not tensor"),
        (lambda: make_data(X, X[0]), r"labels .* \(2,\), not torch.int64 \(3,\)$"),
        (lambda: make_data(X, np.ones(2)), "labels .* not array"),
        (lambda: make_data(X, torch.ones(2)), "labels .* not torch.float32"),
        (lambda: make_data(X, given=X), r"given of data must be a tensor of bools, \(2, 3\), not "),
        (lambda: make_data(X, given=X[:1] > 0), r"given .* \(2, 3\), not torch.bool \(1, 3\)$"),
        (lambda: make_data(X, lengths=X[0, :1]), r"lengths .* \(2,\), not torch.int64 \(1,\)$"),
    ],
)
def test_anything_else_is_told(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        make()
