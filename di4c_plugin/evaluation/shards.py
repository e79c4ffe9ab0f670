"""Samples drawn in shards: kept in a folder, so that a killed evaluation resumes.

Shard k holds the samples k B ... of a point, at most B, and has its own seed: the samples do not
depend on the number of processes. The first shard equals that of `di4c sample` with the same seed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from di4c_plugin.data.array_files import load_arrays
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.report import peak_rss_mb
from di4c_plugin.files import atomic_write
from di4c_plugin.samplers.checks import usable


@dataclass(frozen=True)
class Shard:
    """Samples (B, D), and their cost: wall seconds, rows through networks, peak MB."""

    tokens: Tensor
    seconds: float
    calls: float
    peak_mb: float


@dataclass(frozen=True)
class Part:
    """The samples of a shard: its number, first sample, count, and seed."""

    index: int
    start: int
    count: int
    seed: int


Draw = Callable[[Part], Shard]


def parts(n: int, batch: int, seed: int) -> list[Part]:
    """Return the shards of n samples."""
    return [
        Part(k, start, min(batch, n - start), shard_seed(seed, k))
        for k, start in enumerate(range(0, n, batch))
    ]


def shard_seed(seed: int, index: int) -> int:
    """Return the seed of a shard, in [0, 2^63): that of the point for the first one."""
    if not index:
        return seed
    digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def point_folder(folder: Path, key: Mapping[str, Any]) -> Path:
    """Return the folder of a point's shards; `key` is everything that its samples depend on."""
    text = json.dumps(key, sort_keys=True, default=str)
    return folder / hashlib.sha256(text.encode()).hexdigest()[:20]


def drawn(
    requested: Iterable[Part], draw: Draw, folder: Path | None, *, length: int, num_tokens: int
) -> list[Shard]:
    """Return the shards: read where they are kept in `folder`, else drawn, and kept there.

    Args:
        requested: the shards.
        draw: draws one.
        folder: None: they are not kept.
        length: tokens of a sample.
        num_tokens: size of the vocabulary.

    Raises:
        UserError: for a damaged file, and when the system refuses to write.
    """
    shards = []
    for part in requested:
        path = None if folder is None else folder / f"{part.index:05d}.npz"
        shard = None
        if path is not None and path.is_file():
            shard = read_shard(path, (part.count, length), num_tokens)
        if shard is None:
            shard = draw(part)
            if path is not None:
                write_shard(path, shard)
        shards.append(shard)
    return shards


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, atomically."""
    cost = np.array([shard.seconds, shard.calls, shard.peak_mb])
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, tokens=shard.tokens.numpy(), cost=cost)


def read_shard(path: Path, shape: tuple[int, int], num_tokens: int) -> Shard:
    """Read a shard of that shape (samples, tokens); raises UserError where it is damaged."""
    arrays = load_arrays(path, "", "no readable shard of samples")
    tokens, cost = arrays.get("tokens"), arrays.get("cost")
    if (
        tokens is None
        or cost is None
        or tokens.dtype != np.int64
        or tokens.shape != shape
        or not 0 <= tokens.min() <= tokens.max() < num_tokens
        or cost.dtype != np.float64
        or cost.shape != (3,)
        or not (np.isfinite(cost).all() and cost.min() >= 0)
    ):
        raise UserError(f"{path} is a damaged shard of samples: remove it")
    return Shard(torch.from_numpy(tokens), *map(float, cost))


def measured(draw: Callable[[], Tensor], networks: Iterable[nn.Module], device: str) -> Shard:
    """Draw a shard, and measure time, network calls and memory."""
    where = usable(device)
    cuda = where.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(where)
    with counted(networks) as rows:
        begin = time.perf_counter()
        tokens = draw()
        if cuda:
            torch.cuda.synchronize(where)
        seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated(where) / 1e6 if cuda else peak_rss_mb()
    return Shard(tokens, seconds, float(rows[0]), peak)


@contextmanager
def counted(networks: Iterable[nn.Module]) -> Iterator[list[int]]:
    """Yield a list with one number, which grows by the rows of each call of a network."""
    rows = [0]

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows[0] += len(output)

    with ExitStack() as stack:
        for network in networks:
            stack.callback(network.register_forward_hook(count).remove)
        yield rows


def cost(shards: list[Shard], device: str) -> dict[str, Any]:
    """Return the cost of a sample: network calls, milliseconds, tokens a second, peak memory."""
    n = sum(len(shard.tokens) for shard in shards)
    seconds = sum(shard.seconds for shard in shards)
    return {
        "network_calls": sum(shard.calls for shard in shards) / n,
        "ms_per_sample": seconds / n * 1e3,
        "tokens_per_second": n * shards[0].tokens.shape[1] / seconds,
        "peak_memory_mb": max(shard.peak_mb for shard in shards),
        "device": device,
    }
