"""The real hosts' own programs at tiny size on the CPU, each run in processes of its own.

`Lab` holds what the tests of a session share: text, a tiny teacher of each kind, and how to run a
host. Skips where the folder of a host is empty.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
import torch

from tests.conftest import host_named
from tests.stand_ins import stdlib_text, trace

T = TypeVar("T")
LENGTH = 16
SMALL = f"""
model.hidden_size=32 model.cond_dim=16 model.n_blocks=2 model.n_heads=2 model.length={LENGTH}
trainer.accelerator=cpu trainer.devices=1 trainer.precision=32 trainer.max_steps=4
trainer.limit_val_batches=1 trainer.num_sanity_val_steps=0 loader.global_batch_size=4
loader.pin_memory=false ~wandb optim.lr=0.01 lr_scheduler.num_warmup_steps=1
callbacks.checkpoint_every_n_steps.every_n_train_steps=2
"""
MDLM_AND_DUO = """
loader.num_workers=1 sampling.steps=4 sampling.num_sample_batches=1 trainer.val_check_interval=4
"""
SDTT = """
eval_every=4 eval.valid.n_samples=0 strategy.process_group_backend=gloo
loader.num_workers=0 loader.persistent_workers=false data_preprocess.legacy_start_end_bos=false
parameterization.start_from_hf=false
"""
REPORT = re.compile(
    r"di4c: (\d+) samples of (\d+) tokens: sampler (\w+), (\d+) steps, network float32, "
    r"draws float64, entropy ([\d.]+) nat"
)


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str
    ended: float

    @property
    def errors(self) -> list[str]:
        """What followed `di4c: error: `."""
        return re.findall(r"di4c: error: (.*)", self.err)

    @property
    def reports(self) -> list[tuple[int, str, int, float]]:
        """Count, sampler, steps and entropy of each draw that was reported."""
        found = REPORT.findall(self.err)
        return [(int(n), name, int(steps), float(nat)) for n, _, name, steps, nat in found]


def together(*calls: Callable[[], T]) -> list[T]:
    """Make calls that wait for other processes, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


class Lab:
    """What the tests of the real hosts share in a session."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository

    def host(self, name: str) -> Path:
        """The checkout of a host."""
        host, root = host_named(name), self.repository / "external" / name
        if not host.is_at(root):
            pytest.skip(f"external/{name} is empty: git submodule update --init")
        return root

    @cached_property
    def text(self) -> Path:
        """Small texts, tokenizer and judge."""
        folder = self.folder / "stdlib"
        return stdlib_text.build(folder, train=4_000, validation=2_000, held_out=1_000)

    def overrides(self, name: str) -> list[str]:
        """The command line of a tiny run of that host, without what the run is for."""
        data = [f"data.train={self.text}/text", f"data.valid={self.text}/text"]
        cache, tokenizer = self.folder / f"cache_{name}", self.text / "tokenizer"
        if name == "sdtt":
            own = [f"tokenizer.name={tokenizer}", f"data_preprocess.data_cache={cache}"]
            return [*SMALL.split(), *SDTT.split(), *data, *own]
        own = [f"data.tokenizer_name_or_path={tokenizer}", f"data.cache_dir={cache}"]
        judge = f"eval.gen_ppl_eval_model_name_or_path={self.text}/gpt2"
        return [*SMALL.split(), *MDLM_AND_DUO.split(), *data, *own, judge]

    def run(
        self,
        name: str,
        *overrides: str,
        out: Path,
        program: tuple[str, ...] | None = None,
        code: int | None = 0,
        without: tuple[str, ...] = (),
        watch: Callable[["subprocess.Popen[str]"], object] | None = None,
        **environment: str,
    ) -> Done:
        """Run the host's program; `out` is the folder that it writes to.

        Overrides of a tiny run that begin with one of `without` are left to the program. `watch` is
        called with the process, beside it.
        """
        script = host_named(name).script
        tiny = [each for each in self.overrides(name) if not each.startswith(without)]
        arguments = [*tiny, *overrides, f"hydra.run.dir={out}"]
        command = [*(program or (script_of("di4c"), "run")), script, *arguments]
        environment = environment | {"PYTHONPATH": self.paths(environment)}
        done = run(command, self.host(name), environment, watch)
        assert code is None or done.code == code, f"{done.code}: {done.err[-3000:]}"
        return done

    def run_whole_and_broken(
        self,
        name: str,
        *command: str,
        folder: Path,
        kill_at: int,
        whole: tuple[str, ...] = (),
        **environment: Any,
    ) -> Done:
        """Run in folder/whole, and in folder/broken until it is killed, and then on from there.

        Returns:
            How the whole run ended, which had the overrides `whole` too.
        """
        out, broken = folder / "whole", folder / "broken"
        kill = traced(broken, kill_at=kill_at)
        done, killed = together(
            lambda: self.run(name, *command, traced(out), *whole, out=out, **environment),
            lambda: self.run(name, *command, kill, out=broken, code=None, **environment),
        )
        assert killed.code == -9, killed.err[-2000:]
        self.run(name, *command, kill, out=broken, **environment)
        return done

    def paths(self, environment: dict[str, str]) -> str:
        """Where Python finds tests.stand_ins.trace, and what the caller asks for."""
        return os.pathsep.join([str(self.repository), environment.get("PYTHONPATH", "")])

    def stand_ins(self, *names: str | Path) -> str:
        """A PYTHONPATH for the bare host: stand-ins by name, and other folders."""
        folder = self.repository / "di4c_plugin/programs/shims/stand_ins"
        return os.pathsep.join(str(folder / name) for name in names)

    def teacher(self, kind: str) -> Path:
        """The checkpoint of a teacher: mdlm, duo_base, duo_mdlm (Duo's own), sdtt."""
        out = self.folder / f"teacher_{kind}"
        last = out / "checkpoints/last.ckpt"
        if not last.is_file():
            self.train_teacher(kind, out)
        return last

    def train_teacher(self, kind: str, out: Path) -> None:
        """Train by the host's own command; SDTT two rounds, of two updates each."""
        predictor = "sampling.predictor=ancestral_cache"
        if kind == "sdtt":
            start = f"parameterization.checkpoint_path={self.teacher('mdlm')}"
            self.run("sdtt", start, "parameterization.grow_dt_every=2", out=out)
        elif kind == "mdlm":
            self.run("mdlm", "trainer.max_steps=40", "trainer.val_check_interval=40", out=out)
        else:
            own = ["algo=duo_base"] if kind == "duo_base" else ["algo=mdlm", predictor]
            self.run("duo", *own, out=out)


def script_of(name: str) -> str:
    """The program of that name beside this Python."""
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    assert found, f"{name} is not installed"
    return found


def run(
    command: list[str],
    cwd: Path,
    environment: dict[str, str],
    watch: Callable[["subprocess.Popen[str]"], object] | None = None,
) -> Done:
    """Run a command and wait for all processes it started, which share its stderr.

    `watch` is called with the process in a thread of its own.
    """
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | fixed | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if watch is not None:
        Thread(target=watch, args=(process,), daemon=True).start()
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"hangs: {' '.join(command)}\n{process.communicate()[1][-3000:]}")
    return Done(process.returncode, out, err, time.time())


