"""The folder of a run: one run to a folder, resumed only as what it was.

It holds config.yaml, last.ckpt, logs/ and, in the end, the model.
Tests: tests/training/test_folder.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write

# What may differ between a run and its continuation: these change no update.
FREE = {f"training.{name}" for name in ("checkpoint_every", "log_every", "logger")}


@dataclass(frozen=True)
class RunFolder:
    """Where a run leaves its files; `description` holds the plain values that define the run."""

    path: Path
    description: Mapping[str, Any]

    @property
    def config(self) -> Path:
        """The description; its presence marks a run's folder."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """The state from which the run resumes."""
        return self.path / "last.ckpt"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Look whether the run may have the folder, and change nothing.

        Raises:
            UserError: if the folder holds another run and neither is asked for, or if what is to be
                resumed is missing, damaged or another run.
        """
        if resume and overwrite:
            raise UserError("resume and overwrite exclude each other")
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is not a folder")
        if resume:
            self._check_same()
        elif self.config.exists() and not overwrite:
            raise UserError(
                f"{self.path} holds another run; choose another folder, resume it or overwrite it"
            )

    def claim(self, *, resume: bool) -> None:
        """Remove what an earlier run left here, unless it is resumed, and write the description."""
        if not resume:
            for leftover in (self.checkpoint, *self.path.glob("*.safetensors")):
                leftover.unlink(missing_ok=True)
        with atomic_write(self.config) as temporary:
            OmegaConf.save(OmegaConf.create(dict(self.description)), temporary)

    def release(self) -> None:
        """Give the folder up after a failure, unless there is something to resume from."""
        if not self.checkpoint.exists():
            self.config.unlink(missing_ok=True)

    def _check_same(self) -> None:
        if not self.checkpoint.is_file() or not self.config.is_file():
            raise UserError(f"nothing to resume: there is no {self.checkpoint}")
        then, now = (
            flat(OmegaConf.load(self.config)),
            flat(OmegaConf.create(dict(self.description))),
        )
        for name in sorted((then.keys() | now.keys()) - FREE):
            old, new = then.get(name), now.get(name)
            if old != new:
                raise UserError(
                    f"{self.path} is another run: {name} was {old!r}, and is {new!r} now"
                )
        try:
            # Plain tensors and values only: loading runs no code.
            torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"{self.checkpoint} is damaged; start again with overwrite") from error


def flat(config: Any) -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name."""

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from leaves(inner, f"{name}.{key}" if name else str(key))
        else:
            yield name, value

    return dict(leaves(OmegaConf.to_container(config), ""))
