"""Whose code runs for a language model: that of places that the user named, and it is announced."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from di4c_plugin import load_student
from di4c_plugin.api import distill
from di4c_plugin.errors import UserError
from di4c_plugin.hosts import host_for
from tests.families.hf.snapshots import foreign, load_teacher, native
from tests.hosts.test_hf import texts

TRUST: dict[str, Any] = {"name": "hf", "trust_remote_code": True}
TOKENIZER = """
from transformers import PreTrainedTokenizerFast
open({!r}, "a").close()
class Own(PreTrainedTokenizerFast):
    pass
"""


def with_code(folder: Path, path: str = "tok.Own") -> Path:
    """Give a folder's tokenizer code of its own, and return the mark that this leaves."""
    folder.mkdir(exist_ok=True)
    file, mark = folder / "tokenizer_config.json", folder / "ran"
    config = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": [None, path]}}))
    (folder / "tok.py").write_text(TOKENIZER.format(str(mark)))
    return mark


@pytest.mark.parametrize("trust", [False, True])
def test_a_models_file_names_no_tokenizer(trust: bool, tmp_path: Path) -> None:
    """It says where its teacher was, as text: nothing is opened there."""
    evil = tmp_path / "evil"
    evil.mkdir()
    native("bert", evil)
    teacher, mark = load_teacher(evil, host={"name": "hf"}), with_code(evil)
    told = {"origin": str(evil), "teacher": str(evil)}
    replace(teacher, info=teacher.info | told).save(tmp_path / "teacher.safetensors")
    model = load_teacher(tmp_path / "teacher.safetensors", host={"name": "hf"})
    assert model.info["origin"] == str(evil)
    host = host_for(model, trust_remote_code=trust)
    x = model.sample(1, steps=1)
    with pytest.raises(UserError, match="where is the tokenizer.*; the model has that of 'evil'"):
        host.texts(x)
    assert not mark.exists()
    assert host_for(model, tokenizer=str(evil)).texts(x)
    assert not mark.exists()


def test_the_code_of_a_tokenizer_runs_where_the_user_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    native("bert", tmp_path)
    mark = with_code(tmp_path)
    model = load_teacher(tmp_path, host={"name": "hf"})
    x = model.sample(1, steps=1)
    assert host_for(model).texts(x)
    assert not mark.exists()
    assert "runs code" not in capsys.readouterr().err
    assert host_for(model, trust_remote_code=True).texts(x)
    assert mark.exists()
    assert f"runs code of {tmp_path}: tok.py" in capsys.readouterr().err


def test_the_base_that_an_adapter_names_is_data(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = tmp_path / "teacher"
    base.mkdir()
    native("bert", base)
    training = {"steps": 1, "batch_size": 2, "adapter": {"r": 2}}
    teacher = load_teacher(base, host=TRUST)
    said: dict[str, Any] = {"host": TRUST | {"data": texts(tmp_path)}, "training": training}
    distill(teacher, algo={"latents": 2}, out=tmp_path / "run", progress=False, **said)
    mark = with_code(base)
    student = load_student(tmp_path / "run", host=TRUST)
    x = student.sample(1, steps=1)
    assert host_for(student, trust_remote_code=True).texts(x)
    assert not mark.exists()
    again = load_student(tmp_path / "run", host=TRUST | {"base": str(base)})
    assert host_for(again, trust_remote_code=True).texts(x)
    assert mark.exists()


@pytest.mark.parametrize("what", ["tokenizer", "network"])
def test_a_trusted_folder_names_no_further_code(what: str, tmp_path: Path) -> None:
    """As transformers would have it, `other--module.Class` runs the code of `other`."""
    folder, evil = tmp_path / "teacher", tmp_path / "evil"
    folder.mkdir()
    mark = with_code(evil)
    if what == "tokenizer":
        native("bert", folder)
        with_code(folder, f"{evil}--tok.Own")
        model = load_teacher(folder, host=TRUST)
        host_for(model, trust_remote_code=True).texts(model.sample(1, steps=1))
        assert (folder / "ran").exists()
    else:
        foreign("dreamlike", folder)
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"]["AutoModel"] = f"{evil}--tok.Own"
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"tok.Own in .*teacher does not load, .* of '.*evil'"):
            load_teacher(folder, host=TRUST)
    assert not mark.exists()
