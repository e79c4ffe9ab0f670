import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save

from di4c_plugin.api import LoadedModel, load_student, load_teacher, save_student
from di4c_plugin.checkpoints.model import Model, new_model, student_of, with_info
from di4c_plugin.diffusion import Absorbing, LogLinear, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.networks import DiTConfig
from tests.networks.dit_reference import random_state

SIZES = DiTConfig(vocab_size=7, length=6, hidden_size=24, cond_dim=5, n_blocks=2, n_heads=3)


def make(latent: dict[str, Any] | None, process: Process | None = None) -> Model:
    torch.manual_seed(0)
    process = process or Absorbing(7, LogLinear(1e-3), mask=6)
    model = new_model(SIZES, process, latent, info={"teacher": "some/mdlm", "steps": 7})
    model.denoiser.network.load_state_dict(random_state(7, 24, 5, 2), strict=False)
    model.denoiser.eval()
    return model


@pytest.mark.parametrize("latent", ["token", "adaln", "mask_noise"])
@pytest.mark.parametrize("process", [None, Uniform(7, LogLinear(1e-3))])
def test_a_student_comes_back_from_folder_and_file(
    latent: str, process: Process | None, tmp_path: Path
) -> None:
    student = make({"name": latent, "dim": 2}, process)
    save_student(student, tmp_path / "out" / "student")
    expected = LoadedModel.of(student).sample(5, steps=3, seed=4)
    folder = tmp_path / "out" / "student"
    for source in (folder, str(folder), folder / "model.safetensors"):
        again = load_student(source)
        assert (again.latent, again.network, again.info) == (student.latent, SIZES, student.info)
        assert again.process.config == student.process.config
        assert again.sample(5, steps=3, seed=4).equal(expected)


