"""Progress of what takes long in an evaluation: drawing samples and scoring them."""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from di4c_plugin.announce import announce, is_first_process, on_terminal
from di4c_plugin.errors import printable

T = TypeVar("T")

EVERY = 60.0  # seconds from one line to the next where no bar can be drawn


def tracked(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield the items; show how many are done, and of a `Sized` about how long the others take.

    On a terminal by a bar that goes when all is done, elsewhere by a line a minute: short
    evaluations print none. Only the first process shows it, and none does under `--quiet`.
    """
    if on_terminal() and is_first_process():
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import track

        shown = escape(printable(what))
        yield from track(items, shown, console=Console(stderr=True), transient=True)
        return
    begin = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - told >= EVERY:
            line = f"{what}: {done}"
            if isinstance(items, Sized):
                left = (now - begin) / done * (len(items) - done)
                line += f" of {len(items)}, about {left:.0f} s left"
            announce(line)
            told = now
        yield item
