import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import fid
from di4c_plugin.evaluation.fid import FID, inception_score, tell_if_few
from di4c_plugin.evaluation.frechet import frechet_distance
from di4c_plugin.evaluation.inception import Inception
from di4c_plugin.evaluation.picture_metric import MetricOptions, Reference
from tests.evaluation import stand_in_fidelity


def pictures(n: int, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    bright = torch.rand(n, channels, 1, 1, generator=generator)
    noise = torch.rand(n, channels, 8, 8, generator=generator)
    return (255 * (0.7 * bright + 0.3 * noise)).to(torch.uint8)


REFERENCE = Reference(
    "pictures of a test", "none", (3, 8, 8), lambda: iter(pictures(50, 1).split(7))
)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MetricOptions:
    stand_in_fidelity.install(monkeypatch)
    return MetricOptions(stand_in_fidelity.weights(tmp_path / "inception.pth"))


def unread() -> Any:
    raise AssertionError("the reference is not to be read")


def test_it_is_the_frechet_distance_of_the_features(options: MetricOptions) -> None:
    assert options.weights is not None
    network, x = Inception(options.weights), pictures(30, 2)
    expected = frechet_distance(network.features(x)[0], network.features(pictures(50, 1))[0])
    values = FID(REFERENCE, options)(x.split(11))
    assert values["fid"] == pytest.approx(expected, rel=1e-9)
    assert values["is"] == pytest.approx(inception_score(network.features(x)[1]), rel=1e-6)
    assert expected > 1e-3


def test_few_pictures_are_said_to_be_few(
    options: MetricOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce_once.cache_clear()
    tell_if_few(2049, 2048)
    assert capsys.readouterr().err == ""
    tell_if_few(2048, 2048)
    line = "di4c: 2048 pictures are few for 2048 features: FID is too large; "
    assert capsys.readouterr().err.startswith(line)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(fid, "tell_if_few", lambda *numbers: asked.append(numbers))
    FID(REFERENCE, options)(pictures(12, 2).split(11))
    assert asked == [(12, 6)]


def test_the_reference_is_at_no_distance_from_itself(options: MetricOptions) -> None:
    assert FID(REFERENCE, options)(REFERENCE.batches())["fid"] == pytest.approx(0, abs=1e-9)


def test_statistics_are_written_once_and_then_read(options: MetricOptions, tmp_path: Path) -> None:
    options = replace(options, statistics=tmp_path / "new" / "reference.npz")
    first = FID(REFERENCE, options)
    again = FID(replace(REFERENCE, batches=unread), options)
    assert again.notes() == first.notes()
    x = pictures(20, 3)
    assert again([x]) == first([x])


def test_the_notes_name_reference_resizing_and_network(options: MetricOptions) -> None:
    assert options.weights is not None
    assert FID(REFERENCE, options).notes() == {
        "reference": "pictures of a test, 50 of them",
        "resizing": "none; then 299x299 (torch-fidelity: bilinear, as in TensorFlow 1)",
        "inception": Inception(options.weights).fingerprint,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"name": "other pictures"},
            "reference is 'pictures of a test' there and 'other pictures'",
        ),
        ({"resizing": "bicubic"}, "resizing is 'none; then 299x299 "),
        ({"size": (1, 8, 8)}, r"size is \[3, 8, 8\] there and \[1, 8, 8\] here"),
    ],
)
def test_statistics_of_another_reference_are_refused(
    changed: dict[str, Any], message: str, options: MetricOptions, tmp_path: Path
) -> None:
    options = replace(options, statistics=tmp_path / "reference.npz")
    FID(REFERENCE, options)
    with pytest.raises(UserError, match=f"holds statistics of other pictures: {message}"):
        FID(replace(REFERENCE, batches=unread, **changed), options)


def test_statistics_by_other_weights_are_refused(options: MetricOptions, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    FID(REFERENCE, replace(options, statistics=path))
    other = stand_in_fidelity.weights(tmp_path / "other.pth", seed=1)
    with pytest.raises(UserError, match=r"holds statistics of other pictures: inception is '"):
        FID(REFERENCE, MetricOptions(other, path))


def test_a_file_that_is_no_npz_is_refused_before_anything_is_read(options: MetricOptions) -> None:
    with pytest.raises(UserError, match=r"must end in \.npz$"):
        FID(replace(REFERENCE, batches=unread), replace(options, statistics=Path("reference.pt")))


def test_grey_references_go_with_grey_samples(options: MetricOptions) -> None:
    grey = replace(REFERENCE, size=(1, 8, 8), batches=lambda: iter([pictures(20, 1, 1)]))
    assert FID(grey, options)([pictures(20, 1, 1)])["fid"] == pytest.approx(0, abs=1e-9)


def test_the_score_of_sure_and_even_classes_is_their_number() -> None:
    logits = torch.eye(5).repeat(200, 1) * 100
    assert inception_score(logits, splits=1) == pytest.approx(5)
    # Splits of 100 shuffled pictures have their classes not quite evenly.
    assert 4.5 < inception_score(logits, splits=10) < 5


def test_the_score_of_one_class_and_of_no_idea_is_one() -> None:
    assert inception_score(torch.tensor([[9.0, 0, 0]]).repeat(20, 1)) == pytest.approx(1)
    assert inception_score(torch.zeros(20, 3)) == pytest.approx(1)


def test_the_score_by_its_definition() -> None:
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(-1)
    mean = p.mean(0)
    kl = sum(
        float(p[i, k]) * math.log(float(p[i, k] / mean[k])) for i in range(40) for k in range(3)
    )
    assert inception_score(logits, splits=1) == pytest.approx(math.exp(kl / 40), rel=1e-12)


def test_too_few_pictures_for_the_score_are_refused(options: MetricOptions) -> None:
    with pytest.raises(UserError, match="^IS takes at least 10 pictures, not 9$"):
        FID(REFERENCE, options)([pictures(9)])
