"""Sampling inside a host: its entry points call `draw` and `draw_strides`, which report."""

import time
from typing import Any

import torch
from torch import Tensor, distributed

from di4c_plugin.announce import announce
from di4c_plugin.diffusion import time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.entropy import sample_entropy
from di4c_plugin.evaluation.shards import shard_seed
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.module import TextStudent
from di4c_plugin.programs.text.sampling import given_by
from di4c_plugin.samplers import sampler_named
from di4c_plugin.samplers.batch import draw_batch


class TextSampler(TextStudent):
    """A `TextStudent` that draws."""

    draws = 0

    @one_line
    def draw(self, count: int, steps: int, known: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return `count` samples, shape (count, D), on the module's device, and report them.

        The draws are a function of the host's seed and of the call's number, counted over all
        processes, so that two processes draw what one process draws in twice as many calls. They
        are those of `di4c evaluate` with this seed and `count` as its batch size.
        `known` are given tokens and their mask; by default those of the `sampler` group.
        """
        settings, measurement = self.plan.sampler, self.plan.measurement
        shape, steps = (count, self.positions), settings.steps or steps
        known = known or given_by(settings, self.tokenizer, shape, self.process)
        index = self.draws * world_size() + rank()
        self.draws += 1
        networks = [network.to(self.device) for network in (self.student, *self._hybrid)]

        def draw() -> Tensor:
            return draw_batch(
                sampler_named(settings.name),
                networks[0],
                shape,
                time_grid(steps, device=self.device),
                self.process,
                torch.Generator(self.device).manual_seed(shard_seed(self.seed, index)),
                given=known,
                partners={"teacher": networks[1]} if self._hybrid else None,
                options=settings.options,
            )

        begin = time.perf_counter()
        if measurement is None:
            x = draw()
        else:
            x = measurement.draw(index, count, steps, known, draw, networks).to(self.device)
        self._report(x, steps, time.perf_counter() - begin)
        return x

    def _report(self, x: Tensor, steps: int, seconds: float) -> None:
        entropy = sample_entropy(x)
        self.entropies.append(entropy)
        dtype = "bfloat16 autocast" if self.device.type == "cuda" else "float32"
        announce(
            f"{len(x)} samples of {self.positions} tokens: sampler {self.plan.sampler.name}, "
            f"{steps} steps, network {dtype}, draws float64, entropy {entropy:.3f} nat, "
            f"{seconds:.2f} s"
        )

    @one_line
    def draw_strides(
        self, count: int, stride: int, strides: int, steps: int
    ) -> tuple[int, list[list[str]], Any]:
        """Draw texts longer than D, semi-autoregressively, in windows shifted by `stride` tokens.

        Returns:
            As in the hosts: network calls, the texts after each stride, and for each text the
            number of tokens before the first end of sequence, as an array.

        Raises:
            UserError: for strides below 1 or without overlap of the windows.
        """
        if not 1 <= stride < self.positions:
            raise UserError(
                f"a stride of {stride} tokens leaves windows of {self.positions} without a common "
                f"token: 1 ... {self.positions - 1}"
            )
        parts: list[Tensor] = []
        known = None
        for _ in range(strides + 1):
            x = self.draw(count, steps, known)
            parts.append(x[:, :stride])
            known = self._shifted(x, stride)
        parts.append(x[:, stride:])
        texts = [
            self.tokenizer.batch_decode(torch.cat(parts[:i], 1)) for i in range(2, len(parts) + 1)
        ]
        if self.plan.measurement is not None:
            self.plan.measurement.join(strides + 1, torch.cat(parts, 1))
        ended = (torch.cat(parts, 1)[:, 1:] == self.tokenizer.eos_token_id).cumsum(1)
        calls = (self.plan.sampler.steps or steps) * (strides + 1)
        return calls, texts, (ended == 0).sum(1).cpu().numpy()

    def _shifted(self, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Return the last D - stride tokens of x as the first ones of the next window."""
        x_0 = x.roll(-stride, 1)
        known = torch.arange(x.shape[1], device=x.device) < x.shape[1] - stride
        return x_0, known.expand_as(x)


def rank() -> int:
    """Return this process's rank; the hosts may evaluate without a trainer that knows it."""
    return distributed.get_rank() if _several() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if _several() else 1


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
