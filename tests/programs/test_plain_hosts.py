"""The real hosts with their own methods through `di4c run`: two processes, then evaluation."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.stand_ins import stdlib_text

pytestmark = [pytest.mark.host, pytest.mark.slow]

SMALL = """
model.hidden_size=32 model.cond_dim=16 model.n_blocks=2 model.n_heads=2 model.length=16
trainer.accelerator=cpu trainer.precision=32 trainer.max_steps=4 trainer.limit_val_batches=1
loader.global_batch_size=4 loader.pin_memory=false ~wandb
callbacks.checkpoint_every_n_steps.every_n_train_steps=4
"""
MDLM_AND_DUO = """
loader.num_workers=1 sampling.steps=4 sampling.num_sample_batches=1 trainer.val_check_interval=2
"""
SDTT = """
eval_every=2 eval.valid.n_samples=0 strategy.process_group_backend=gloo loader.num_workers=0
loader.persistent_workers=false data_preprocess.legacy_start_end_bos=false
parameterization.start_from_hf=false
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stdlib")
    stdlib_text.build(folder, train=4_000, validation=2_000, held_out=1_000)
    return folder


def overrides(host: str, text: Path) -> list[str]:
    data = [f"data.train={text}/text", f"data.valid={text}/text"]
    if host == "sdtt":
        cache = f"data_preprocess.data_cache={text}/cache"
        return [*SMALL.split(), *SDTT.split(), *data, f"tokenizer.name={text}/tokenizer", cache]
    tokenizer = f"data.tokenizer_name_or_path={text}/tokenizer"
    gpt2 = f"eval.gen_ppl_eval_model_name_or_path={text}/gpt2"
    return [
        *SMALL.split(),
        *MDLM_AND_DUO.split(),
        *data,
        tokenizer,
        gpt2,
        f"data.cache_dir={text}/cache",
    ]


def run(
    cwd: Path, script: str, arguments: Sequence[str], torchrun: bool = False
) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "di4c_plugin.programs.launch"]
    if torchrun:
        several = ["--standalone", "--nproc-per-node=2", "--no-python"]
        program = [sys.executable, "-m", "torch.distributed.run", *several, *program]
    done = subprocess.run(
        [*program, script, *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def spoken(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What di4c told, apart from the packages that this machine happens to lack."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("di4c: ")]
    return [line.partition(": stand-ins")[0].partition(" (")[0] for line in lines]


@pytest.mark.parametrize("host_checkout", ["mdlm"], indirect=True)
def test_mdlm_in_two_processes_of_lightning(
    host_checkout: Path, text: Path, tmp_path: Path
) -> None:
    common = overrides("mdlm", text)
    out = tmp_path / "out"
    done = run(host_checkout, "main.py", [*common, "trainer.devices=2", f"hydra.run.dir={out}"])
    assert "MEMBER: 2/2" in done.stderr
    assert spoken(done)[0].startswith("di4c: mdlm at c112c52")
    assert len(spoken(done)) == len(set(spoken(done)))
    evaluate = ["mode=sample_eval", "trainer.devices=1", f"hydra.run.dir={tmp_path}/samples"]
    checkpoint = f"eval.checkpoint_path={out}/checkpoints/last.ckpt"
    done = run(host_checkout, "main.py", [*common, *evaluate, checkpoint])
    assert "Generative perplexity: tensor(" in done.stdout
    assert sum("holds objects that torch refuses" in line for line in spoken(done)) == 1


@pytest.mark.parametrize("host_checkout", ["duo"], indirect=True)
def test_duo_in_two_processes_of_torchrun(host_checkout: Path, text: Path, tmp_path: Path) -> None:
    common = [*overrides("duo", text), "algo=duo_base"]
    folder = "hydra.run.dir=${now:%f}"  # microseconds: one folder only if all have one clock
    script = str(host_checkout / "main.py")
    run(tmp_path, script, [*common, "trainer.devices=2", folder], torchrun=True)
    (out,) = tmp_path.iterdir()
    evaluate = ["mode=sample_eval", "trainer.devices=1", "hydra.run.dir=samples"]
    checkpoint = f"eval.checkpoint_path={out}/checkpoints/last.ckpt"
    run(tmp_path, script, [*common, *evaluate, checkpoint])
    samples = json.loads((tmp_path / "samples/samples.json").read_text())
    assert len(samples["generated_seqs"]) == 4
    assert samples["entropy"] > 0


@pytest.mark.parametrize("host_checkout", ["sdtt"], indirect=True)
def test_sdtt_from_an_mdlm_checkpoint(
    host_checkout: Path, repository: Path, text: Path, tmp_path: Path
) -> None:
    mdlm = repository / "external/mdlm"
    if not (mdlm / "main.py").is_file():
        pytest.skip("external/mdlm is empty: git submodule update --init")
    out = tmp_path / "teacher"
    run(mdlm, "main.py", [*overrides("mdlm", text), "trainer.devices=1", f"hydra.run.dir={out}"])
    common = [*overrides("sdtt", text), f"hydra.run.dir={tmp_path}/sdtt"]
    common.append(f"parameterization.checkpoint_path={out}/checkpoints/last.ckpt")
    # One worker, started by a fork server: it must find the stand-ins too.
    workers = ["loader.num_workers=1", "trainer.devices=2"]
    done = run(host_checkout, "src/sdtt/main.py", [*common, *workers])
    assert "MEMBER: 2/2" in done.stderr
    uncond = {"run": "true", "num_samples": 4, "batch_size": 2, "num_steps": 4, "seq_len": 16}
    sampling = [f"parameterization.sampling.uncond.{k}={v}" for k, v in uncond.items()]
    resume = f"checkpointing.resume_ckpt_path={tmp_path}/sdtt/checkpoints/last.ckpt"
    run(host_checkout, "src/sdtt/main.py", [*common, "mode=sample", resume, *sampling])
    (samples,) = (tmp_path / "sdtt/samples").rglob("*.npz")
    assert np.load(samples, allow_pickle=True)["samples"].shape == (4, 16)
    judge = f"eval.ppl_with_ar.model={text}/gpt2"
    run(host_checkout, "src/sdtt/main.py", [*common, "mode=eval", judge])
    (table,) = (tmp_path / "sdtt/csvs").rglob("*.csv")
    with table.open() as file:
        assert [float(row["ar_ppl"]) > 1 for row in csv.DictReader(file)] == [True]
