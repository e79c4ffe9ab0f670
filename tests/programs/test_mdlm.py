"""`algo=di4c` and `sampler=…` inside the real MDLM, by its own main.py.

Losses of two processes, kills and mistakes: test_mdlm_processes.py, test_mdlm_mistakes.py.
"""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from di4c_plugin import load_student, load_teacher, save_student
from di4c_plugin.cli.main import main
from tests.stand_ins import stdlib_text, trace
from tests.stand_ins.real import (
    LENGTH,
    Done,
    Lab,
    check_continued,
    check_same,
    checkpoint,
    compared,
    together,
    traced,
)

pytestmark = [pytest.mark.host, pytest.mark.slow]

# A second round and dropout: all that a resumed run must find again.
DISTIL = ["algo=di4c", "rounds=2", "trainer.max_steps=6", "model.dropout=0.1"]


@pytest.fixture(scope="module")
def runs(lab: Lab) -> Path:
    """A folder with three runs: `whole`, `broken` (killed, then resumed), and their teacher."""
    folder, teacher = lab.folder / "mdlm", f"teacher={lab.teacher('mdlm')}"
    whole = folder / "whole"
    whole.mkdir(parents=True)
    same = (compared(whole),)
    done = lab.run_whole_and_broken("mdlm", *DISTIL, teacher, folder=folder, kill_at=5, whole=same)
    assert "di4c: round 2 of 2: the student (its EMA) is now the teacher" in done.err
    return folder


@pytest.fixture(scope="module")
def student(runs: Path) -> Path:
    return runs / "whole/checkpoints/last.ckpt"


def sample(lab: Lab, out: Path, checkpoint: Path, *overrides: str) -> Done:
    return lab.run(
        "mdlm", "mode=sample_eval", f"eval.checkpoint_path={checkpoint}", *overrides, out=out
    )


def texts(done: Done) -> list[str]:
    line = next(line for line in done.out.splitlines() if line.startswith("Text samples: "))
    found: list[str] = ast.literal_eval(line.removeprefix("Text samples: "))
    return [re.sub(r"\[(BOS|PAD|UNK)\]", "\0", text) for text in found]  # a token, a character


def test_a_killed_run_goes_on_exactly(runs: Path) -> None:
    check_continued(runs / "whole", runs / "broken", at=4)
    lines = trace.read(runs / "whole/trace")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert len({line["data"] for line in lines}) == 6


def test_our_own_network_is_the_same_function(runs: Path) -> None:
    check_same(runs / "whole")


def test_the_checkpoint_is_plain_and_python_samples_it(student: Path) -> None:
    saved = checkpoint(student)
    notes, averages = saved["di4c"], saved["ema"]["shadow_params"]
    assert notes["run"]["round"] == 1
    assert notes["latent"]["name"] == "token"
    ours = dict(load_student(student).denoiser.network.named_parameters())
    pairs = dict(zip(notes["ema_names"], averages, strict=True))
    assert all(torch.equal(ours[name], average) for name, average in pairs.items())
    assert not torch.equal(
        ours["blocks.0.mlp.0.weight"], saved["state_dict"]["backbone.blocks.0.mlp.0.weight"]
    )
    x = load_student(student).sample(3, steps=2, prefix=[5, 6], seed=1)
    assert x.shape == (3, LENGTH)
    assert (x[:, :2] == torch.tensor([5, 6])).all()
    assert int(x.max()) < 99


def test_the_hosts_script_samples_students_and_teachers(
    lab: Lab, student: Path, tmp_path: Path
) -> None:
    teacher = lab.teacher("mdlm")
    ids = [-1] * LENGTH
    ids[3:6] = [40, 41, 42]
    (tmp_path / "known.json").write_text(json.dumps(ids))
    hybrid = ["sampler=hybrid", f"sampler.teacher={teacher}", "sampler.steps=3"]
    strided = ["sampling.semi_ar=true", "sampling.stride_length=4", "sampling.num_strides=2"]
    first, again, one, product, mixed, long = together(
        lambda: sample(lab, tmp_path / "1", student, "sampler=di4c"),
        lambda: sample(lab, tmp_path / "2", student, "sampler=di4c"),
        lambda: sample(
            lab, tmp_path / "3", student, "sampler=di4c", "sampling.steps=1", "sampler.prefix='de '"
        ),
        lambda: sample(lab, tmp_path / "4", teacher, "sampler=analytic"),
        lambda: sample(
            lab, tmp_path / "5", student, *hybrid, f"sampler.known={tmp_path}/known.json"
        ),
        lambda: sample(lab, tmp_path / "6", student, "sampler=di4c", *strided),
    )
    ((count, name, steps, entropy),) = first.reports
    assert (count, name, steps) == (4, "di4c", 4)
    assert 0 < entropy < 3
    assert texts(first) == texts(again)
    assert len(set(texts(first))) == 4
    assert "Generative perplexity: tensor(" in first.out
    assert one.reports[0][1:3] == ("di4c", 1)
    assert all(text.startswith("de ") for text in texts(one))
    assert product.reports[0][1:3] == ("analytic", 4)
    assert mixed.reports[0][1:3] == ("hybrid", 3)
    assert {text[3:6] for text in texts(mixed)} == {"".join(stdlib_text.TOKENS[40:43])}
    assert [len(text) for text in texts(long)] == [LENGTH + 8] * 4
    assert [steps for _, _, steps, _ in long.reports] == [4] * 3