def traced(folder: Path, *, kill_at: int = -1, kill_rank: int = 0) -> str:
    """The override that records a run in a folder, and may kill one of its processes."""
    return (
        f"+callbacks.trace={{_target_: tests.stand_ins.trace.Trace, folder: {folder}/trace, "
        f"kill_at: {kill_at}, kill_rank: {kill_rank}}}"
    )


def compared(out: Path) -> str:
    """The override that compares the host's network with ours in the end; see `check_same`."""
    files = f"checkpoint: {out}/checkpoints/last.ckpt, file: {out}/same.json"
    return f"+callbacks.same={{_target_: tests.stand_ins.real_callbacks.SameFunction, {files}}}"


def check_same(out: Path) -> None:
    """Check that the two networks were one function, and that it depends on the latent."""
    found = json.loads((out / "same.json").read_text())
    assert found["difference"] < 1e-5
    assert found["of_latents"] > 0.1
    assert found.get("posterior", 0) < 1e-5


def check_continued(whole: Path, broken: Path, *, ranks: int = 1, at: int) -> None:
    """Check that a run that was killed and resumed at an update went on exactly as the whole."""
    for rank in range(ranks):
        expected, lines = trace.read(whole / "trace", rank), trace.read(broken / "trace", rank)
        (again,) = (i for i in range(1, len(lines)) if lines[i]["step"] <= lines[i - 1]["step"])
        assert all(line in expected for line in lines[:again])
        assert lines[again:] == [line for line in expected if line["step"] > at]


def check_same_state(whole: Path, broken: Path) -> tuple[Any, Any]:
    """Check that two runs ended with one state of the module; return their checkpoints."""
    one, other = (checkpoint(folder / "checkpoints/last.ckpt") for folder in (whole, broken))
    for name, value in one["state_dict"].items():
        again = other["state_dict"][name]
        same = torch.equal(value, again) if isinstance(value, torch.Tensor) else value == again
        assert same, name
    return one, other


def check_ranks(folder: Path) -> None:
    """Check that two processes saw different data and draws, and made the same updates."""
    first, second = trace.read(folder / "trace", 0), trace.read(folder / "trace", 1)
    for key in ("data", "loss"):
        assert all(a[key] != b[key] for a, b in zip(first, second, strict=True))
    assert [a["norm"] for a in first] == [b["norm"] for b in second]


def checkpoint(path: Path) -> Any:
    """A checkpoint, read without any pickled object."""
    return torch.load(path, weights_only=True)


def check_lost_peer(done: Done, folder: Path, *, killed: int, at: int) -> None:
    """Check that the process that was left ended in time, with a line that says why.

    Lightning looks after the processes it started every 5 s; our line comes first.
    """
    killed_at = (folder / f"trace/rank{killed}.jsonl").stat().st_mtime
    assert done.code != 0
    assert done.ended - killed_at < 30
    ours = f"process {1 - killed} of 2 lost another process of the run after {at} updates"
    assert [ours in line for line in done.errors] == [True]
    assert "Traceback" not in done.err
