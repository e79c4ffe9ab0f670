"""Models in the real lm-eval: likelihoods, answers, and a task of our own by its program."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import scorer
from di4c_plugin.families import new_model, student_of
from tests.algorithms import tiny
from tests.evaluation.tiny_lm import END, write_tokenizer

pytest.importorskip("lm_eval")
TemplateProcessing = pytest.importorskip("tokenizers.processors").TemplateProcessing

LETTERS = "abcde"  # with the end of text, the model's tokens but for its mask
TASK = """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/letters.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["a", "bc"]
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc}]
"""
ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/letters.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
"""
ANSWERS = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/letters.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "a"
generation_kwargs: {until: ["d"], max_gen_toks: 3}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and a student of five letters, tokenizer and tasks."""
    folder = tmp_path_factory.mktemp("lm_eval")
    torch.manual_seed(0)
    teacher = new_model(tiny.DIT, tiny.masked())
    for parameter in teacher.denoiser.parameters():  # far from uniform
        torch.nn.init.normal_(parameter, std=0.3)
    teacher.save(folder / "teacher.safetensors")
    student_of(teacher, {"name": "token"}).save(folder / "student.safetensors")
    write_tokenizer(folder, LETTERS)
    rows = [{"text": "ab", "label": 0}, {"text": "cb", "label": 1}, {"text": "a", "label": 1}]
    (folder / "letters.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for text in (TASK, ROLLING, ANSWERS):
        name = text.split()[1]
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


def model(folder: Path, name: str = "teacher", **options: Any) -> Any:
    from di4c_plugin.lm_eval import Di4CModel

    options = {"tokenizer": str(folder)} | options
    return Di4CModel(f"{folder}/{name}.safetensors", **options)


def request(*args: Any) -> Any:
    return SimpleNamespace(args=args)


def test_a_single_token_has_its_likelihood_and_is_greedy_or_not(folder: Path) -> None:
    """With one token the bound is exact: all others are given or masked."""
    lm = model(folder, masks=2)
    (tokens,) = lm.tokenizer.encode(["ab"])
    x = torch.full((1, lm.model.network.positions), lm.model.process.mask)
    x[0, :2] = tokens
    log_p = lm.model.denoiser(x, torch.tensor([0.5]).double())[0, 2]
    found = lm.loglikelihood([request("ab", letter) for letter in LETTERS])
    own = [int(lm.tokenizer.encode([letter])[0]) for letter in LETTERS]
    assert [value for value, _ in found] == pytest.approx(log_p[own].tolist(), rel=1e-4)
    assert [greedy for _, greedy in found] == [int(log_p.argmax()) == token for token in own]
    assert all(figure.error == pytest.approx(0, abs=1e-6) for figure in lm.bounds)


def test_uniform_states_have_no_bound(folder: Path) -> None:
    new_model(tiny.DIT, Uniform(tiny.TOKENS)).save(folder / "uniform.safetensors")
    with pytest.raises(
        UserError, match="^likelihood bounds are for masked diffusion, not for .*uniform"
    ):
        model(folder, "uniform").loglikelihood([request("ab", "a")])


def test_rolling_adds_windows_and_their_errors(folder: Path) -> None:
    lm = model(folder, masks=8)
    length = lm.model.network.positions
    (long,) = lm.loglikelihood_rolling([request("ab" * length)])
    assert long < 0
    assert lm.bounds[0].error > 0
    assert lm.loglikelihood_rolling([request("")]) == [0]
    assert lm.loglikelihood_rolling([request("a")]) == pytest.approx(
        [lm.loglikelihood([request("", "a")])[0][0]], rel=1e-5
    )


def test_special_tokens_around_a_text_are_not_scored(folder: Path, tmp_path: Path) -> None:
    """Tokenizers as BERT's put one before and one after each text that they are given."""
    plain = model(folder, masks=2)
    tokenizer = scorer.pretrained(str(folder)).inner
    ends = [(END, tokenizer.eos_token_id)]
    template = TemplateProcessing(single=f"{END} $A {END}", special_tokens=ends)
    tokenizer.backend_tokenizer.post_processor = template
    tokenizer.save_pretrained(tmp_path)
    wrapped = model(folder, masks=2, tokenizer=str(tmp_path))
    assert wrapped.tokenizer.encode(["a"])[0].tolist() == [5, 0, 5]
    for ask in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        asked = {
            "loglikelihood": [request("ab", "c"), request("", "de")],
            "loglikelihood_rolling": [request("abcdeab")],
            "generate_until": [request("ab", {"max_gen_toks": 2})],
        }[ask]
        assert getattr(wrapped, ask)(asked) == getattr(plain, ask)(asked)


def test_answers_stand_behind_their_prompts_and_end_where_they_should(folder: Path) -> None:
    lm = model(folder, "student", steps=2)
    asked = [request("ab", {"max_gen_toks": 2}), request("c", {"until": ["a", "b"]})]
    first, second = lm.generate_until([*asked, *asked])[:2]
    assert len(first) <= 2
    assert not {"a", "b"} & set(second)
    assert lm.generate_until(asked) == model(folder, "student", steps=2).generate_until(asked)


def test_contexts_too_long_are_cut_and_continuations_refused(folder: Path) -> None:
    lm = model(folder, masks=2)
    length = lm.model.network.positions
    ((value, _),) = lm.loglikelihood([request("ab" * length, "c")])
    assert math.isfinite(value)
    with pytest.raises(UserError, match=f"has {length + 1} tokens, and the model {length}"):
        lm.loglikelihood([request("", "a" * (length + 1))])
    assert len(lm.generate_until([request("ab" * length, {})])[0]) <= 1
    with pytest.raises(UserError, match="masks must be at least 1, not 0"):
        model(folder, masks=0)


def test_its_program_runs_tasks_on_a_student(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["lm-eval"])
    source = f"pretrained={folder}/student.safetensors,tokenizer={folder},masks=4,steps=2"
    command = ["run", "--model", "di4c", "--model_args", source, "--include_path", str(folder)]
    tasks = ["--tasks", "letters,rolling,answers", "--output_path", str(folder / "out")]
    assert main(["lm-eval", *command, *tasks]) == 0
    said = capsys.readouterr()
    assert "di4c: loglikelihood: lower bounds, 4 sets of masks each" in said.err
    (file,) = (folder / "out").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    assert 0 <= results["letters"]["acc,none"] <= 1
    assert results["rolling"]["byte_perplexity,none"] > 1
    assert 0 <= results["answers"]["exact_match,none"] <= 1
