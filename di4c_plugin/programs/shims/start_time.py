"""One start time, and so one output folder, for all processes of torchrun.

The name of the hosts' output folder contains the time (`${now:%H%M%S}`). Lightning passes its
folder to the processes that it starts, but each process of torchrun reads the clock. Standard
library only at module level.
"""

import os
import time
from datetime import datetime, tzinfo
from types import ModuleType
from typing import Protocol

from di4c_plugin.programs.shims.after_import import after_import


class Store(Protocol):
    """The part of `torch.distributed.Store` that is used here."""

    def set(self, key: str, value: str) -> None:
        """Publish a value."""

    def get(self, key: str) -> bytes:
        """Wait for a value."""
        ...


def install() -> None:
    """Make Hydra use the first process's time if torchrun has a store."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        after_import("hydra.core.utils", _patch)


def agreed(store: Store, rank: int, attempt: str) -> float:
    """Return the first process's time, in seconds since the epoch, on every process."""
    key = f"di4c/start/{attempt}"
    if rank == 0:
        store.set(key, repr(time.time()))
    return float(store.get(key))


def _patch(utils: ModuleType) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    environment = os.environ
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = TCPStore(address, port, int(environment["WORLD_SIZE"]), is_master=False)
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    start = agreed(store, int(environment["RANK"]), attempt)
    utils.datetime = stopped_clock(start)  # type: ignore[attr-defined]


def stopped_clock(seconds: float) -> type[datetime]:
    """Return a `datetime` whose `now` is always `seconds` since the epoch, in local time."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Stopped":
            return cls.fromtimestamp(seconds, tz)

    return Stopped
