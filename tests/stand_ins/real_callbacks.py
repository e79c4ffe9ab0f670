"""Lightning callbacks that look into a run of a real host; loaded by `+callbacks.name={…}`."""

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler

from di4c_plugin import load_student
from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.algorithms.sdtt import SDTT
from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.programs.text.module import HOST
from di4c_plugin.training.rng import seed_globals


class SameFunction(Callback):
    """Compares the host's own network with ours, loaded from the checkpoint, at the end of a run.

    Args:
        checkpoint: of the run's last update.
        file: where the largest difference of the log-probabilities is written, and in Duo that of
            the posterior.
    """

    def __init__(self, checkpoint: str, file: str) -> None:
        self.checkpoint, self.file = checkpoint, Path(file)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ours: Any = load_student(self.checkpoint, ema=False)
        module: Any = pl_module
        theirs: Any = copy.deepcopy(module.student).eval()
        weights = dict(ours.denoiser.network.named_parameters())
        generator = torch.Generator().manual_seed(3)
        for name, weight in theirs.backbone.named_parameters():
            assert torch.equal(weights[name], weight), name
            # After a few updates the output hardly depends on anything: compare far from there.
            noise = torch.randn(weight.shape, generator=generator) / 4
            weights.pop(name).data.add_(noise)
            weight.data.add_(noise)
        assert not weights
        x_0 = torch.randint(90, (3, module.positions), generator=generator)
        t = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64)
        x_t = ours.process.corrupt(x_0, t, generator=generator)
        latent = torch.rand((3, *ours.denoiser.latent_shape), generator=generator)
        with torch.no_grad():
            here, there = (net(x_t, t, latent=latent) for net in (ours.denoiser, theirs))
            other = theirs(x_t, t, latent=1 - latent)
        possible = there.isfinite()
        assert torch.equal(possible, here.isfinite())
        found = {"difference": float((here - there)[possible].abs().max())}
        found["of_latents"] = float((other - there)[possible].abs().max())
        if hasattr(module, "_posterior_from_x0"):
            found["posterior"] = self.posterior_difference(module, theirs, x_t, t, latent)
        self.file.write_text(json.dumps(found))

    def posterior_difference(
        self, module: Any, theirs: Any, x_t: Tensor, t: Tensor, latent: Tensor
    ) -> float:
        """How far p(x_s | x_t) is from the host's own, by what it makes of the same logits."""
        s = t / 2
        sigma = theirs.sigma(t)
        alpha_t, alpha_s = (theirs.process.schedule.alpha(u).unsqueeze(-1) for u in (t, s))
        with torch.no_grad():
            ours = theirs.process.log_posterior(theirs(x_t, t, latent=latent), x_t, t, s).exp()
            logits = theirs.backbone(x_t, sigma, latent=latent)
            log_x_0 = module._process_model_output(logits.clone(), xt=x_t, sigma=sigma)
            x_0 = log_x_0.double().exp()
            own = module._posterior_from_x0(x0=x_0, xt=x_t, alpha_s=alpha_s, alpha_t=alpha_t)
        return float((ours - own).abs().max())


