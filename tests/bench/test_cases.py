from dataclasses import asdict

import pytest

from di4c_plugin.bench.cases import CASES, LossCase, SampleCase, StepCase, expand, kind_of, swept
from di4c_plugin.errors import UserError


def test_lists_make_all_combinations_with_the_naive_twin_first_of_its_sizes() -> None:
    options = {"impl": ["chunked", "naive"], "latents": [1, 2], "positions": [4], "seed": 3}
    cases = expand("loss", options)
    assert [(c.latents, c.impl) for c in cases if isinstance(c, LossCase)] == [
        *((1, "naive"), (1, "chunked")),
        *((2, "naive"), (2, "chunked")),
    ]
    assert {(case.positions, case.seed, case.vocab) for case in cases} == {(4, 3, 50258)}
    assert set(swept(cases)) == {"latents", "impl"}


def test_text_is_one_value_and_nothing_swept_is_one_case() -> None:
    (case,) = expand("step", {"latent": "token", "device": "cpu"})
    assert case == StepCase(latent="token")
    assert swept([case]) == []


@pytest.mark.parametrize("kind", CASES)
def test_a_case_survives_a_journey_as_plain_values(kind: str) -> None:
    case = CASES[kind](vocab=7)
    assert kind_of(case) == kind
    assert CASES[kind](**asdict(case)) == case


@pytest.mark.parametrize(
    ("positions", "masked", "active"), [(8, 0.5, 4), (8, 1.0, 8), (1, 0.01, 1), (3, 0.5, 2)]
)
def test_at_least_one_position_is_active(positions: int, masked: float, active: int) -> None:
    assert LossCase(positions=positions, masked=masked).active == active


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("loss", {"vocab": 1}, "vocab must be at least 2, not 1"),
        ("loss", {"latents": [4, 0]}, "latents must be at least 1, not 0"),
        ("step", {"blocks": [None, 0]}, "blocks must be at least 1, not 0"),
        ("sample", {"repeats": 0}, "repeats must be at least 1, not 0"),
        ("sample", {"seed": -1}, "seed must be at least 0, not -1"),
        ("loss", {"masked": 0.0}, r"masked must be in \(0, 1\], not 0.0"),
        ("loss", {"masked": 1.5}, r"masked must be in \(0, 1\], not 1.5"),
    ],
)
def test_values_out_of_range_are_refused(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        expand(kind, options)


def test_pairs_are_repeated_more_often_than_updates() -> None:
    assert SampleCase().repeats > StepCase().repeats