def test_the_names_in_the_file_are_those_of_the_hosts(tmp_path: Path) -> None:
    save_student(make({"name": "token"}), tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(random_state(7, 24, 5, 2, latent=True))


def test_without_the_metadata_config_json_will_do(tmp_path: Path) -> None:
    student = make({"name": "adaln", "dim": 2})
    save_student(student, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    again = load_student(tmp_path)
    assert again.latent == student.latent
    expected = LoadedModel.of(student).sample(5, steps=3)
    assert again.sample(5, steps=3).equal(expected)


def test_config_json_speaks_the_hubs_words_too(tmp_path: Path) -> None:
    save_student(make({"name": "token"}), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("di4c")["latent"] == {"name": "token"}
    assert config == {
        "model_type": "di4c",
        "vocab_size": 7,
        "model_length": 6,
        "hidden_dim": 24,
        "cond_dim": 5,
        "n_blocks": 2,
        "n_heads": 3,
        "time_conditioning": False,
    }


def test_the_card_says_how_to_load_it_and_what_made_it(tmp_path: Path) -> None:
    save_student(with_info(make({"name": "token"}), odd="a|b\nc"), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: di4c_plugin\n")
    code = (
        text.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(tmp_path))
    )
    space: dict[str, Any] = {}
    exec(code, space)
    assert space["tokens"].shape == (4, 6)
    assert "| teacher | `some/mdlm` |" in text
    assert "| odd | `a\\|b c` |" in text


VOCABULARY = {"name": "gpt2", "size": 6, "sha256": "ab" * 32}


def front_matter(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


def test_the_card_says_what_the_hub_sorts_by(tmp_path: Path) -> None:
    save_student(with_info(make({"name": "token"}), vocabulary=VOCABULARY), tmp_path / "a")
    assert front_matter(tmp_path / "a") == {
        "library_name": "di4c_plugin",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["discrete-diffusion", "di4c"],
    }
    text = (tmp_path / "a/README.md").read_text()
    assert "| tokenizer | `gpt2 (6 tokens, sha256 abababababab)` |" in text
    assert "| licence | `not known here" in text
    save_student(make({"name": "token"}), tmp_path / "b")
    assert "| tokenizer | `not known` |" in (tmp_path / "b/README.md").read_text()
    torch.manual_seed(0)
    save_student(student_of(load_teacher(), {"name": "adaln"}), tmp_path / "c")  # no host is said
    assert "pipeline_tag" not in front_matter(tmp_path / "c")
    digits = with_info(student_of(load_teacher(), {"name": "adaln"}), host={"name": "builtin"})
    save_student(digits, tmp_path / "d")
    assert front_matter(tmp_path / "d")["pipeline_tag"] == "unconditional-image-generation"


def test_nothing_in_the_folder_says_where_it_was_made(tmp_path: Path) -> None:
    info = {
        "origin": "/home/somebody/my runs/teacher.ckpt",
        "teacher": {"source": "file:/home/somebody/x.ckpt", "hub": "some/mdlm@main (abc)"},
        "host": {"data": "~/somebody/codes.npz", "vqgan": "C:\\somebody\\VQGAN\\"},
        "files": ["/somebody/a", "b/c", "https://example.org/d/e", "1/2"],
        "command": "di4c train teacher=/home/somebody/t.pth 'out=/somebody/x' k=a/b",
    }
    save_student(with_info(make({"name": "token"}), **info), tmp_path)
    for content in contents(tmp_path).values():
        assert b"somebody" not in content
    again = load_student(tmp_path).info
    assert again["origin"] == "teacher.ckpt"
    assert again["teacher"] == {"source": "file:x.ckpt", "hub": "some/mdlm@main (abc)"}
    assert again["host"] == {"data": "codes.npz", "vqgan": "VQGAN"}
    assert again["files"] == ["a", "b/c", "https://example.org/d/e", "1/2"]
    assert again["command"] == "di4c train teacher=t.pth 'out=x' k=a/b"
    save_student(with_info(make({"name": "token"}), **info), tmp_path)  # its own card again


def test_a_teacher_is_not_saved_as_a_student(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^this model is a teacher, not a student"):
        save_student(make(None), tmp_path)
    make(None).save(tmp_path / "teacher.safetensors")
    assert load_teacher(tmp_path / "teacher.safetensors").network == SIZES


def test_students_of_the_built_in_network_are_saved_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = student_of(load_teacher(), {"name": "adaln"})
    save_student(student, tmp_path)
    assert load_student(tmp_path).sample(2, steps=1).shape == (2, 64)


# ---- what is in the way

FILES = ("model.safetensors", "config.json", "README.md")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_student_replaces_an_earlier_one(tmp_path: Path) -> None:
    student = make({"name": "adaln", "dim": 2})
    first = with_info(make({"name": "token"}), pair=(1, 2.5), text="ü|\n", none=None, deep={1: []})
    for model in (first, student, student):
        save_student(model, tmp_path)
    save_student(student, tmp_path / "new")
    assert contents(tmp_path / "new") == {name: (tmp_path / name).read_bytes() for name in FILES}
    for name in FILES:  # as after a writer that was killed
        (tmp_path / name).unlink()
        save_student(student, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", b"# Mine"),
        ("README.md", b""),
        ("README.md", b"\xff"),
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "di4c", "di4c": 1}'),
        ("config.json", b'{"di4c": {}}'),
        ("config.json", b'{"model_type": "bert"}'),
        ("config.json", b"[" * 50_000),
        ("config.json", b"\xff"),
        ("model.safetensors", b""),
        ("model.safetensors", save({"a": torch.ones(1)})),
        ("model.safetensors", save({"a": torch.ones(1)}, {"format": "pt"})),
    ],
)
@pytest.mark.parametrize("others", [True, False])
def test_what_di4c_did_not_write_is_replaced_only_when_told(
    name: str, content: bytes, others: bool, tmp_path: Path
) -> None:
    student = make({"name": "token"})
    if others:
        save_student(student, tmp_path)
    (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path}/.* is not as di4c wrote it, .*: move it,.*$"):
        save_student(student, tmp_path)
    assert contents(tmp_path) == before
    save_student(student, tmp_path, overwrite=True)
    assert set(contents(tmp_path)) == set(FILES)
    assert load_student(tmp_path).latent == student.latent


def test_an_edited_card_is_the_users(tmp_path: Path) -> None:
    student = make({"name": "token"})
    save_student(student, tmp_path)
    card = tmp_path / "README.md"
    card.write_text(card.read_text() + "\nTrained on my data.\n")
    for model in (student, make({"name": "adaln"})):
        with pytest.raises(UserError, match="README.md is not as di4c wrote it, if it did"):
            save_student(model, tmp_path)
    assert card.read_text().endswith("Trained on my data.\n")


@pytest.mark.parametrize("name", FILES)
def test_folders_and_dangling_links_are_in_the_way_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "a" / name).mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).symlink_to("nowhere")
    for folder in ("a", "b"):
        with pytest.raises(UserError, match=f"{name} is not as di4c wrote it"):
            save_student(make({"name": "token"}), tmp_path / folder)
        assert [path.name for path in (tmp_path / folder).iterdir()] == [name]


def test_a_description_that_makes_no_card_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"di4c": {"format": 1, "info": 7}}')
    save_student(make({"name": "token"}), tmp_path)
    (tmp_path / "config.json").write_text('{"di4c": {"format": 1, "latent": 1, "process": 2}}')
    save_student(make({"name": "token"}), tmp_path)
