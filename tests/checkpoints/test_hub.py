import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from di4c_plugin.api import load_student, load_teacher, save_student
from di4c_plugin.checkpoints.hub import looks_like_id
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.weights import read_weights
from di4c_plugin.errors import UserError
from di4c_plugin.families import student_of
from tests.stand_ins.dit_files import CONFIGS, HUB_CONFIG, state
from tests.stand_ins.hub_server import Repositories, commit_of, serve


def snapshot(folder: Path, seed: int, config: object, prefix: str, name: str) -> Path:
    folder.mkdir()
    save = save_file if name.endswith(".safetensors") else torch.save
    save({prefix + k: v for k, v in state(seed=seed).items()}, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    weights = "model.safetensors"
    old = snapshot(tmp_path / "old", 1, CONFIGS["sdtt"], "backbone.backbone.", weights)
    new = snapshot(tmp_path / "new", 2, HUB_CONFIG, "backbone.", weights)
    older_form = snapshot(tmp_path / "bin", 3, HUB_CONFIG, "backbone.", "pytorch_model.bin")
    empty = tmp_path / "empty"
    empty.mkdir()
    return {
        "some/mdlm": {"main": new, "round_1": old},
        "some/old-form": {"main": older_form},
        "some/empty": {"main": empty},
        "gone/student": {},
    }


@pytest.fixture
def hub(
    repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    with serve(repositories) as (endpoint, asked):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield asked


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("source", "folder", "seed"),
    [("some/mdlm", "new", 2), ("some/mdlm@round_1", "old", 1), ("some/old-form", "bin", 3)],
)
def test_a_repository_is_read_at_the_revision(
    source: str, folder: str, seed: int, tmp_path: Path
) -> None:
    found = read_weights(source)
    assert found.tensors.keys() == state().keys()
    assert all(found.tensors[name].equal(value) for name, value in state(seed=seed).items())
    assert found.config == json.loads((tmp_path / folder / "config.json").read_text())
    name, _, revision = source.partition("@")
    commit = commit_of(tmp_path / folder)
    assert found.origin == f"{name}@{revision or 'main'} ({commit[:12]})"
    assert read_weights(f"{name}@{commit}").fingerprint == found.fingerprint


@pytest.mark.usefixtures("hub")
def test_the_model_samples_without_any_host() -> None:
    teacher = load_teacher("some/mdlm@round_1")
    assert teacher.process.config["mask"] == 6
    x = teacher.sample(3, steps=2, seed=1)
    assert x.shape == (3, 6)
    assert (x < 6).all()


def test_a_student_comes_back_from_the_hub(
    hub: list[str], repositories: Repositories, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = student_of(load_teacher("some/mdlm"), {"name": "token"})
    save_student(student, tmp_path / "student")
    repositories["gone/student"]["v1"] = tmp_path / "student"
    again = load_student("gone/student@v1")
    assert again.latent == {"name": "token"}
    assert again.sample(5, steps=2).equal(load_student(tmp_path / "student").sample(5, steps=2))
    config = [line for line in hub if "student" in line and "config.json" in line]
    assert all(commit_of(tmp_path / "student") in line for line in config)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/nothing", "no file, folder or hub repository nobody/nothing"),
        ("some/mdlm@round_9", "hub repository some/mdlm has no revision 'round_9'"),
        ("some/empty", "hub repository some/empty holds neither model.safetensors nor pytorch"),
        ("some/gated", "hub repository some/gated is gated: ask for access and log in"),
    ],
)
def test_mistakes_give_one_line(source: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        read_weights(source)


def test_what_was_fetched_once_is_there_when_the_hub_is_not(
    hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_weights("some/mdlm@round_1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub)
    assert read_weights("some/mdlm@round_1").fingerprint == before.fingerprint
    with pytest.raises(UserError, match="^no file or folder some/old-form, and as a hub [^\n]*$"):
        read_weights("some/old-form")
    assert len(hub) == asked


@pytest.mark.slow  # huggingface_hub tries for 20 seconds
def test_a_hub_out_of_reach_gives_one_line(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(UserError, match="^no file or folder some/mdlm, and as a hub repository"):
        read_weights("some/mdlm")
    assert hub == []


@pytest.mark.slow
def test_endpoint_cache_and_offline_mode_are_those_of_the_environment(
    repositories: Repositories, tmp_path: Path
) -> None:
    program = (
        "from di4c_plugin.checkpoints.weights import read_weights\n"
        "print(read_weights('some/mdlm@round_1').fingerprint)"
    )
    with serve(repositories) as (endpoint, asked):
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        runs = [
            subprocess.run(
                [sys.executable, "-c", program],
                env=environment | {"HF_HUB_OFFLINE": offline},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for offline in ("0", "1")
        ]
        first = len(asked)
    assert runs[0] == runs[1]
    assert first
    assert (tmp_path / "home").is_dir()


@pytest.mark.parametrize(
    ("source", "may_be"),
    [
        ("kuleshov-group/mdlm-owt", True),
        ("jdeschena/sdtt@baselines_kld_step_70000", True),
        ("a/b@refs/pr/1", True),
        ("a/last.ckpt", False),
        ("./a/b", False),
        ("/a/b", False),
        ("a/b/c", False),
        ("a", False),
        ("", False),
    ],
)
def test_ids_are_told_from_paths(source: str, may_be: bool) -> None:
    assert looks_like_id(source) == may_be


def test_a_folder_goes_before_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    snapshot(tmp_path / "some" / "mdlm", 5, HUB_CONFIG, "", "model.safetensors")
    found = read_weights("some/mdlm")
    assert found.tensors["sigma_map.mlp.0.bias"].equal(state(seed=5)["sigma_map.mlp.0.bias"])
    assert isinstance(load_teacher("some/mdlm"), Model)
