"""The host hf end to end: texts of a file, prompts, samplers, and what goes wrong."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from di4c_plugin import api, distill, load_student, save_student
from di4c_plugin.algorithms.base import Data
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.errors import UserError
from di4c_plugin.hosts import host_for
from di4c_plugin.training.interrupt import Interrupted
from tests.families.hf.snapshots import foreign, load_teacher, native

ROWS = [
    {"prompt": "ab", "response": "cdef"},
    {"text": "hello there."},
    {"prompt": "what", "response": "no"},
    {"text": "once upon a time there was"},
]


def texts(folder: Path) -> str:
    file = folder / "texts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    return str(file)


def test_texts_are_read_by_the_teachers_tokenizer(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    host = host_for(teacher, data=texts(tmp_path))
    data = host.data()
    assert data.lengths is not None
    assert data.lengths.tolist() == [7, 13, 7, 24]
    assert data.x_0[0].tolist() == [5, 6, 7, 8, 9, 10, 3] + [0] * 17
    assert data.given is not None
    assert (~data.given[0]).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


def test_tokens_that_are_never_predicted_are_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their log-probability is minus a million: one of them would be all of a loss."""
    native("bert", tmp_path)
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text": "ab!c"}))  # "!" is unknown
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    data = host_for(teacher, data=str(file)).data()
    assert data.x_0[0].tolist() == [5, 6, 1, 7, 3]
    assert data.given is not None
    assert data.given[0].tolist() == [False, False, True, False, False]
    assert "1 tokens of the data are never predicted" in capsys.readouterr().err
    with pytest.raises(UserError, match="hold 1, which the model never predicts"):
        distill(teacher, Data(data.x_0), training={"steps": 1}, progress=False)
    free = load_teacher(tmp_path, host={"name": "hf", "barred": [2]})
    assert free.process.barred == (0, 2, *range(33, 40))
    assert host_for(free, data=str(file)).data().given is None


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        text = (tmp_path / name).read_text()
        (other / name).write_text(text.replace('"z": 30', '"é": 30'))
    with pytest.raises(UserError, match="stand for other tokens"):
        host_for(teacher, data=texts(tmp_path), tokenizer=str(other)).data()


def test_without_a_tokenizer_one_line_says_so(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="no tokenizer in") as caught:
        host_for(teacher, data=texts(tmp_path)).data()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["modernbert", "dreamlike", "lladalike"])
@pytest.mark.parametrize("latent", ["token", "mask_noise"])
def test_prompts_of_several_lengths_are_distilled_and_sampled(
    kind: str, latent: str, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    (native if kind == "modernbert" else foreign)(kind, folder)
    options: dict[str, Any] = {"trust_remote_code": True, "dtype": "float64"}
    teacher = load_teacher(folder, host={"name": "hf"} | options)
    student: Any = distill(
        teacher,
        host={"name": "hf", "data": texts(tmp_path)} | options,
        latent={"name": latent},
        algo={"latents": 2, "prior_share": 0.3},
        training={"steps": 4, "batch_size": 3},
        progress=False,
    )
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    both = student.sample(
        3, sampler="blocks", prompts=prompts, new_tokens=6, steps=2, block=3, threshold=0.5
    )
    assert both.shape == (3, 12)
    for row, prompt in zip(both, prompts, strict=True):
        assert row[: len(prompt)].tolist() == prompt
        assert (row[len(prompt) + 6 :] == student.network.pad).all()
        drawn = row[len(prompt) : len(prompt) + 6].tolist()
        assert set(drawn) <= {3, *range(5, 33)} - {student.network.mask}
    options = {"sampler": "blocks", "new_tokens": 6, "steps": 2, "block": 3, "batch_size": 3}
    alone = student.sample(1, prompts=prompts[:1], **options)
    assert (
        both[0, :9].tolist()
        == student.sample(1, prompts=prompts[:1], threshold=0.5, **options)[0].tolist()
    )
    split = [student.sample(3, prompts=prompts, **options | {"batch_size": b}) for b in (1, 2, 3)]
    assert split[0].tolist() == split[1].tolist() == split[2].tolist()
    assert split[0][0, :9].tolist() == alone[0].tolist()


@pytest.mark.parametrize("sampler", ["ancestral", "maskgit", "halton"])
def test_other_samplers_keep_prompts_and_padding(sampler: str, tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    if sampler == "halton":
        options: dict[str, Any] = {"grid": (1, 8)}
    else:
        options = {}
    x = api.sample(
        teacher, 2, sampler=sampler, prompts=[[5, 6, 7], [8]], new_tokens=5, steps=3, **options
    )
    assert x[0, :3].tolist() == [5, 6, 7]
    assert x[1, 0] == 8
    assert (x[1, 6:] == 0).all()


def test_maskgit_opens_as_many_tokens_for_a_row_as_alone(tmp_path: Path) -> None:
    """To the rounding of shares of another length; prompts and padding are no masks."""
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})

    def counts(prompts: list[list[int]]) -> Tensor:
        seen: list[Tensor] = []
        options: dict[str, Any] = {"sampler": "maskgit", "new_tokens": 9, "steps": 4}
        options["on_step"] = lambda step: seen.append((step.x[0] == 4).sum())
        api.sample(teacher, len(prompts), prompts=prompts, **options)
        return torch.stack(seen)

    alone, beside = counts([[5]]), counts([[5], [5, 6, 7, 8, 9, 10]])
    assert alone.tolist() == [7, 4, 2, 0]
    assert (alone - beside).abs().max() <= 1


