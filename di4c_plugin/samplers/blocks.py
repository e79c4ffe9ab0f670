r"""Block by block, as diffusion language models are sampled: LLaDA (Nie et al. 2025, section 2.4).

The masks after a prompt are opened a block at a time, from left to right. In a block, either each
of a fixed number of steps opens equally many tokens, the most confident first, or each step opens
all tokens whose probability is above a threshold, at least one (Fast-dLLM, Wu et al. 2025, section
3.3).
"""

from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.absorbing import masked_diffusion
from di4c_plugin.diffusion.categorical import inverse_cdf, uniform
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import LATENTS, Callback, Step, check_policy
from di4c_plugin.samplers.grids import SAMPLER
from di4c_plugin.samplers.sampler import sampler


@sampler()
def blocks(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    block: int | None = None,
    threshold: float | None = None,
    temperature: float = 1.0,
    aligned: bool | None = None,
    eos: int | None = None,
    latents: str = LATENTS,
    callback: Callback | None = None,
) -> Tensor:
    """Open blocks from left to right; arguments and result as of `Sampler.__call__`.

    The draws of a row do not depend on the other rows, nor on padding. Each block takes all steps
    of `times`; the times that the network sees are the shares of masks.

    Options:
        block: tokens in a block; None: as many as in a block of the network's attention, or 32
            where it sees the whole text.
        threshold: open what is more probable than this; None: the same number in each step.
        temperature: of the tokens; 0 takes the most probable ones.
        aligned: blocks begin at multiples of `block`, and not at the first mask of a row. None: for
            networks with block attention alone.
        eos: the token that ends a text: all positions after it are filled with it. None: no token.
        latents: see `ModelOptions`; "stratified" is "fresh" here.

    Raises:
        UserError: for other processes than masked diffusion, and options out of range.
    """
    mask, own = masked_diffusion(process, SAMPLER).mask, attention_block(denoiser)
    block = (own or 32) if block is None else block
    aligned = own is not None if aligned is None else aligned
    check(block, threshold, temperature, latents)
    if eos is not None and (not 0 <= eos < process.num_tokens or eos == mask):
        raise UserError(f"eos={eos} is no token of this model")
    rows = [_row_generator(generator) for _ in range(len(x))]
    count = len(times) - 1
    unknown = process.active(x)
    first = unknown.int().argmax(-1, keepdim=True)
    offset = torch.arange(x.shape[1], device=x.device) - (0 if aligned else first)
    number = offset.div(block, rounding_mode="floor")
    total, x, index = unknown.sum(-1).clamp(min=1), x.clone(), 0
    shape, latent = getattr(denoiser, "latent_shape", None), None
    for current in range(int(number.min()), int(number.max()) + 1):
        now = unknown & (number == current)
        size = now.sum(-1)
        for step in range(count):
            masks = now & (x == mask)
            if not bool(masks.any()):
                break
            share = (x == mask).sum(-1) / total
            if shape is not None and (latent is None or latents != "fixed"):
                latent = _each(rows, shape, x.device).float().clamp(max=1 - 2**-24)
            options = {} if latent is None else {"latent": latent}
            log_p = denoiser(x, share.double().clamp(min=1e-3), cond=cond, **options)
            drawn, sure = _draw(log_p, rows, unknown, temperature)
            if threshold is None or step == count - 1:
                remaining = size * (count - 1 - step) // count
                opened = best(sure, masks, masks.sum(-1) - torch.minimum(remaining, masks.sum(-1)))
            else:
                opened = masks & (sure > threshold) | best(sure, masks, masks.any(-1).long())
            x = torch.where(opened, drawn, x)
            if eos is not None:
                x = ended(x, unknown, mask, eos)
            if callback is not None:
                t, s = (float(v.max()) for v in (share, (x == mask).sum(-1) / total))
                callback(Step(index, t, s, x))
            index += 1
    return x


def check(block: int, threshold: float | None, temperature: float, latents: str) -> None:
    """Refuse options out of range; raises UserError."""
    if block < 1:
        raise UserError(f"block must be at least 1, not {block}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold must be in [0, 1], not {threshold}")
    if temperature < 0:
        raise UserError(f"temperature must be at least 0, not {temperature}")
    check_policy(latents)


def attention_block(denoiser: Any) -> int | None:
    """Return the size of the blocks that the network of a denoiser attends by; None: it sees all.

    Denoisers around it (known tokens, guidance) are looked through.
    """
    while denoiser is not None:
        if type(block := getattr(denoiser, "block", None)) is int:
            return block
        denoiser = getattr(denoiser, "denoiser", None)
    return None


def best(sure: Tensor, masks: Tensor, count: Tensor) -> Tensor:
    """Return the `count` (B,) most confident of the masks (B, D), bool; ties by position."""
    ranked = sure.masked_fill(~masks, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = ranked.argsort(-1)
    return masks & (rank < count[:, None])


def ended(x: Tensor, unknown: Tensor, mask: int, eos: int) -> Tensor:
    """Fill positions after the end of a text with its token, where none before it is open."""
    before = ((x == mask) & unknown).long().cumsum(-1)
    done = (unknown & (x == eos) & (before == 0)).long().cumsum(-1) > 0
    return torch.where(done & unknown, eos, x)


def _draw(
    log_p: Tensor, rows: list[torch.Generator], unknown: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return tokens (B, D), and their probability without the temperature, float64.

    A row's numbers are for its own unknown positions, in their order.
    """
    if temperature == 0:
        drawn = log_p.argmax(-1)
    else:
        chance = torch.zeros(unknown.shape, dtype=torch.float64, device=log_p.device)
        for row, generator in enumerate(rows):
            where = unknown[row].nonzero().squeeze(-1)
            chance[row, where] = uniform(where.shape, generator=generator, device=log_p.device)
        heated = log_p if temperature == 1 else torch.log_softmax(log_p / temperature, -1)
        drawn = inverse_cdf(heated, chance)
    return drawn, log_p.double().gather(-1, drawn.unsqueeze(-1)).squeeze(-1).exp()


def _row_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator for one row; call it in the order of the rows."""
    device = generator.device
    seed = torch.randint(2**62, (), generator=generator, device=device)
    return torch.Generator(device).manual_seed(int(seed))


def _each(rows: list[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack([uniform(shape, generator=row, device=device) for row in rows])
