import pytest

from di4c_plugin.bench import sample
from di4c_plugin.bench.cases import SampleCase
from di4c_plugin.bench.sample import WARM_UP, measure_sample, spread

SMALL = SampleCase(vocab=11, positions=6, hidden=16, layers=2, heads=2, batch=2, repeats=4)


def test_the_ratio_is_the_median_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def call_of(name: str, cost: list[float]) -> object:
        def call() -> float:
            calls.append(name)
            return cost.pop(0)

        return call

    warm = [0.0] * WARM_UP
    made = {
        "teacher": call_of("teacher", [*warm, 1, 2, 4, 1]),
        "student": call_of("student", [*warm, 1.1, 2, 6, 1.3]),
    }
    monkeypatch.setattr(sample, "make_calls", lambda case: made)
    monkeypatch.setattr(sample, "seconds", lambda call, device: call())
    found = measure_sample(SMALL)
    assert found["ratio"] == pytest.approx(1.2)
    assert found["ratio_spread"] == pytest.approx((1.35 - 1.075) / 2)
    assert found["teacher_seconds"] == 1.5
    assert found["student_seconds"] == 1.65
    pairs = calls[2 * WARM_UP :]
    # Each pair has both, and both orders occur.
    orders = {tuple(pairs[i : i + 2]) for i in range(0, 8, 2)}
    assert orders == {("teacher", "student"), ("student", "teacher")}


@pytest.mark.parametrize("latent", ["adaln", "token", "mask_noise"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_networks_are_timed(latent: str, dtype: str) -> None:
    case = SampleCase(**{**vars(SMALL), "latent": latent, "dtype": dtype})
    found = measure_sample(case)
    assert all(value > 0 for value in found.values())


def test_a_single_pair_has_no_spread() -> None:
    assert spread([1.0]) is None
    assert spread([1.0, 2.0, 3.0]) == 0.5
