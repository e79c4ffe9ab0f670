"""Values of every kind, as Python and as a command line have them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError

NUMBERS: list[Any] = [
    *(0, 1, 2, 3, -1, -7, True, False, 2**31, 2**63, -(2**70), 10**400),
    *(0.0, 0.1, 0.5, 1.0, 1.5, 2.0, -0.5, 1e-320, 1e308, math.nan, math.inf, -math.inf),
]
TEXTS = [
    *("", "abc", "linear", "null", "none", "1", "0.5", "fresh", "fixed", "di4c", "argmax", "cpu"),
    *("\x1b[31m", "é", "a\nb", "a\0b", "x" * 300, "../x", "~nobody/x", "epoch=3.ckpt", "λ" * 200),
]
OBJECTS: list[Any] = [
    *(
        None,
        [],
        {},
        (),
        [1],
        [1, 2],
        (0.1, 0.2),
        [[]],
        {"name": 1},
        {"name": {}},
        {1: 2},
        {"a": []},
    ),
    *(b"x", object(), len, int, Path("x"), 1j, {1, 2}, range(3), Absorbing(3), UserError("x")),
    *(torch.zeros(2), torch.tensor(1), torch.ones(2, dtype=torch.long), np.int64(2), np.float32(1)),
    *(np.zeros(2), torch.device("cpu"), torch.Generator(), slice(2), ..., NotImplemented),
]
values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(OBJECTS),
    st.integers(-3, 3),
    st.floats(-2, 2),
    st.text(max_size=5),
    st.lists(st.sampled_from(NUMBERS), max_size=3),
    st.dictionaries(
        st.sampled_from(["name", "dim", "x", ""]), st.sampled_from(NUMBERS), max_size=2
    ),
)
typed = st.one_of(
    st.sampled_from([str(n) for n in NUMBERS[:-13]] + ["1e3", "1_000", "nan", ".inf", "2.0", "-0"]),
    st.sampled_from([text for text in TEXTS if "\0" not in text]),
    st.sampled_from(
        [
            *(
                "{}",
                "[]",
                "[1]",
                "[1,2]",
                "[a,b]",
                "{a:1}",
                "{name:x}",
                "[[]]",
                "null",
                "true",
                "no",
            ),
            *(
                "'x'",
                '"1"',
                "a,b",
                "choice(1,2)",
                "range(3)",
                "${x}",
                "${oc.env:NO}",
                "???",
                "[",
                "}",
            ),
            *(
                "a=b",
                "$",
                "'",
                "\\",
                "a b",
                " ",
                "@x",
                "a(1).pth",
                "glob(*)",
                "int(1)",
                "[0.1,0.2]",
            ),
        ]
    ),
    st.integers(-3, 3).map(str),
    st.floats(-2, 2).map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
)
