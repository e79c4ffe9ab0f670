"""Block by block: what opens when, and that rows do not change with their batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin import sample
from di4c_plugin.diffusion import Absorbing, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.samplers import Step, blocks

MASK = 5
PROCESS = Absorbing(6, mask=MASK)


class Table(torch.nn.Module):
    """log p from a table, by the position and its left neighbour, and λ if there is one."""

    def __init__(self, latent: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(20, 6, 6, generator=generator, dtype=torch.float64)
        self.latent_shape = (1,) if latent else None

    def forward(self, x: Tensor, t: Any, *, cond: Any = None, latent: Any = None) -> Tensor:
        left = torch.nn.functional.pad(x, (1, 0))[:, :-1]
        logits = self.table[torch.arange(x.shape[1]), left]
        if latent is not None:
            logits = logits * (0.5 + 2 * latent[..., None])
        return PROCESS.carry_over(torch.log_softmax(PROCESS.restrict(logits), -1), x)


def draw(
    x: Tensor, steps: int, seed: int = 0, net: Any = None, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    states: list[Tensor] = []

    def seen(step: Step) -> None:
        states.append(step.x)

    generator = torch.Generator().manual_seed(0)
    options |= {"process": PROCESS, "generator": generator, "callback": seen}
    found = blocks(net or Table(), x, time_grid(steps), **options)
    return found, states


def slow(x: Tensor, steps: int, block: int, threshold: float | None) -> Tensor:
    """One row, greedy, written out."""
    net, x = Table(), x.clone()
    unknown = [i for i in range(len(x)) if x[i] == MASK]
    for start in range(unknown[0], len(x), block):
        here = [i for i in unknown if start <= i < start + block]
        for step in range(steps):
            masks = [i for i in here if x[i] == MASK]
            if not masks:
                break
            log_p = net(x[None], None)[0]
            sure = {i: float(log_p[i].max()) for i in masks}
            order = sorted(masks, key=lambda i: -sure[i])
            if threshold is None or step == steps - 1:
                left = len(here) * (steps - 1 - step) // steps
                chosen = order[: len(masks) - min(left, len(masks))]
            else:
                chosen = [i for i in masks if sure[i] > torch.tensor(threshold).log()] or order[:1]
            for i in chosen:
                x[i] = log_p[i].argmax()
    return x


@pytest.mark.parametrize("threshold", [None, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(("steps", "block"), [(1, 4), (2, 4), (3, 5), (4, 4), (6, 4)])
def test_greedy_rows_of_a_batch_are_those_written_out(
    steps: int, block: int, threshold: float | None
) -> None:
    x = torch.full((3, 12), MASK)
    x[0, :3], x[1, :1], x[2, :6] = 1, 2, 3
    x[1, 9:] = 0  # padding
    found, _ = draw(x, steps, block=block, threshold=threshold, temperature=0)
    for row, one in zip(found, x, strict=True):
        assert row.tolist() == slow(one, steps, block, threshold).tolist()


def test_blocks_open_from_left_to_right_by_a_fixed_budget() -> None:
    x = torch.full((2, 12), MASK)
    _, states = draw(x, 2, block=4)
    assert len(states) == 6
    for index, state in enumerate(states):
        assert ((state != MASK).sum(-1) == 2 * (index + 1)).all()
        assert (state[:, 4 * (index // 2 + 1) :] == MASK).all()


@pytest.mark.parametrize("latents", ["fixed", "fresh"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_row_is_what_it_is_alone(latents: str, temperature: float) -> None:
    """The first row of any batch, whatever stands beside it and behind it."""
    x = torch.full((1, 9), MASK)
    x[0, :2] = 1
    options: dict[str, Any] = {"block": 4, "temperature": temperature, "latents": latents}
    alone, _ = draw(x, 2, net=Table(latent=True), **options)
    wide = torch.full((3, 14), MASK)
    wide[0, :9], wide[0, 9:] = x[0], 0
    wide[1, :7] = 2
    both, _ = draw(wide, 2, net=Table(latent=True), **options)
    assert both[0, :9].tolist() == alone[0].tolist()


def test_one_token_at_a_time_draws_from_the_model() -> None:
    """With blocks of one token the law is the chain's own."""
    n, d = 8_000, 3
    x, _ = draw(torch.full((n, d), MASK), 1, block=1)
    net = Table()
    p = torch.zeros(5, 5, 5, dtype=torch.float64)
    for a in range(5):
        for b in range(5):
            state = torch.tensor([[MASK, MASK, MASK]])
            first = net(state, None)[0, 0].exp()[a]
            state = torch.tensor([[a, MASK, MASK]])
            second = net(state, None)[0, 1].exp()[b]
            p[a, b] = first * second * net(torch.tensor([[a, b, MASK]]), None)[0, 2].exp()[:5]
    counts = (
        torch.zeros(125).index_add(0, x @ torch.tensor([25, 5, 1]), torch.ones(n)).view(5, 5, 5)
    )
    assert ((counts / n - p).abs() < 5 * (p / n).sqrt() + 1e-3).all()


def test_the_end_of_a_text_stops_its_row() -> None:
    x = torch.full((1, 12), MASK)
    net = Table()
    net.table[5, :, 2] = 50.0  # an end, at position 5
    found, states = draw(x, 2, net=net, block=4, eos=2)
    assert (found[0, 5:] == 2).all()
    assert len(states) == 4  # nothing of the third block is asked for


def test_aligned_blocks_do_not_move_with_the_prompt() -> None:
    x = torch.full((1, 8), MASK)
    x[0, :3] = 1
    _, states = draw(x, 1, block=4, aligned=True)
    assert [(s == MASK).sum().item() for s in states] == [4, 0]
    _, states = draw(x, 1, block=4)
    assert [(s == MASK).sum().item() for s in states] == [1, 0]


@pytest.mark.parametrize(
    ("own", "options", "masks"),
    [
        (4, {}, [32, 28, 24, 20, 16, 12, 8, 4, 0]),
        (4, {"block": 8}, [28, 20, 12, 4, 0]),
        (4, {"aligned": False}, [29, 25, 21, 17, 13, 9, 5, 1, 0]),
        (None, {}, [1, 0]),
        (None, {"aligned": True}, [4, 0]),
    ],
)
def test_blocks_are_those_of_the_networks_attention(
    own: int | None, options: dict[str, Any], masks: list[int]
) -> None:
    """Of 36 positions three are a prompt, which `sample` has known by a denoiser of its own."""
    network = TransformerConfig(6, 6, grid=(6, 6), hidden_size=8, embedding_size=4, num_heads=2)
    model = new_model(network, PROCESS)
    model.denoiser.block = own  # type: ignore[assignment]
    states: list[Tensor] = []
    seen: Any = {"on_step": lambda step: states.append(step.x)}
    sample(model, 1, steps=1, sampler="blocks", prefix=[1, 1, 1], **options, **seen)
    assert [int((x == MASK).sum()) for x in states] == masks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "block must be at least 1"),
        ({"threshold": 2.0}, "threshold must be in"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"eos": -1}, "eos=-1 is no token of this model"),
        ({"eos": 100}, "eos=100 is no token"),
        ({"eos": MASK}, "is no token of this model"),
        ({"latents": "none"}, "unknown latent policy"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw(torch.full((1, 4), MASK), 1, **options)


def test_other_processes_have_no_masks() -> None:
    with pytest.raises(UserError, match="masked"):
        blocks(
            Table(),
            torch.ones(1, 4).long(),
            time_grid(1),
            process=Uniform(6),
            generator=torch.Generator(),
        )
