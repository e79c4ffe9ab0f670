"""What becomes of a file that is read: a model, one line, or what must never be."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from di4c_plugin.errors import UserError

# Of the processor, as other tests share it; of the clock, where nothing is computed.
SECONDS, WAIT, MEGABYTES = 5, 60, 500


class Hang(BaseException):
    """It took too long."""


def _hang(*_: object) -> None:
    raise Hang


def peak() -> float:
    """The most memory that this process has had since `forget_peak`, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def limited() -> Iterator[None]:
    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {name: signal.signal(name, _hang) for name in timers}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        for name, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(name, before[name])


class Tally:
    """Counts outcomes, and keeps what must never be."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def read(self, what: object, read: Callable[[], Any], size: int = 0, named: str = "") -> str:
        """Count what becomes of `read()` on a file of `size` bytes that messages must name."""
        forget_peak()
        start, room = peak(), MEGABYTES + size / 2**20
        began = time.monotonic()
        try:
            with limited():
                read()
            outcome = "read"
        except UserError as error:
            outcome, text = "refused", str(error)
            if not (text.isprintable() and len(text) < 1000 and named in text):
                outcome = f"an ill message: {text[:300]!r}"
        except Hang:
            outcome = "a hang"
        except BaseException as error:
            outcome = f"a trace: {type(error).__name__}: {str(error)[:200]}"
        if peak() - start > room:
            outcome = f"{peak() - start:.0f} MB in {time.monotonic() - began:.1f} s"
        self.counts[outcome if outcome in ("read", "refused") else "fault"] += 1
        if outcome not in ("read", "refused"):
            self.faults.append(f"{what}: {outcome}")
        return outcome

    def check(self, least: int) -> None:
        sys.stdout.write(f"{dict(self.counts)}\n")  # shown by -s
        assert not self.faults, "\n".join(self.faults[:20])
        assert self.counts.total() >= least
