"""What the package does with teacher and student of every image host: one update, and samples."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.diffusion import time_grid
from di4c_plugin.samplers.ancestral import ancestral
from di4c_plugin.samplers.guidance import guide
from tests.stand_ins.images import small_halton, small_maskgit, small_tauldr
from tests.stand_ins.images.checkouts import Root

TOKEN, ADALN = {"name": "token"}, {"name": "adaln", "blocks": 1}
KEPT = {"sizes": {"carry_over": True}}
CASES: list[tuple[Any, dict[str, Any], dict[str, Any], str]] = [
    (small_maskgit, TOKEN, {}, "naive"),
    (small_maskgit, TOKEN, KEPT, "naive"),
    (small_halton, TOKEN, {}, "naive"),
    # By chunks of positions: not with the default process, which ranks them.
    (small_halton, ADALN, KEPT | {"process": small_halton.ABSORBING}, "chunked"),
    (small_tauldr, {"name": "unet"}, {}, "naive"),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0].NETS.name}-{case[3]}{len(case[2])}"
)
def test_update_and_samples(root: Root, case: tuple[Any, ...]) -> None:
    module, latent, options, loss = case
    options = dict(options)
    nets, sizes = module.NETS, replace(module.SIZES, **options.pop("sizes", {}))
    place = root(nets.name)
    weights = small_maskgit.as_weights(module.plain(place))
    teacher = nets.at(place).restore(weights, sizes, **options)
    student = nets.at(place).student(weights, sizes, latent, **options)
    labelled = module is not small_tauldr
    x_0 = module.X.clamp(max=6)
    cond = torch.tensor([3, 0]) if labelled else None
    algorithm = Di4C(teacher.process, latents=3, loss=loss)
    generator = torch.Generator().manual_seed(0)
    networks = {"student": student, "teacher": teacher}
    update = algorithm.losses(Batch(x_0, cond), networks, Update(generator))
    update.total.backward()
    assert update.total.isfinite()
    assert all(p.grad is not None for p in student.parameters())
    assert not any(p.grad is not None for p in teacher.parameters())

    times, process = time_grid(2), student.process
    denoiser = guide(student.eval(), times, 1.5 if labelled else 0.0, "linear", None)
    x = process.prior((2, x_0.shape[1]), generator=generator, device=torch.device("cpu"))
    with torch.no_grad():
        sample = ancestral(denoiser, x, times, process=process, generator=generator, cond=cond)
    assert sample.shape == x_0.shape
    assert int(sample.max()) < process.num_tokens - labelled  # no mask is left, and none drawn
