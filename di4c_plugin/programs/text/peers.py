"""If one process of a distributed run dies, the others end with one line."""

import ctypes
import functools
import os
import signal
import sys

from lightning.pytorch import Callback, LightningModule, Trainer

SIGNS = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "nccl")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LostPeer(Callback):
    """Recognises the errors of gloo and NCCL for a dead peer."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See `children_die_with_us`; data loaders fork later."""
        if trainer.world_size > 1:
            children_die_with_us()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End this process with one line instead of the backend's traceback."""
        if trainer.world_size > 1 and is_lost_peer(exception):
            # Not `announce`: the first process may be the dead one.
            sys.stderr.write(
                f"di4c: error: process {trainer.global_rank} of {trainer.world_size} lost another "
                f"process of the run after {trainer.global_step} updates; the same command goes on "
                "from the last checkpoint\n"
            )
            raise SystemExit(1) from exception


def is_lost_peer(exception: BaseException) -> bool:
    """Return whether a collective operation failed because a process died."""
    text = str(exception).lower()
    return isinstance(exception, RuntimeError) and any(sign in text for sign in SIGNS)


@functools.cache
def children_die_with_us() -> None:
    """Make the kernel kill later forks of this process when it dies (Linux).

    A data loader's worker inherits the connections to the other processes, which stay open while it
    outlives a killed parent, for 5 s or, if it hangs, forever.
    """
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        os.register_at_fork(after_in_child=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
