"""Stops on Ctrl-C and SIGTERM between two updates, where it does no harm."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal stopped training; the message says what was saved.

    Attributes:
        signum: the signal.
        checkpoint: from which the run resumes; None if it keeps no files.
    """

    def __init__(self, signum: int, update: int, checkpoint: Path | None) -> None:
        kept = f"kept {checkpoint}" if checkpoint else "nothing is kept without an output folder"
        super().__init__(f"after update {update}; {kept}")
        self.signum = signum
        self.checkpoint = checkpoint


class SignalFlag:
    """Records the first SIGINT or SIGTERM instead of dying; a second one acts as usual.

    A context manager that restores the handlers on exit, whatever Lightning installs in between.
    Python lets only the main thread handle signals; in any other thread nothing changes.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalFlag":
        self._previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        return self

    def listen(self) -> None:
        """Install the handlers."""
        if _in_main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._note)

    def __exit__(self, *error: object) -> None:
        if _in_main_thread():
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for number in SIGNALS:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
