import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from di4c_plugin.api import load_teacher, sample
from di4c_plugin.cli.main import main
from di4c_plugin.cli.sources import choose_labels
from di4c_plugin.evaluation.frechet import frechet_distance
from di4c_plugin.evaluation.inception import RESIZING, Inception
from di4c_plugin.evaluation.pictures import write_pictures
from tests.cli import colour_plugin
from tests.cli.colour_plugin import HOST as COLOUR
from tests.cli.colour_plugin import Colour
from tests.evaluation import stand_in_fidelity

FID = ["--metric", "fid", "--inception", "inception.pth"]


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside a small teacher of colour pictures and weights of the stand-in for Inception."""
    colour_plugin.install(monkeypatch)
    stand_in_fidelity.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    colour_plugin.save_teacher(Path("teacher"))
    stand_in_fidelity.weights(Path("inception.pth"))


def evaluate(*arguments: str) -> int:
    shared = ["--host", "colour", "--samples", "30", "--steps", "2", "--seed", "5"]
    return main(["evaluate", "teacher", *shared, *arguments])


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def value(path: str, column: str) -> float:
    """A value in a report of one point."""
    (point,) = json.loads(Path(path).read_text())["points"]
    return float(point["figures"][column]["value"])


def uniform() -> torch.Tensor:
    """The samples that `--labels 0,1` gives."""
    cond = torch.tensor([0, 1]).repeat(15)
    return sample(load_teacher("teacher"), 30, steps=2, seed=5, cond=cond)


def fid(x: torch.Tensor, reference: torch.Tensor) -> float:
    network = Inception(Path("inception.pth"))
    return frechet_distance(network.features(x)[0], network.features(reference)[0])


def test_fid_names_what_it_compares_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(*FID, "--labels", "0,1", "--json", "new/fid.json") == 0
    fingerprint = Inception(Path("inception.pth")).fingerprint
    resizing = f"none, 3x2x3 as the host draws its data; then {RESIZING}"
    *notes, header, row = lines(capsys)
    assert notes == [
        "# labels: 0,1",
        "# reference: pictures of the data of host colour, 20 of them",
        f"# resizing: {resizing}",
        f"# inception: {fingerprint}",
    ]
    assert header == "steps\tfid\tis\tcalls\tms/sample\ttokens/s\tpeak MB"
    images = COLOUR().images
    expected = fid(images(uniform()), images(COLOUR().data().x_0.long()))
    report = json.loads(Path("new/fid.json").read_text())
    found = report["points"][0]["figures"]
    assert found["fid"]["value"] == pytest.approx(expected, rel=1e-6)
    assert row.split("\t")[:3] == ["2", f"{expected:.4g}", f"{found['is']['value']:.4g}"]
    assert report["notes"] == {
        "labels": "0,1",
        "reference": "pictures of the data of host colour, 20 of them",
        "resizing": resizing,
        "inception": fingerprint,
    }
    assert report["points"][0]["n"] == 30


def test_the_reference_may_be_a_folder_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (12, 3, 2, 3), generator=generator, dtype=torch.uint8)
    write_pictures([pictures], Path("real"))
    assert evaluate(*FID, "--labels", "0,1", "--reference", "real", "--json", "fid.json") == 0
    notes = lines(capsys)
    assert notes[1] == "# reference: pictures in real, 12 of them"
    assert notes[2] == f"# resizing: centre crop, bicubic to 2x3; then {RESIZING}"
    expected = fid(COLOUR().images(uniform()), pictures)
    assert value("fid.json", "fid") == pytest.approx(expected, rel=1e-6)


def test_statistics_stand_for_the_reference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = [*FID, "--labels", "uniform", "--statistics", "new/reference.npz"]
    assert evaluate(*fixed) == 0
    first = lines(capsys)

    def gone(self: Colour, host: object) -> None:
        raise AssertionError("the data are not to be read")

    monkeypatch.setattr(Colour, "read", gone)
    assert evaluate(*fixed) == 0
    second = lines(capsys)
    assert [line.split("\t")[:3] for line in first] == [line.split("\t")[:3] for line in second]


def test_a_plugin_brings_a_metric_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--metric", "brightness", "--labels", "0,1") == 0
    *notes, header, row = lines(capsys)
    assert notes == ["# labels: 0,1", "# reference: pictures of the data of host colour"]
    assert header.startswith("steps\tbrightness\tpictures\t")
    shown, data = (COLOUR().images(x).double() for x in (uniform(), COLOUR().data().x_0.long()))
    expected = float((shown.mean() - data.mean()).abs())
    assert row.split("\t")[:3] == ["2", f"{expected:.4g}", "30"]


def test_guidance_is_swept_in_the_place_of_temperature(capsys: pytest.CaptureFixture[str]) -> None:
    swept = ["--sweep", "guidance=0,2", "--plot", "fid.png", "--json", "fid.json"]
    assert evaluate(*FID, "--labels", "0,1", *swept) == 0
    *_, header, first, second = lines(capsys)
    assert header.split("\t")[:3] == ["steps", "guidance", "fid"]
    assert [row.split("\t")[1] for row in (first, second)] == ["0", "2"]
    cond = torch.tensor([0, 1]).repeat(15)
    guided = sample(load_teacher("teacher"), 30, steps=2, seed=5, cond=cond, guidance=2.0)
    expected = fid(COLOUR().images(guided), COLOUR().images(COLOUR().data().x_0.long()))
    points = json.loads(Path("fid.json").read_text())["points"]
    assert points[1]["figures"]["fid"]["value"] == pytest.approx(expected, rel=1e-6)
    # Guidance asks twice a step, with the label and without; at weight 0 once.
    assert [p["cost"]["network_calls"] for p in points] == [2, 4]
    assert Path("fid.png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_as_often_as_in_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--json", "a.json") == 0
    assert lines(capsys)[0] == "# labels: drawn from the data's"
    assert evaluate("--labels", "data", "--json", "b.json") == 0
    assert value("a.json", "fd") == value("b.json", "fd")
    assert evaluate("--labels", "none", "--json", "c.json") == 0
    x = sample(load_teacher("teacher"), 30, steps=2, seed=5)
    report = json.loads(Path("c.json").read_text())
    assert value("c.json", "fd") == frechet_distance(x, COLOUR().data().x_0)
    assert report["notes"]["labels"] == "none"
    assert value("c.json", "fd") != value("a.json", "fd")


@pytest.mark.parametrize(
    ("which", "share", "note"),
    [
        (None, 0.25, "drawn from the data's"),
        ("data", 0.25, "drawn from the data's"),
        ("uniform", 0.5, "uniform"),
        ("1,1,1,0", 0.75, "1,1,1,0"),
    ],
)
def test_labels_by_their_share(which: str | None, share: float, note: str) -> None:
    class Args:
        labels, samples = which, 4000

    args: Any = Args
    cond, notes = choose_labels(args, COLOUR(), load_teacher("teacher"), 5)
    assert cond is not None
    assert cond.shape == (4000,)
    assert cond.double().mean() == pytest.approx(share, abs=0.03)
    assert notes == {"labels": note}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--metric brightnes", "unknown metric 'brightnes' (did you mean 'brightness'?); there"),
        ("--metric fid --inception nowhere", "the weights of Inception are missing: there is no"),
        ("--metric fid --inception teacher", "teacher is not a torch checkpoint"),
        ("--metric fid --inception inception.pth --statistics s.pt", "statistics are .npz files: "),
        (
            "--metric fid --inception inception.pth --statistics teacher.npz",
            "teacher.npz is no readable file of statistics: ",
        ),
        (
            "--metric fid --inception inception.pth --reference nowhere",
            "no such folder of pictures: nowhere",
        ),
        (
            "--metric fid --inception inception.pth --samples 9",
            "IS takes at least 10 pictures, not 9",
        ),
        ("--reference real", "--reference is for metrics of pictures, such as fid, or of texts"),
        ("--metric fid --scorer x", "--scorer is for metrics of texts, such as gen_ppl"),
        ("--inception inception.pth", "--inception is for metrics of pictures, such as fid"),
        ("--statistics s.npz", "--statistics is for metrics of pictures, such as fid"),
        ("--labels some", "labels are numbers separated by commas, not 'some'"),
        ("--labels 0,2", "class labels of this model are 0 ... 1, or -1 for none"),
        ("--samples 0", "--samples is at least 1, not 0"),
        ("--seed -1", "seed must be in [0, 2^63), not -1"),
        ("--seed 9223372036854775808", "seed must be in [0, 2^63), not 9223372036854775808"),
        (
            "--host-option labelled=false",
            "the host's data have no class labels: --labels uniform, none or ",
        ),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("teacher.npz").write_bytes(Path("teacher").read_bytes())
    before = {path.name for path in Path().iterdir()}
    assert evaluate(*arguments.split(), "--json", "fid.json") == 2
    _, err = capsys.readouterr()
    assert err.startswith(f"di4c: error: {message}")
    assert err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == before


def test_a_model_without_classes_takes_no_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "builtin:digits", "--labels", "uniform"]) == 2
    assert capsys.readouterr().err == "di4c: error: this model takes no class labels\n"


def test_grey_pictures_of_the_built_in_host(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*FID, "--steps", "1", "--samples", "12", "--statistics", "digits.npz"]
    assert main(["evaluate", "builtin:digits", *options]) == 0
    assert lines(capsys)[0] == "# reference: pictures of the data of host builtin, 1797 of them"
    assert evaluate(*FID, "--statistics", "digits.npz") == 2
    assert capsys.readouterr().err.startswith(
        "di4c: error: digits.npz holds statistics of other pictures: reference is 'pictures of "
    )


def test_single_pictures_can_be_the_reference_of_another_run() -> None:
    options = ["--host", "colour", "--n", "30", "--steps", "2", "--seed", "5", "--labels", "0,1"]
    assert main(["sample", "teacher", *options, "--out", "drawn/"]) == 0
    with Image.open("drawn/0.png") as file:
        assert file.size == (3, 2)
    assert evaluate(*FID, "--labels", "0,1", "--reference", "drawn", "--json", "fid.json") == 0
    assert value("fid.json", "fid") == pytest.approx(0, abs=1e-9)
