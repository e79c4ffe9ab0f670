"""A model file, or a folder with one, that names code and places of its own: nothing of it is run.

Its description points into `evil`, where modules leave a mark when they are run and every look at a
file is noticed.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from di4c_plugin import load_student, sample
from di4c_plugin.cli.main import main
from di4c_plugin.hosts import host_for
from tests.conftest import host_named
from tests.stand_ins.images.checkouts import MODULES, stand_in
from tests.stand_ins.images.place import HOSTS, Place
from tests.stand_ins.images.vq_files import STAND_INS

watched: list[str] = []
seen: list[str] = []
SMALL = ["--steps", "2", "--samples", "4", "--option", "latents=fixed"]


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if watched and event.startswith(("open", "os.", "import", "subprocess", "pathlib")):
        named = [str(a) for a in arguments if isinstance(a, str | Path)]
        seen.extend(f"{event} {name}" for name in named if name.startswith(watched[0]))


sys.addaudithook(_notice)


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "evil"
    folder.mkdir()
    yield folder
    watched.clear()
    seen.clear()


def hostile_checkout(root: Path, host: str) -> Path:
    """A folder that bears a host's marks, with modules that leave a mark."""
    text = f"open({str(root / 'marker')!r}, 'w').close()\n"
    modules = [MODULES[host][0], *([STAND_INS[host][0]] if host in STAND_INS else [])]
    for name in (*host_named(host).marks, *modules, "torch.py", "einops.py", "sitecustomize.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(params=HOSTS)
def place(
    request: pytest.FixtureRequest,
    make_host: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Place:
    """A student in runs/, whose host is in $DI4C_EXTERNAL."""
    place = Place(request.param, stand_in(make_host(request.param), request.param), tmp_path)
    monkeypatch.setenv("DI4C_EXTERNAL", str(place.root.parent))
    monkeypatch.chdir(tmp_path)
    assert main(place.arguments("out=runs")) == 0, capsys.readouterr().err
    capsys.readouterr()
    return place


def rewritten(path: Path, **host: Any) -> Path:
    """Have the file say that it was trained with these options."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["di4c"])
    del description["sha256"]  # of what it said before
    description["info"]["host"] |= host
    save_file(tensors, path, metadata={"di4c": json.dumps(description)})
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_model_file_names_no_place(
    place: Place, evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = hostile_checkout(evil / place.host, place.host)
    np.savez(evil / "data.npz", codes=np.zeros((4, 3, 3), np.int64), labels=[0] * 4)
    np.save(evil / "levels.npy", np.zeros((4, 48), np.int64))
    data = evil / ("levels.npy" if place.host == "tauldr" else "data.npz")
    (evil / "config.yaml").write_text("data: [\n")
    (evil / "vq" / "configs").mkdir(parents=True)
    (evil / "vq" / "configs" / "model.yaml").write_text("model: [\n")
    own = {"config": evil / "config.yaml"}
    if place.host != "tauldr":
        own = {"vqgan": evil / "vq", "cache": evil / "cache.npz"}
    named = {"root": root, "data": data} | own
    file = rewritten(Path("runs/student.safetensors"), **{k: str(v) for k, v in named.items()})
    before = sorted(path for path in evil.rglob("*"))
    watched.append(str(evil))

    student = load_student(file)
    host = host_for(student)
    assert host.images(sample(student, 2, steps=1)).shape[0] == 2
    drawn = ["sample", str(file), "--n", "2", "--steps", "1"]
    assert main([*drawn, "--out", "x.png"]) == 0
    assert main([*drawn, "--out", "pictures/", "--animate", "x.gif"]) == 0
    hybrid = ["--sampler", "hybrid", "--teacher", str(place.teacher), "--teacher-steps", "1"]
    capsys.readouterr()
    assert main(["evaluate", str(file), *SMALL]) == 2
    wanted = f"di4c: error: name the data of host {place.host!r}: --host-option data=PATH "
    error = capsys.readouterr().err
    assert error.startswith(f"{wanted}(trained with '/")
    assert error.count("\n") == 1
    given = ["--host-option", f"data={place.data}"]
    assert main(["evaluate", str(file), *given, *SMALL, *hybrid]) == 0
    known = [f"host={place.host}", f"teacher={file}", "out=again"]
    capsys.readouterr()
    assert main(["train", *known]) == 2
    assert f"name the data of host {place.host!r}: host.data=PATH" in capsys.readouterr().err

    watched.clear()
    assert seen == []
    assert sorted(path for path in evil.rglob("*")) == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["external/{}", "."])
def test_a_folder_with_a_model_brings_no_code(
    where: str,
    place: Place,
    evil: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = Path("runs/student.safetensors").rename(evil / "student.safetensors")
    root = hostile_checkout(evil / where.format(place.host), place.host)
    monkeypatch.chdir(evil)
    options = [file.name, "--n", "2", "--steps", "1"]
    assert main(["sample", *options]) == 0  # by the checkout that the user has named
    monkeypatch.delenv("DI4C_EXTERNAL")
    capsys.readouterr()
    assert main(["sample", *options]) == 2
    error = capsys.readouterr().err
    assert f"is not {place.host} at {host_named(place.host).commit[:7]} as tested" in error
    assert error.count("\n") == 1
    assert not (root / "marker").exists()
