from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin import api
from di4c_plugin.api import load_teacher, sample
from di4c_plugin.cli.main import main
from di4c_plugin.hosts import HostData
from tests.cli import colour_plugin
from tests.cli.colour_plugin import HOST as COLOUR
from tests.cli.colour_plugin import Colour


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside a small teacher of colour pictures."""
    colour_plugin.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    colour_plugin.save_teacher(Path("teacher"))


def draw(*arguments: str) -> int:
    return main(["sample", "teacher", "--host", "colour", *arguments])


def pixels(path: str) -> torch.Tensor:
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file))


def test_a_grid_shows_the_colours_of_the_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert draw("--n", "2", "--steps", "2", "--seed", "1") == 0
    assert capsys.readouterr().out == "samples.png\n"
    x = sample(load_teacher("teacher"), 2, steps=2, seed=1)
    images, shown = COLOUR().images(x), pixels("samples.png")
    factor = 64 // 3
    for k, image in enumerate(images):
        top, left = factor, factor + k * (3 + 2) * factor
        for row in range(2):
            for column in range(3):
                centre = shown[top + row * factor + 5, left + column * factor + 5]
                assert centre.tolist() == image[:, row, column].tolist()


def test_a_folder_holds_single_pictures_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert draw("--n", "70", "--steps", "1", "--out", "new/pictures/") == 0
    assert capsys.readouterr().out == "new/pictures/\n"
    images = COLOUR().images(sample(load_teacher("teacher"), 70, steps=1))
    assert len(list(Path("new/pictures").iterdir())) == 70
    for k in (0, 63, 64, 69):
        assert torch.equal(pixels(f"new/pictures/{k}.png"), images[k].movedim(0, -1))


def test_an_animation_reveals_what_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--n", "5", "--steps", "3", "--batch-size", "2", "--out", "x.png"]
    assert draw(*options, "--animate", "x.webp") == 0
    assert capsys.readouterr().out == "x.png\nx.webp\n"
    unknown = []
    with Image.open("x.webp") as file:
        assert file.n_frames == 3
        for k in range(3):
            file.seek(k)
            frame = np.array(file.convert("RGB"))
            unknown.append((frame == 128).mean())
    assert unknown[0] > unknown[1] > unknown[2] == 0
    assert np.array_equal(frame, pixels("x.png").numpy())


def test_samples_do_not_depend_on_being_watched() -> None:
    assert draw("--out", "a.npy", "--animate", "a.gif") == 0
    assert draw("--out", "b.npy") == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))


def test_a_hybrid_is_watched_to_its_end() -> None:
    hybrid = ["--sampler", "hybrid", "--teacher", "teacher", "--teacher-steps", "2"]
    assert draw("--n", "3", *hybrid, "--steps", "3", "--animate", "x.gif", "--out", "x.png") == 0
    with Image.open("x.gif") as file:
        assert file.n_frames == 3


def test_labels_go_round() -> None:
    assert draw("--n", "5", "--labels", "0,1", "--out", "x.npy") == 0
    cond = torch.tensor([0, 1, 0, 1, 0])
    expected = sample(load_teacher("teacher"), 5, steps=4, cond=cond)
    assert np.array_equal(np.load("x.npy"), expected.numpy())


def test_guidance_takes_another_teacher() -> None:
    torch.manual_seed(7)
    COLOUR().new_teacher({}).save("other")
    guided = ["--option", "guidance=2", "--label", "1", "--n", "40"]
    assert draw(*guided, "--guidance-teacher", "other", "--out", "a.npy") == 0
    assert draw(*guided, "--out", "b.npy") == 0
    teacher, other = load_teacher("teacher"), load_teacher("other")
    shared = {"steps": 4, "cond": torch.ones(40, dtype=torch.long), "guidance": 2}
    expected = sample(teacher, 40, guidance_teacher=other, **shared)  # type: ignore[arg-type]
    assert np.array_equal(np.load("a.npy"), expected.numpy())
    assert not np.array_equal(np.load("a.npy"), np.load("b.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--animate x.mp4", "animations are GIF or WebP: x.mp4 must end in .gif or .webp"),
        ("--labels 0,red", "labels are numbers separated by commas, not '0,red'"),
        ("--labels 0,2", "class labels of this model are 0 ... 1, or -1 for none"),
        ("--labels 0,1 --n 0", "n and batch_size must be at least 1, not 0 and 250"),
        ("--labels 0 --label 1", "argument --label: not allowed with argument --labels"),
        ("--out there/", "there is not empty: the pictures would mix with what is there"),
        ("--out teacher/", "teacher is a file: pictures go to a folder"),
        ("--host-option labelled", "--host-option takes NAME=VALUE, not 'labelled'"),
        ("--host-option size=3", "host 'colour': got an unexpected keyword argument 'size'"),
        ("--guidance-teacher teacher", "--guidance-teacher is for guidance: add --option guidance"),
        (
            "--option guidance=2 --guidance-teacher nowhere",
            "no such model file: nowhere",
        ),
        (
            "--sampler bare --option guidance=2 --guidance-teacher teacher",
            "unknown sampler 'bare'; there are ",
        ),
        ("--option callback=1", "--option is for options of the sampler, and 'callback' is none"),
        ("--option generator=1", "--option is for options of the sampler, and 'generator' is none"),
        ("--option guidance_teacher=x", "--option is for options of the sampler, and 'guidance_t"),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there").mkdir()
    Path("there/0.png").touch()
    assert draw(*arguments.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"di4c: error: {message}")
    assert {path.name for path in Path().rglob("*")} == {"teacher", "there", "0.png"}


def test_samples_that_are_no_pictures_are_refused_before_they_are_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Colour, "images", HostData.images)
    monkeypatch.setattr(api, "sample", lambda *args, **options: pytest.fail("drawn"))
    for wanted in ([], ["--out", "x/"], ["--out", "x.npy", "--animate", "x.gif"]):
        assert draw(*wanted) == 2
        assert capsys.readouterr().err == "di4c: error: samples of host 'colour' are no pictures\n"
    assert [path.name for path in Path().iterdir()] == ["teacher"]
