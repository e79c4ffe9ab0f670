import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.interrupt import Interrupted, SignalFlag
from di4c_plugin.training.run import train
from tests.training import toy

CONFIG = TrainingConfig(steps=9, batch_size=3, accumulate=2, log_every=2, checkpoint_every=100)


class Signalled(toy.Distil):
    """Gets `signum` in the first half of update 4."""

    signum = signal.SIGINT

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        if len(self.totals) == 8:
            os.kill(os.getpid(), self.signum)
        return super().losses(batch, networks, update)


class Terminated(Signalled):
    signum = signal.SIGTERM


def run(out: Path | None, algorithm: type[toy.Distil], **options: Any) -> toy.Distil:
    student = toy.student()
    method = algorithm(student.process)
    train(method, student, toy.teacher(), toy.data(), CONFIG, out, progress=False, **options)
    return method


@pytest.mark.parametrize("algorithm", [Signalled, Terminated])
def test_a_signal_ends_the_run_after_the_update_and_loses_nothing(
    tmp_path: Path, algorithm: type[Signalled]
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "broken", algorithm)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    kept = tmp_path / "broken" / "last.ckpt"
    assert str(stopped.value) == f"after update 5; kept {kept}"
    assert stopped.value.signum == algorithm.signum
    assert torch.load(kept, weights_only=True)["global_step"] == 5
    assert not (tmp_path / "broken" / "student.safetensors").exists()

    run(tmp_path / "broken", toy.Distil, resume=True)
    run(tmp_path / "whole", toy.Distil)
    assert toy.rows(tmp_path / "broken") == toy.rows(tmp_path / "whole")


def test_without_a_folder_the_message_says_that_nothing_is_kept() -> None:
    with pytest.raises(Interrupted, match="after update 5; nothing is kept"):
        run(None, Signalled)


def test_the_second_signal_acts_at_once() -> None:
    with SignalFlag() as flag:
        flag.listen()
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)

    def listen() -> None:
        with SignalFlag() as flag:
            flag.listen()

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
