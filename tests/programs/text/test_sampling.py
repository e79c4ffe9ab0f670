import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Fast
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.sampling import (
    SamplerSettings,
    given_by,
    prefix_ids,
    read_ids,
    sampler_settings,
)
from tests.stand_ins.text.stand_in_parts import Tokenizer

PROCESS = Absorbing(4, mask=3)
SHAPE = (5, 3)


def test_without_a_group_samples_are_drawn_by_the_ancestral_sampler() -> None:
    assert sampler_settings(None) == SamplerSettings("ancestral")


def test_what_is_no_setting_of_ours_goes_to_the_sampler() -> None:
    config = {"name": "hybrid", "steps": 4, "teacher": "x", "teacher_steps": 1, "latents": "fixed"}
    settings = sampler_settings(config)
    assert (settings.steps, settings.teacher) == (4, "x")
    assert settings.options == {"teacher_steps": 1, "latents": "fixed"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "di4d"}, "unknown sampler 'di4d'.*di4c, .*hybrid"),
        ({"name": "hybrid", "teacher_steps": 1}, "add sampler.teacher=SOURCE"),
        ({"name": "di4c", "teacher": "x"}, "'teacher'"),
        ({"name": "di4c", "speed": 3}, "'speed'"),
        ({"name": "di4c", "steps": 0}, "sampler.steps must be at least 1, not 0"),
        ({"name": "di4c", "steps": "8"}, "sampler.steps must be a whole number, not '8'"),
        ({"name": "hybrid", "teacher": 5}, "sampler.teacher must be text, not 5"),
        ({"name": "di4c", "known": [0, 1, -1]}, r"sampler.known must be text, not \[0, 1, -1\]"),
        ({"name": 3}, "sampler.name must be text, not 3"),
    ],
)
def test_mistakes_are_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
        sampler_settings(config)


def given(**settings: Any) -> Any:
    return given_by(SamplerSettings(**settings), Tokenizer(), SHAPE, PROCESS)


def test_a_prefix_is_text() -> None:
    assert given() is None
    x_0, where = given(prefix="ca")
    assert x_0[where].tolist() == [2, 0]
    assert where.tolist() == [[True, True, False]]


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("rows", [1, 5])
def test_known_tokens_come_from_a_file(tmp_path: Path, suffix: str, rows: int) -> None:
    path = tmp_path / f"known{suffix}"
    ids = [[-1, 2, -1]] * rows if rows > 1 else [-1, 2, -1]
    if suffix == ".json":
        path.write_text(json.dumps(ids))
    else:
        torch.save(torch.tensor(ids, dtype=torch.int32), path)
    x_0, where = given(known=str(path))
    assert x_0[where].tolist() == [2] * rows
    assert where.tolist() == [[False, True, False]] * rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "3 positions"),
        ("[3, -1, -1]", "3 is no token of this model"),
        ("[[0, -1, -1], [0, -1, -1]]", "5 samples take 1 or 5 rows"),
        ("[[0, 1], [0]]", "cannot read the known tokens of .*known.json"),
        ('"abc"', "cannot read the known tokens of .*known.json"),
        ("{", "cannot read the known tokens of .*known.json"),
        ("1", "whole numbers"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
        given(known=str(path))


def test_a_missing_file_and_a_prefix_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^cannot read the known tokens of [^\n]*$"):
        read_ids(tmp_path / "nothing.pt")
    with pytest.raises(UserError, match="a prefix of 3 tokens does not fit 3 positions"):
        given(prefix="abc")
    (tmp_path / "known.json").write_text("[0, -1, -1]")
    with pytest.raises(UserError, match="prefix and known exclude each other"):
        given(prefix="a", known=str(tmp_path / "known.json"))
    with pytest.raises(UserError):
        given(prefix="")


def fast(model: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Fast(model), unk_token="[UNK]")  # type: ignore[no-untyped-call]


IDS = {"a": 0, "b": 1, "[UNK]": 2, "[": 3, "ä": 4}
KNOWING: dict[str, Any] = {
    "unknown": lambda: fast(BPE(IDS, [], unk_token="[UNK]")),
    "dropped": lambda: fast(BPE(IDS, [])),
}


@pytest.mark.parametrize("kind", KNOWING)
def test_characters_that_a_tokenizer_does_not_know_are_named(kind: str) -> None:
    tokenizer = KNOWING[kind]()
    assert prefix_ids("abä", tokenizer) == [0, 1, 4]
    message = r"^sampler.prefix='aéb→é': the tokenizer does not know 'é', '→'$"
    with pytest.raises(UserError, match=message):
        prefix_ids("aéb→é", tokenizer)
    assert prefix_ids("a[UNK]b", tokenizer) == [0, 2, 1]  # asked for


@pytest.mark.parametrize("text", [3, 1.5, True, ["a"], {"a": 1}])
def test_a_prefix_that_yaml_reads_as_something_else_is_told(text: Any) -> None:
    with pytest.raises(UserError, match=r"^sampler.prefix is a text, in quotes where YAML reads "):
        given(prefix=text)


@pytest.mark.parametrize("ids", [[0.5, 1, -1], [True, False, True]])
@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_ids_are_not_rounded(ids: list[Any], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"known{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(ids))
    else:
        torch.save(torch.tensor(ids), path)
    with pytest.raises(UserError, match="token ids are whole numbers, not torch"):
        read_ids(path)