class BothRanks(Callback):
    """Writes the gradient norm that two processes should have at the first update, from one.

    Two processes split a batch and average their gradients; here one network works for both.

    Args:
        file: where the norm, and each process's loss and sum of data, are written.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        data: Any = trainer.train_dataloader.dataset  # type: ignore[union-attr]
        half = int(module.config.loader.global_batch_size) // 2
        found: dict[str, Any] = {"loss": [], "data": []}
        total = torch.zeros(())
        for rank in range(2):
            # Lightning gives each process of a host this sampler.
            seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
            mine = [*DistributedSampler(data, 2, rank, shuffle=True, seed=seed)][:half]
            x_0 = torch.stack([data[i]["input_ids"] for i in mine])
            seed_globals(module.seed, HOST, rank, 0)
            where = {"rank": rank, "step": 0, "device": module.device}
            losses = module.engine.losses(Batch(x_0), 0, module.updates, **where)
            loss = losses.total / module.positions
            found["loss"].append(float(loss))
            found["data"].append(int(x_0.sum()))
            total = total + loss / 2
        weights = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        found["norm"] = float(torch.stack([g.norm() for g in gradients if g is not None]).norm())
        self.file.write_text(json.dumps(found))


class OwnLoss(Callback):
    """Compares SDTT's own loss with ours at the end of a run, both with the same draws.

    The host's loss is called as it is, but for what it draws: x_t and the tokens of its step. Its
    "mse" and "tvd" count the mask, a token that both networks exclude, with what rounding at its
    -1e6 leaves; that entry is taken out.

    Args:
        file: where both losses are written, and the largest difference of their gradients relative
            to the largest gradient, by divergence and round.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        base: Any = next(
            c for c in type(module).__mro__ if c.__module__ == "sdtt.core.distill.multi_round_sdtt"
        )
        generator = torch.Generator().manual_seed(3)
        for network in (module.student, module.engine.teacher):
            for weight in network.backbone.parameters():
                weight.data.add_(torch.randn(weight.shape, generator=generator) / 4)
        module.student.eval()
        module.teacher = [module.engine.teacher.backbone]
        x_0 = torch.randint(90, (8, module.positions), generator=generator)
        found = {
            f"{own} {round_index}": self.compared(module, base, x_0, own, theirs, round_index)
            for own, theirs in OWN_LOSSES.items()
            for round_index in (0, 2)
        }
        self.file.write_text(json.dumps(found))

    def compared(
        self, module: Any, base: Any, x_0: Tensor, own: str, theirs: str, round_index: int
    ) -> list[float]:
        process, mask = module.process, int(module.mask_index)
        options = {"times": "released", "min_time": float(module.sampling_eps)}
        method = SDTT(process, teacher_steps=64, steps=8, divergence=own, **options)  # type: ignore[arg-type]
        networks = {"student": module.student, "teacher": module.engine.teacher}
        update = Update(torch.Generator().manual_seed(5), round=round_index, rounds=3)
        ours = method.losses(Batch(x_0), networks, update).total / module.positions
        again = torch.Generator().manual_seed(5)
        t, _ = method._times(len(x_0), Update(again, round=round_index))
        x_t = process.corrupt(x_0, t, generator=again)
        noise = process.step_noise((1, *x_0.shape), generator=again, device=x_0.device)[:, 0]

        def drawn(q: Tensor) -> Tensor:
            closed = q[..., mask].clamp(min=0)
            token = inverse_cdf(q.index_fill(-1, torch.tensor([mask]), 0).log(), noise[1])
            opened = q.sum(-1) - q[..., mask]
            return token.where(noise[0] < opened / (opened + closed), mask)

        function = {"kl-fwd": base._fwd_kl, "kl-bwd": base._bwd_kl}.get(theirs)
        whole = function or {"mse": base._mse, "tvd": base._tvd}[theirs]

        def without_mask(p: Tensor, q: Tensor) -> Any:
            at = torch.tensor([mask])
            if function is None:
                p, q = p.index_fill(-1, at, 0), q.index_fill(-1, at, 0)
            return whole(module, p, q)

        host: Any = sys.modules[base.__module__]
        module.num_distill_steps, module.sampling_mode, module.loss_precision = 2, "ancestral", "64"
        module.dt = (1 - module.sampling_eps) / 64 * 2**round_index
        module.sampling_eps_tensor = torch.tensor(module.sampling_eps)
        module._loss_fn, module.q_xt = without_mask, lambda *_: x_t.clone()
        kept, host.sample_categorical = host.sample_categorical, drawn
        try:
            theirs_found = base.loss(module, x_0, t)
        finally:
            host.sample_categorical = kept
            del module.q_xt
        parameters = [p for p in module.backbone.parameters() if p.requires_grad]
        one, other = (
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
            for loss in (ours, theirs_found)
        )
        gap = float((one - other).abs().max() / other.abs().max())
        return [float(ours), float(theirs_found), gap]


OWN_LOSSES = {"kl": "kl-fwd", "reverse_kl": "kl-bwd", "mse": "mse", "l1": "tvd"}
