r"""Grids of hosts: the grid of `time_grid`, changed to the times of a host's sampler.

Each is `(times, positions, process, *, option) -> times`, (steps + 1,), decreasing.

MaskGIT's hosts have three rules for the number of open tokens after step i = 0 ... n-1 of n, with D
positions and \gamma = 1 - \alpha, the masked share:
  schedule    D (1 - \gamma((n-1-i)/n)): Halton-MaskGIT's HaltonSampler, Chang et al. 2022
  shifted     D (1 - \gamma(1 - i/(n-1))), the first step opens one: its ConfidenceSampler
  increments  step i itself opens D \gamma(i/(n-1)) / sum, the first one: Maskgit-pytorch v1; the
              official Di4C's copy of it counts as "schedule"
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process, Schedule
from di4c_plugin.diffusion.absorbing import masked_diffusion
from di4c_plugin.diffusion.schedule import time_of_share
from di4c_plugin.errors import UserError

SAMPLER = "this sampler is"


def ending_at(times: Tensor, positions: int, process: Process, *, min_time: float = 0.0) -> Tensor:
    """Return the grid that ends at 0 with its last step starting at `min_time`.

    The other times are rescaled: an even grid of n steps becomes the n even times 1 ... min_time
    and 0, as in tauLDR (one step starts at 1). With min_time = 0 the grid is unchanged.

    Raises:
        UserError: if `min_time` is not in [0, times[0]), or the grid does not end at 0.
    """
    if min_time == 0:
        return times
    first, last = times[0], times[-2]
    if not 0 <= min_time < first or times[-1] != 0:
        raise UserError(
            f"min_time must be in [0, 1), of a grid that ends at 0, not {min_time} of a grid from "
            f"{first:g} to {times[-1]:g}"
        )
    if len(times) == 2:
        return times
    share = (times[:-1] - last) / (first - last)
    return torch.cat([min_time + (first - min_time) * share, times[-1:]])


def counting(
    times: Tensor, positions: int, process: Process, *, counts: str = "schedule"
) -> Tensor:
    """Return the times at which the schedule has the counts of open tokens that `counts` names.

    Raises:
        UserError: for unknown counts, for another process than masked diffusion, and for counts
            other than "schedule" if `times` is not from 1 to 0.
    """
    schedule = masked_diffusion(process, SAMPLER).schedule
    if counts == "schedule":
        return times
    if counts not in COUNTS:
        raise UserError(f"unknown counts {counts!r}; there are schedule, {', '.join(COUNTS)}")
    if times[0] != 1 or times[-1] != 0:
        raise UserError(f"counts={counts} is for grids from 1 to 0")
    opened = COUNTS[counts](len(times) - 1, positions, schedule)
    share = 1 - torch.tensor(opened[:-1], dtype=torch.float64) / positions
    return torch.cat([times[:1], time_of_share(schedule, share).to(times), times[-1:]])


def shifted(steps: int, positions: int, schedule: Schedule) -> list[int]:
    """Return the number of open tokens after each step of Halton-MaskGIT's ConfidenceSampler."""
    t = torch.linspace(1, 0, steps, dtype=torch.float64)
    share = (positions * schedule.alpha(t)).int().tolist()
    opened = [min(max(count, index + 1), positions) for index, count in enumerate(share)]
    return [*opened[:-1], positions]


def increments(steps: int, positions: int, schedule: Schedule) -> list[int]:
    """Return the number of open tokens after each step of Maskgit-pytorch v1's sampler."""
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    share = 1 - schedule.alpha(t)
    counts = (positions * share / share.sum().clamp(min=1e-12)).round().clamp(min=1)
    return [*counts.cumsum(0).clamp(max=positions).int().tolist()[:-1], positions]


COUNTS = {"shifted": shifted, "increments": increments}