def test_teachers_in_every_form(lab: Lab, student: Path, tmp_path: Path) -> None:
    """Safetensors, a folder as on the hub, and a student: saved by us, and as a checkpoint."""
    teacher, hub, saved = load_teacher(lab.teacher("mdlm")), tmp_path / "hub", tmp_path / "saved"
    hub.mkdir()
    weights = {f"backbone.{k}": v for k, v in teacher.denoiser.network.state_dict().items()}
    assert "backbone.vocab_embed.embedding" in weights
    save_file(weights, hub / "model.safetensors")
    config = {"model_type": "mdlm", "vocab_size": 100, "model_length": LENGTH, "n_heads": 2}
    (hub / "config.json").write_text(json.dumps(config | {"time_conditioning": False}))
    save_student(load_student(student), saved)
    short = ["algo=di4c", "trainer.max_steps=1", "eval.generate_samples=false"]
    sources = [hub / "model.safetensors", hub, saved, student]
    together(
        *(
            lambda i=i, source=source: lab.run(
                "mdlm",
                *short,
                f"teacher={source}",
                traced(tmp_path / f"{i}"),
                out=tmp_path / f"{i}",
            )
            for i, source in enumerate(sources)
        )
    )
    losses = [trace.read(tmp_path / f"{i}/trace")[0]["loss"] for i in range(4)]
    assert losses[0] == losses[1] != losses[2] == losses[3]
    whole = trace.read(student.parents[1] / "trace")[0]
    assert whole["data"] == trace.read(tmp_path / "0/trace")[0]["data"]


def test_a_short_run_by_its_experiment(lab: Lab, tmp_path: Path) -> None:
    """`+experiment=text_short`: the README's line, on a tiny teacher."""
    command = ["+experiment=text_short", f"teacher={lab.teacher('mdlm')}", "trainer.max_steps=4"]
    own = ("lr_scheduler.", "optim.", "loader.global_batch_size")
    lab.run("mdlm", *command, traced(tmp_path), out=tmp_path, without=own)
    assert [line["step"] for line in trace.read(tmp_path / "trace")] == [1, 2, 3, 4]
    student = load_student(tmp_path / "checkpoints/last.ckpt")
    assert student.latent is not None
    assert student.latent["name"] == "mask_noise"


def test_a_short_run_without_the_program(lab: Lab, tmp_path: Path) -> None:
    """`experiment=mdlm_short`, samples and figures: the README's first lines, on a tiny teacher."""
    teacher, tokenizer = lab.teacher("mdlm"), lab.text / "tokenizer"
    data = [f"host.data={lab.text}/text/train/train.txt", f"host.tokenizer={tokenizer}"]
    given = [f"teacher={teacher}", *data, f"out={tmp_path}/student", "training.steps=2"]
    assert main(["train", "experiment=mdlm_short", *given]) == 0
    student = f"{tmp_path}/student/student.safetensors"
    drawn = ["--host-option", f"tokenizer={tokenizer}", "--n", "3", "--out", f"{tmp_path}/x.jsonl"]
    assert main(["sample", student, "--steps", "2", *drawn]) == 0
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 3
    scored = ["--scorer", f"{lab.text}/gpt2", "--tokenizer", str(tokenizer), "--samples", "4"]
    shown = ["--temperatures", ".9,1", "--steps", "2", "--plot", f"{tmp_path}/frontier.png"]
    models = ["evaluate", str(teacher), student, "--metric", "gen_ppl,entropy"]
    assert main([*models, *scored, *shown]) == 0
    assert (tmp_path / "frontier.png").stat().st_size > 0


def test_without_di4c_run(lab: Lab, tmp_path: Path) -> None:
    """The bare command, where the host's own packages can be imported."""
    found = lab.stand_ins("flash_attn", "causal_conv1d", "mamba_ssm", "timm")
    done = lab.run(
        "mdlm",
        *("algo=di4c", f"teacher={lab.teacher('mdlm')}", "trainer.max_steps=2"),
        out=tmp_path / "out",
        program=(sys.executable,),
        PYTHONPATH=found,
    )
    assert "di4c: no GPU: the data loaders divide the batch by trainer.devices" in done.err
    assert checkpoint(tmp_path / "out/checkpoints/last.ckpt")["di4c"]["run"]["micro_step"] == 2


def test_every_path_of_the_loss_makes_the_same_updates(lab: Lab, tmp_path: Path) -> None:
    """Also where the latent enters the last block only; the host's networks hold TorchScript."""
    common = ["algo=di4c", f"teacher={lab.teacher('mdlm')}", "trainer.max_steps=3"]
    common += ["model.dropout=0", "latent=adaln", "latent.blocks=1"]
    found = {}
    for loss in ("naive", "chunked", "two_pass"):
        out = tmp_path / loss
        lab.run("mdlm", *common, f"algo.loss={loss}", traced(out), out=out)
        found[loss] = trace.read(out / "trace")
    for loss in ("chunked", "two_pass"):
        for key in ("loss", "norm"):
            lines = [[line[key] for line in found[name]] for name in ("naive", loss)]
            assert lines[0] == pytest.approx(lines[1], rel=1e-3), (loss, key)