def test_prompts_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from di4c_plugin.cli.main import main

    folder = tmp_path / "teacher"
    folder.mkdir()
    native("bert", folder)
    command = ["sample", str(folder), "--host", "hf", "--sampler", "blocks", "--steps", "2"]
    options = ["--option", "block=3", "--option", "eos=null", "--new-tokens", "6"]
    assert main([*command, "--prompt", "abc", *options]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("abc")
    assert "1.50 tokens per forward pass" in told.err
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("hello\nabc\n")
    assert main([*command, "--prompts", str(prompts), *options, "--out", str(out)]) == 0
    found = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert [text[:3] for text in found] == ["hel", "abc"]
    capsys.readouterr()
    for wrong, message in (
        (["--new-tokens", "3"], "--new-tokens goes with"),
        ([], "samples of host 'hf' are texts, no pictures: name a file that ends in .txt, "),
        (["--prompts", str(prompts), "--n", "5"], "has 2 prompts: leave out --n"),
        (["--prompts", str(tmp_path / "none.txt")], "cannot be read"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["sample", "builtin:digits", "--prompt", "a"]) == 2
    assert "are no texts" in capsys.readouterr().err


def test_a_text_ends_at_the_tokenizers_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `blocks` fills behind it is not counted as drawn: here one token, in one call or two."""
    from safetensors.torch import load_file, save_file

    from di4c_plugin.cli.main import main

    native("bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.bias"][3] = 50.0
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    command = ["sample", str(tmp_path), "--host", "hf", "--sampler", "blocks", "--steps", "2"]
    command += ["--prompt", "abc", "--new-tokens", "6", "--option", "block=3"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert told.out == "abc\n"
    assert any(f"{rate} tokens per forward pass" in told.err for rate in ("0.50", "1.00"))
    assert main([*command, "--option", "eos=null"]) == 0
    assert "1.50 tokens per forward pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": [[5], [6], [7]]}, "2 samples take 1 or 2 prompts, not 3"),
        ({"prompts": [[5] * 24]}, "do not fit 24 positions"),
        ({"prompts": [[5]], "new_tokens": 30}, "do not fit 24 positions"),
        ({"prompts": [[5]], "new_tokens": 0}, "do not fit 24 positions"),
        ({"prompts": [[99]]}, "99 is no token"),
        ({"prompts": [[4]]}, "4 is no token"),
        ({"prompts": [["a"]]}, "must be a whole number"),
        ({"prompts": [[[5], [6]]]}, "must be a whole number"),
        ({"prompts": [[5]], "prefix": [5]}, "exclude each other"),
        ({"new_tokens": 3}, "goes with prompts"),
    ],
)
def test_mistakes_of_prompts_end_in_one_line(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    with pytest.raises(UserError, match=message):
        api.sample(teacher, 2, **options)


def test_a_student_says_its_host_and_no_place(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    student = distill(
        teacher,
        host={"name": "hf", "data": texts(tmp_path)},
        training={"steps": 1, "batch_size": 2},
        algo={"latents": 2},
        progress=False,
    )
    save_student(student, tmp_path / "student")
    again = load_student(tmp_path / "student")
    assert again.info["host"]["name"] == "hf"
    assert again.info["vocabulary"] == teacher.info["vocabulary"]
    text = (tmp_path / "student" / "config.json").read_text()
    assert str(tmp_path) not in text


@pytest.mark.parametrize("kind", ["lladalike", "dreamlike", "modernbert"])
def test_a_killed_run_goes_on_bit_for_bit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    (native if kind == "modernbert" else foreign)(kind, folder)
    host = {"name": "hf", "trust_remote_code": True, "data": texts(tmp_path)}
    options: dict[str, Any] = {
        "host": host,
        "algo": {"latents": 2},
        "training": {"steps": 5, "batch_size": 3},
        "progress": False,
    }

    def run(out: str, **more: Any) -> Any:
        teacher = load_teacher(folder, host={"name": "hf", "trust_remote_code": True})
        return distill(teacher, out=tmp_path / out, **options, **more)

    whole = run("whole")
    losses, calls = Di4C.losses, []

    def killed(self: Di4C, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, *args)

    monkeypatch.setattr(Di4C, "losses", killed)
    with pytest.raises(Interrupted):
        run("broken")
    monkeypatch.undo()
    resumed = run("broken", resume=True)
    state = whole.denoiser.state_dict()
    for name, value in resumed.denoiser.state_dict().items():
        assert torch.equal(value, state[name]), name
