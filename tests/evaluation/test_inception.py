import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import inception
from di4c_plugin.evaluation.inception import MODULE, Inception
from tests.evaluation import stand_in_fidelity


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in_fidelity.install(monkeypatch)
    return stand_in_fidelity.weights(tmp_path / "inception.pth")


def pictures(n: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, 8, 8), generator=generator, dtype=torch.uint8)


def test_features_do_not_depend_on_the_batches(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = Inception(weights), pictures(10)
    whole = network.features(x)
    assert [tuple(part.shape) for part in whole] == [(10, 6), (10, 5)]
    monkeypatch.setattr(inception, "BATCH", 3)
    for a, b in zip(network.features(x), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_grey_pictures_count_as_colour_with_equal_channels(weights: Path) -> None:
    network, x = Inception(weights), pictures(4, channels=1)
    for a, b in zip(network.features(x), network.features(x.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(a, b)


def test_the_fingerprint_is_that_of_the_file(weights: Path) -> None:
    assert Inception(weights).fingerprint == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_without_a_path_the_weights_are_those_that_the_library_keeps(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(UserError) as caught:
        Inception()
    kept = tmp_path / "hub" / "checkpoints" / "weights-stand-in-0123.pth"
    assert str(caught.value) == (
        f"the weights of Inception are missing: there is no {kept}; they are at "
        f"{stand_in_fidelity.URL} (--inception names the file)"
    )
    kept.parent.mkdir(parents=True)
    weights.rename(kept)
    assert Inception().features(pictures(2))[0].shape == (2, 6)


def test_missing_weights_are_named(weights: Path) -> None:
    with pytest.raises(UserError, match=r"there is no nowhere\.pth; they are at https:"):
        Inception(Path("nowhere.pth"))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", "is not a torch checkpoint"),
        ("cut", "is not a torch checkpoint"),
        ("bomb", "holds no weights by name"),
        ("list", "is not a checkpoint: it holds no dict but list"),
        ("nested", "holds no weights by name"),
    ],
)
def test_other_files_are_refused_and_nothing_in_them_runs(
    content: str, message: str, weights: Path, tmp_path: Path
) -> None:
    bomb = Bomb(tmp_path / "run")
    if content == "text":
        weights.write_text("no weights")
    elif content == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    else:
        saved = {"bomb": {"fc.weight": bomb}, "list": [torch.ones(2)], "nested": {"a": {}}}
        torch.save(saved[content], weights)
    with pytest.raises(UserError) as caught:
        Inception(weights)
    assert str(caught.value) == f"{weights} {message}"
    assert not bomb.path.exists()


def test_weights_of_another_network_are_refused_in_one_line(weights: Path) -> None:
    torch.save({"conv.weight": torch.ones(2)}, weights)
    with pytest.raises(UserError, match=r"^the weights in .* are not of Inception: ") as caught:
        Inception(weights)
    assert "\n" not in str(caught.value)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(
        UserError,
        match=r"^fid, kid and precision_recall need .*: pip install 'di4c_plugin\[images\]' ",
    ):
        Inception()


def test_a_broken_torchvision_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / MODULE.partition(".")[0]
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('no operator nms\\nat all')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [MODULE, package.name]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=r"di4c_plugin\[images\]' \(no operator nms\)$"):
        Inception()
