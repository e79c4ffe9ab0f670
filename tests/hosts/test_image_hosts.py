"""The image hosts as `di4c` sees them: distil, keep, load, sample; a line for each mistake."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from di4c_plugin import load_student, load_teacher, sample
from di4c_plugin.api import distill, save_student
from di4c_plugin.checkpoints.model_file import write_file
from di4c_plugin.cli.main import main
from di4c_plugin.errors import UserError
from di4c_plugin.hosts import host_for
from di4c_plugin.plugins import lookup
from di4c_plugin.training.config import TrainingConfig
from tests.checkpoints.model_files import read_file
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.place import HOSTS, Place, options


@pytest.fixture(params=HOSTS)
def place(request: pytest.FixtureRequest, root: Root, tmp_path: Path) -> Place:
    return Place(request.param, root(request.param), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_train_keep_load_sample(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    out, here = place.folder / "out", {"root": str(place.root)}
    assert main(place.arguments(f"out={out}")) == 0, capsys.readouterr().err
    student = load_student(out / "student.safetensors", host=here)
    assert student.network.kind == place.host
    expected = {"maskgit": "token", "halton_maskgit": "adaln", "tauldr": "unet"}[place.host]
    assert (student.latent or {})["name"] == expected
    labels = torch.tensor([1, -1]) if student.network.num_classes else None
    first, again = (sample(student, 2, steps=2, seed=3, cond=labels) for _ in range(2))
    assert torch.equal(first, again)
    limit = student.process.num_tokens - (place.host != "tauldr")
    assert first.shape == (2, student.network.positions)
    assert int(first.max()) < limit
    # Weights are the teacher's, by its names, but for the update; and the file is the student.
    own = student.denoiser.network.state_dict()
    before = place.network.state_dict()
    assert all(torch.allclose(own[k], v, atol=0.05) for k, v in before.items() if k in own)
    save_student(student, place.folder / "folder")
    again = sample(
        load_student(place.folder / "folder", host=here), 2, steps=2, seed=3, cond=labels
    )
    assert torch.equal(again, first)
    host = host_for(student, data=str(place.data))
    assert len(host.data().x_0) == (12 if place.host == "tauldr" else 6)  # mirrored
    pictures = host.images(first)
    assert pictures.dtype == torch.uint8
    assert pictures.ndim == 4


@pytest.mark.filterwarnings("ignore")
def test_a_student_is_a_teacher_too(place: Place) -> None:
    teacher = load_teacher(place.teacher, host=options(place))
    config = TrainingConfig(steps=1, batch_size=2, logger="none", lr=0.0)
    latent = {"name": {"tauldr": "unet"}.get(place.host, "token")}
    algo = {"latents": 2}
    host = options(place) | {"data": str(place.data)}
    common: dict[str, Any] = {"algo": algo, "latent": latent, "training": config, "host": host}
    once = distill(teacher, **common, progress=False)
    twice = distill(once, **common, progress=False)
    for name, value in once.denoiser.state_dict().items():
        torch.testing.assert_close(twice.denoiser.state_dict()[name], value)
    assert not {"data", "root", "vqgan", "cache", "config"} & once.info["host"].keys()


@pytest.mark.filterwarnings("ignore")
def test_a_hybrid_needs_no_more_than_the_path_of_its_teacher(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place.folder / "out"
    another = [] if place.host == "tauldr" else ["process@host.process=absorbing"]
    assert main(place.arguments(f"out={out}", *another)) == 0, capsys.readouterr().err
    student, report = str(out / "student.safetensors"), place.folder / "report.json"
    hybrid = ["--sampler", "hybrid", "--teacher", str(place.teacher), "--teacher-steps", "1"]
    small = ["--steps", "2", "--samples", "4", "--option", "latents=fixed", "--json", str(report)]
    checkout = ["--host-option", f"root={place.root}", "--host-option", f"data={place.data}"]
    assert main(["evaluate", student, *checkout, *hybrid, *small]) == 0, capsys.readouterr().err
    told = json.loads(report.read_text())["arguments"]
    assert told["teacher"] == str(place.teacher)
    assert told["teacher_steps"] == 1
    assert told["option"] == [["latents", "fixed"]]


def test_what_is_asked_for_holds_for_model_files_too(root: Root, tmp_path: Path) -> None:
    place = Place("maskgit", root("maskgit"), tmp_path)
    file = tmp_path / "model.safetensors"
    load_teacher(place.teacher, host=options(place) | {"process": "halton"}).save(file)
    here = {"root": str(place.root)}
    for asked, name in (({}, "halton"), ({"process": "confidence"}, "confidence")):
        model = load_teacher(file, host=here | asked)  # the file tells of which host it is
        assert model.process.config["name"] == name
    for settings, certain in (({}, False), ({"carry_over": True, "dropout": 0.25}, True)):
        changed: Any = load_teacher(file, host=here | settings)
        assert changed.denoiser.carry_over is certain
        assert (changed.network.dropout == 0.25) is certain
        changed.save(file)
    kept: Any = load_teacher(file, host=here).denoiser
    assert kept.carry_over
    with pytest.raises(
        UserError, match=r"process must be text or a mapping of options, not \[1\]$"
    ):
        load_teacher(file, host=here | {"process": [1]})
    with pytest.raises(UserError, match="process 'uniform' .* 'mask'; it takes "):
        load_teacher(file, host=here | {"process": "uniform"})


@pytest.mark.parametrize(("order", "goes"), [("halton", True), ("cosine", False)])
def test_partners_may_have_another_order_and_no_other_schedule(
    order: str, goes: bool, root: Root, tmp_path: Path
) -> None:
    place = Place("maskgit", root("maskgit"), tmp_path)
    process: Any = order if order == "halton" else {"name": "confidence", "schedule": order}
    model = load_teacher(place.teacher, host=options(place))
    partner = load_teacher(place.teacher, host=options(place) | {"process": process})
    hybrid: Any = {"sampler": "hybrid", "teacher": partner, "teacher_steps": 1}
    if goes:
        assert sample(model, 2, steps=2, **hybrid).shape == (2, 9)
        return
    with pytest.raises(UserError, match="^teacher does not go with this model: "):
        sample(model, 2, steps=2, **hybrid)


@torch.no_grad()
def test_load_teacher_finds_the_host(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DI4C_EXTERNAL", str(place.root.parent))
    if place.host != "tauldr":
        with pytest.raises(UserError, match=r": say host\.(heads|classes)="):
            load_teacher(place.teacher)
        return
    teacher = load_teacher(place.teacher)
    for name, value in place.network.state_dict().items():
        assert torch.equal(teacher.denoiser.network.state_dict()[name], value)


def test_a_checkpoint_saved_as_a_model_file_names_no_place(root: Root, tmp_path: Path) -> None:
    place = Place("maskgit", root("maskgit"), tmp_path)
    given = options(place) | {"data": str(place.data), "vqgan": "VQ/", "mirror": True}
    info = load_teacher(place.teacher, host=given).info
    kept = {"name": "maskgit", "mirror": True} | {
        k: given[k] for k in ("heads", "classes", "codes")
    }
    assert {k: v for k, v in info["host"].items() if v is not None} == kept | {"image_size": 256}


@pytest.mark.parametrize(
    "change",
    [{"network": {"heads": "torch"}}, {"network": {"dropout": ["x"]}}, {"info": 3}, {"process": 3}],
)
def test_a_description_of_something_else_is_damaged(
    change: dict[str, Any], root: Root, tmp_path: Path
) -> None:
    place, file = Place("maskgit", root("maskgit"), tmp_path), tmp_path / "model.safetensors"
    load_teacher(place.teacher, host=options(place)).save(file)
    description, tensors = read_file(file)
    for part, value in change.items():
        merged = isinstance(value, dict)
        description[part] = description[part] | value if merged else value
    write_file(file, description, tensors)
    with pytest.raises(UserError, match="^the description of the model in .* is damaged: [^\n]*$"):
        load_teacher(file, host={"root": str(place.root)})


def test_pictures_are_judged_as_they_were_trained(root: Root, tmp_path: Path) -> None:
    place = Place("maskgit", root("maskgit"), tmp_path)
    teacher = load_teacher(place.teacher, host=options(place))
    teacher.info["host"]["vqgan"] = "VQ\n/"  # as a file may say
    host = host_for(teacher)
    host.typed = "--host-option "
    wanted = r"--host-option vqgan=PATH \(trained with 'VQ\\n/', its file says\)$"
    with pytest.raises(UserError, match=wanted):
        host.check_drawing()
    host_for(teacher, vqgan="mine").check_drawing()


VQ = "host.data={{pictures}} host.vqgan={}"
MISTAKES = [
    ("maskgit", "teacher={other}", "is of Halton-MaskGIT, not of MaskGIT-pytorch v1"),
    ("halton_maskgit", "teacher={other}", "is of MaskGIT-pytorch v1, not of Halton-MaskGIT"),
    ("maskgit", "teacher=nothing.pth", "no such model file: nothing.pth"),
    ("maskgit", "host.data=null", "name the data of host 'maskgit': host.data=PATH"),
    ("maskgit", "host.data={empty}", "no pictures in .*empty"),
    ("maskgit", "host.data={pictures}", "pictures: name the VQ model, host.vqgan=PATH"),
    ("maskgit", VQ.format("{vq_folder}"), r"no VQGAN for maskgit: .*model\.yaml is missing"),
    ("halton_maskgit", VQ.format("{vq_folder}"), "no VQGAN for halton_maskgit: .* is missing"),
    ("maskgit", "host.data={wide}", "4 x 4"),
    ("maskgit", "host.data={large}", "codes .* 0 ... 6 .* 7"),
    ("maskgit", "host.data={labels}", "labels .* 0 ... 4 .* 5"),
    ("maskgit", "host.root={empty}", "no checkout of maskgit in .*empty"),
    ("halton_maskgit", "latent=unet", "latent 'unet' does not enter this network"),
    ("tauldr", "latent=token", "tauLDR's U-Net takes the latent 'unet' .*, not 'token'"),
    ("tauldr", "host.data={pictures}", "4 x 4"),
    ("tauldr", "host.data={large}", "no array 'levels'; there are: codes, labels"),
]


@pytest.mark.parametrize(("host", "change", "message"), MISTAKES)
def test_one_line_for_each_mistake(
    host: str,
    change: str,
    message: str,
    root: Root,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place(host, root(host), tmp_path)
    files = mistakes(tmp_path, host, root)
    changes = change.format(**files).split()
    arguments = place.arguments(f"out={tmp_path / 'out'}", *changes)
    assert main(arguments) == 2
    *before, error = capsys.readouterr().err.splitlines()
    assert error.startswith("di4c: error: ")
    assert all(re.match(r"di4c: .*: \d+ pictures in ", line) for line in before)
    assert len(error) < 400
    assert re.search(message, error), error


def mistakes(folder: Path, host: str, root: Root) -> dict[str, Path]:
    """Files that do not fit."""
    from PIL import Image

    names = ("other", "empty", "pictures", "wide", "large", "labels", "vq_folder")
    files = {name: folder / f"{name}.npz" for name in names}
    files["empty"], files["pictures"] = folder / "empty", folder / "pictures"
    files["empty"].mkdir()
    (files["pictures"] / "a").mkdir(parents=True)
    Image.new("RGB", (5, 6)).save(files["pictures"] / "a" / "0.png")
    three = np.zeros((2, 3, 3), np.int64)
    np.savez(files["wide"], codes=np.zeros((2, 4, 4), np.int64))
    np.savez(files["large"], codes=three + 7, labels=[0, 1])
    np.savez(files["labels"], codes=three, labels=[0, 5])
    files["other"] = folder / "other.pth"
    if host != "tauldr":
        kind = {"maskgit": "halton_maskgit", "halton_maskgit": "maskgit"}[host]
        (folder / "second").mkdir()
        network = HOSTS[kind].plain(root(kind))
        torch.save({"model_state_dict": network.state_dict()}, files["other"])
    return files


@pytest.mark.parametrize("name", HOSTS)
def test_before_there_is_a_model(name: str) -> None:
    host = lookup("host", name)(data="x.npz")
    with pytest.raises(UserError, match="needs its teacher before data or pictures"):
        host.data()
    with pytest.raises(UserError, match="teachers of .* are trained by its own program"):
        host.new_teacher({})


def test_codes_as_grey_levels(root: Root, tmp_path: Path) -> None:
    place = Place("maskgit", root("maskgit"), tmp_path)
    teacher = load_teacher(place.teacher, host=options(place))
    x: Tensor = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 7]])
    found = host_for(teacher).images(x)
    assert found.flatten().tolist() == [0, 42, 85, 128, 170, 212, 255, 128, 128]
