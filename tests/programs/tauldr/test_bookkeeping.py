"""Runs of tauLDR's train.py that end before their time."""

import contextlib
import os
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.digest import digest_of
from di4c_plugin.diffusion import build_process
from di4c_plugin.errors import UserError
from di4c_plugin.programs.tauldr.bookkeeping import keep_whole
from di4c_plugin.programs.tauldr.step import Di4CStep
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_tauldr import NETS
from tests.stand_ins.images.tauldr_train import bookkeeping, started, train


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def kept_signals() -> Any:
    before = {n: signal.getsignal(n) for n in (signal.SIGCONT, signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def cfg(cfg: Any) -> Any:
    cfg.training.n_iters = 4
    return cfg


def kill_at(update: int) -> Any:
    def before(now: int) -> None:
        if now == update:
            raise Killed

    return before


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return digest_of(one) == digest_of(other)


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "every", "rounds"), [(0, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_a_killed_run_goes_on_exactly(
    cfg: Any, root: Root, tmp_path: Path, kill: int, every: int, rounds: int
) -> None:
    """Also before its first checkpoint, and within a second round."""
    cfg.loss.rounds = rounds
    place, out = root("tauldr"), tmp_path / "run"
    whole = train(cfg, place, tmp_path / "whole", resume=False, every=every)
    with pytest.raises(Killed):
        train(cfg, place, out, resume=False, every=every, before=kill_at(kill))
    assert same(train(cfg, place, out, resume=True, every=every), whole)


def test_a_method_of_two_networks_goes_on_exactly(
    cfg: Any, root: Root, tmp_path: Path, mutual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "di4c_plugin.programs.tauldr.training.method_of"
    monkeypatch.setattr(path, lambda cfg, sizes: mutual(build_process(NETS.process(sizes))))
    place, out = root("tauldr"), tmp_path / "run"
    whole = train(cfg, place, tmp_path / "whole", resume=False)
    with pytest.raises(Killed):
        train(cfg, place, out, resume=False, before=kill_at(3))
    assert same(train(cfg, place, out, resume=True), whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    cfg: Any, root: Root, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place, out = root("tauldr"), tmp_path / "run"
    whole = train(cfg, place, tmp_path / "whole", resume=False)
    with pytest.raises(Killed):
        train(cfg, place, out, resume=False, before=kill_at(3))
    older, newest = sorted((out / "checkpoints").iterdir())
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    (out / "checkpoints" / f".ckpt_0000000003.{'a' * 32}.pt").write_text("half")
    (out / "checkpoints" / ".mine.pt").write_text("the user's")
    announce_once.cache_clear()
    assert same(train(cfg, place, out, resume=True), whole)
    told = f"di4c: {newest} is damaged: going on from {older.name}, update 2\n"
    assert told in capfd.readouterr().err
    names = {file.name for file in (out / "checkpoints").iterdir()}
    assert names == {".mine.pt", "ckpt_0000000002.pt", "ckpt_0000000003.pt"}
    for file in (out / "checkpoints").glob("ckpt_*.pt"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged, and no other in .* is intact; remove this"):
        train(cfg, place, out, resume=True)


def test_a_run_that_has_ended_makes_no_update_more(
    cfg: Any, root: Root, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place, out = root("tauldr"), tmp_path / "run"
    train(cfg, place, out, resume=False)
    with pytest.raises(SystemExit) as ended:
        train(cfg, place, out, resume=True)
    assert ended.value.code == 0
    assert "di4c: the run has ended: 4 updates are done" in capfd.readouterr().err


@pytest.mark.parametrize("updates", [2, 4])
def test_what_a_run_cannot_go_on_with(cfg: Any, root: Root, tmp_path: Path, updates: int) -> None:
    """Whether it has ended or not."""
    place, out = root("tauldr"), tmp_path / "run"
    with contextlib.suppress(Killed):
        train(cfg, place, out, resume=False, before=kill_at(updates))
    teacher = torch.load(cfg.loss.teacher, weights_only=True)
    other = {k: v + 1 if k.endswith("input_conv.bias") else v for k, v in teacher["model"].items()}
    other["ema_shadow_params"] = [p + 0.5 for p in teacher["model"]["ema_shadow_params"]]
    torch.save(teacher | {"model": other}, cfg.loss.teacher)
    with pytest.raises(UserError, match="to resume distils another teacher than is in that file"):
        train(cfg, place, out, resume=True)
    torch.save(teacher, cfg.loss.teacher)
    newest = max((out / "checkpoints").iterdir())
    content = torch.load(newest, weights_only=True)
    cfg.loss.rounds = 4
    for name in ("di4c_digest", "di4c", "global_step"):  # as earlier versions wrote
        del content[name]
    torch.save(content, newest)
    with pytest.raises(UserError, match="of an earlier version, which kept no later teacher"):
        train(cfg, place, out, resume=True)
    content = torch.load(newest, weights_only=True)
    del content["model"]["net.input_conv.bias"]
    torch.save(content, newest)
    with pytest.raises(UserError, match="is not of a run with this config"):
        train(cfg, place, out, resume=True)


def broken_off(cfg: Any, place: Path, out: Path) -> None:
    with pytest.raises(Killed):
        train(cfg, place, out, resume=False, before=kill_at(2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"options": {"name": "sdtt"}}, "algo.name was di4c, and is sdtt now"),
        ({"options": {"delta": 0.1}}, "algo.delta was 0.05, and is 0.1 now"),
        ({"options": {"weights": {"distil": 0}}}, "algo.weights.distil was .*, and is 0.0 now"),
        ({"latent": {"std": 0.5}}, "latent.std was 0.1, and is 0.5 now"),
        ({"rounds": 2}, "rounds was 1, and is 2 now"),
    ],
)
def test_another_method_is_another_run(
    cfg: Any, root: Root, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    place, out = root("tauldr"), tmp_path / "run"
    broken_off(cfg, place, out)
    whole = {"options": cfg.loss.options, "latent": None, "rounds": None}
    options = change.get("options", {})
    change = change | {"options": options if "name" in options else whole["options"] | options}
    vars(cfg.loss).update(whole | change)
    before = {file: file.read_bytes() for file in (out / "checkpoints").iterdir()}
    with pytest.raises(UserError, match=f"of another method: .*{told}.*; a new folder"):
        train(cfg, place, out, resume=True)
    assert before == {file: file.read_bytes() for file in (out / "checkpoints").iterdir()}


def test_other_settings_are_told_in_one_line(
    cfg: Any, root: Root, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was left out may be said; a checkpoint of an earlier version has no settings."""
    place, out = root("tauldr"), tmp_path / "run"
    broken_off(cfg, place, out)
    cfg.loss.options |= {"stratified": True, "name": "di4c"}
    cfg.loss.latent, cfg.loss.rounds = {"std": 0.1}, 1
    cfg.loss.seed, cfg.training.n_iters = 7, 5
    cfg.data["batch_size"], cfg.optimizer.lr = 8, 2e-3
    capfd.readouterr()
    train(cfg, place, out, resume=True)
    (line,) = [row for row in capfd.readouterr().err.splitlines() if "other settings" in row]
    assert line == (
        "di4c: warning: resumed with other settings: data.batch_size was None, and is 8 now; "
        "optimizer.lr was 0.001, and is 0.002 now; seed was 0, and is 7 now; "
        "training.n_iters was 4, and is 5 now"
    )
    newest = max((out / "checkpoints").iterdir())
    content = torch.load(newest, weights_only=True)
    assert content["di4c"]["settings"]["seed"] == "7"
    del content["di4c_digest"], content["di4c"]["settings"], content["di4c"]["start"]
    torch.save(content, newest)
    cfg.loss.seed, cfg.training.n_iters, cfg.loss.options["delta"] = 8, 6, 0.1
    train(cfg, place, out, resume=True)
    assert "other settings" not in capfd.readouterr().err


def test_another_start_is_another_run(cfg: Any, root: Root, tmp_path: Path) -> None:
    place, out = root("tauldr"), tmp_path / "run"
    broken_off(cfg, place, out)
    cfg.loss.student = str(max((out / "checkpoints").iterdir()))
    with pytest.raises(UserError, match="started from another cfg.loss.student than this one"):
        train(cfg, place, out, resume=True)
    broken_off(cfg, place, tmp_path / "second")
    train(cfg, place, tmp_path / "second", resume=True)


def test_another_run_in_the_folder_is_refused(cfg: Any, root: Root, tmp_path: Path) -> None:
    place = root("tauldr")
    _, _, state = started(cfg, place)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    module = bookkeeping()
    module.setup_preemption(tmp_path / "run", tmp_path / "run/checkpoints", state, 2, True)
    # filelock lets a thread in twice; another process has another lock: training/test_lock.py.
    assert (tmp_path / "run/.di4c-run.lock").exists()
    state["model"].di4c_run.lock.close()
    assert not (tmp_path / "run/.di4c-run.lock").exists()


def test_a_signal_waits_for_the_update(cfg: Any, root: Root, tmp_path: Path) -> None:
    """The host's handler saves and exits; what it saves is no update cut in two."""
    place, out = root("tauldr"), tmp_path / "run"
    whole = train(cfg, place, tmp_path / "whole", resume=False)
    module = bookkeeping()
    held: dict[str, Any] = {}

    def handler(number: int, frame: object) -> None:
        module.save_checkpoint(out / "checkpoints", held["state"], 2)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, handler)
    own = Di4CStep._step

    def cut(step: Any, state: Any, *rest: Any) -> Any:
        held["state"] = state
        if state["n_iter"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(step, state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Di4CStep, "_step", cut)
        with pytest.raises(SystemExit):
            train(cfg, place, out, resume=False, every=100)
    (saved,) = sorted((out / "checkpoints").iterdir())[1:]
    assert saved.name == "ckpt_0000000002.pt"
    assert torch.load(saved, weights_only=True)["global_step"] == 3
    assert same(train(cfg, place, out, resume=True, every=100), whole)


def test_averages_in_the_place_of_weights_are_not_saved_as_weights(
    cfg: Any, root: Root, tmp_path: Path
) -> None:
    """A signal may come while the host draws samples with its averages."""
    module, out = bookkeeping(), tmp_path / "checkpoints"
    out.mkdir()
    model, _, state = started(cfg, root("tauldr"))
    model.shadow_params = [p + 1 for p in model.shadow_params]
    weights = {name: p.clone() for name, p in model.named_parameters()}
    model.eval()
    assert not torch.equal(model.net.input_conv.bias, weights["net.input_conv.bias"])
    module.save_checkpoint(out, state, 2)
    saved = torch.load(out / "ckpt_0000000000.pt", weights_only=True)["model"]
    assert all(torch.equal(saved[name], p) for name, p in weights.items())


def test_runs_of_the_hosts_own_stay_the_hosts() -> None:
    module: Any = ModuleType("lib.utils.bookkeeping")
    calls: list[str] = []
    for name in ("save_checkpoint", "resume_training", "setup_preemption"):
        setattr(module, name, lambda *a, name=name: calls.append(name))
    keep_whole(module)
    state = {"model": SimpleNamespace()}
    module.setup_preemption("x", "y", state, 2, True)
    module.resume_training("x", state, "cpu")
    module.save_checkpoint("x", state, 2)
    assert calls == ["setup_preemption", "resume_training", "save_checkpoint"]
