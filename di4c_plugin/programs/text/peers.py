"""When one process of a distributed run dies, the others end with a line that says so."""

import ctypes
import functools
import os
import signal
import sys

from lightning.pytorch import Callback, LightningModule, Trainer

SIGNS = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "nccl")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LostPeer(Callback):
    """Recognises what gloo and NCCL raise when a peer is gone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See `children_die_with_us`; data loaders fork later."""
        if trainer.world_size > 1:
            children_die_with_us()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End this process with one line instead of the backend's traceback."""
        if trainer.world_size > 1 and is_lost_peer(exception):
            # Not `tell`: the first process may be the one that is gone.
            sys.stderr.write(
                f"di4c: error: process {trainer.global_rank} of {trainer.world_size} lost another "
                f"process of the run after {trainer.global_step} updates; the same command goes on "
                "from the last checkpoint\n"
            )
            raise SystemExit(1) from exception


def is_lost_peer(exception: BaseException) -> bool:
    """Whether a collective operation failed because a process is gone."""
    text = str(exception).lower()
    return isinstance(exception, RuntimeError) and any(sign in text for sign in SIGNS)


@functools.cache
def children_die_with_us() -> None:
    """Have the kernel kill what this process forks from now on when this process dies (Linux).

    A data loader's worker inherits the connections to the other processes. While it outlives a
    killed parent, by 5 s or, stuck, for ever, nobody sees that these are closed.
    """
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        os.register_at_fork(after_in_child=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
