"""Shows the progress of a run: a bar on a terminal, else an occasional line."""

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from di4c_plugin.announce import is_quiet

SECONDS = 10.0


class ShowProgress(Callback):
    """Prints updates done, the latest loss terms (nats per example) and the time left, on stderr.

    Without a terminal it prints at most one line every `seconds`, and one for the last update.
    The text `what`, unless empty, replaces the loss terms.
    """

    def __init__(
        self, console: Console | None = None, seconds: float = SECONDS, what: str = ""
    ) -> None:
        self.console = console or Console(stderr=True, quiet=is_quiet())
        self.seconds, self.what = seconds, what
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and the bar."""
        self.first, self.start = trainer.global_step, time.monotonic()
        self.printed = self.start
        if self.console.is_terminal and trainer.is_global_zero:
            self.bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self.console,
            )
            self.bar.add_task("", total=trainer.max_steps, completed=self.first)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the progress; Lightning calls this after every micro-step."""
        done, text = trainer.global_step, self.what or show_terms(pl_module.latest)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, description=text)
        elif trainer.is_global_zero and self._is_due(trainer):
            self.printed = time.monotonic()
            left = (self.printed - self.start) / (done - self.first) * (trainer.max_steps - done)
            line = f"update {done}/{trainer.max_steps}  {text}  {left:.0f} s left"
            if self.what:
                line = f"{text}: {done} of {trainer.max_steps} updates, about {left:.0f} s left"
            self.console.print(line, highlight=False, soft_wrap=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the terminal; Lightning calls this after errors too."""
        if self.bar is not None:
            self.bar.stop()

    def _is_due(self, trainer: Trainer) -> bool:
        done, waited = trainer.global_step, time.monotonic() - self.printed
        return done > self.first and (done == trainer.max_steps or waited >= self.seconds)


def show_terms(terms: Mapping[str, float]) -> str:
    """Return "name value" for each term."""
    return "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
