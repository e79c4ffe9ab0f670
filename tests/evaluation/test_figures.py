import pytest

from di4c_plugin.evaluation.figures import Figure, shown


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12344.6, None, "12345"),
        (9999.7, 150.2, "10000 ±150"),
        (1.23456, 0.0123, "1.235 ±0.012"),
        (999.96, 99.6, "1000 ±100"),
        (1e12, None, "1e+12"),
    ],
)
def test_values_are_read_without_an_exponent(value: float, error: float | None, text: str) -> None:
    assert shown(Figure(value, error)) == text
