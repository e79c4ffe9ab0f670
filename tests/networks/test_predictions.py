"""Log-probabilities from hidden states are those that a denoiser would have returned."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import LOG_ZERO, Absorbing, Process, Uniform
from di4c_plugin.networks.denoiser import normalise
from di4c_plugin.networks.predictions import Formed, Hidden
from tests.losses.cases import Case

N, P, S = 3, 7, 11
PROCESSES: dict[str, Process] = {
    "mask is a token": Absorbing(S, mask=4),
    "mask is a state": Absorbing(S),
    "uniform": Uniform(S),
    "uniform, leave one out": Uniform(S, leave_one_out=True),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
ALL = slice(None)


def logits_of(hidden: Hidden) -> Tensor:
    """By sums over H, (N, P, S), in float64."""
    h, weight = hidden.h.double(), hidden.weight.double()
    logits = (h.unsqueeze(2) * weight).sum(-1)
    return logits if hidden.bias is None else logits + hidden.bias.double()


def formed(hidden: Hidden) -> Tensor:
    """What a denoiser returns: the P positions are those of one example a lambda."""
    x = hidden.x.expand(hidden.h.shape[:2]).reshape(-1, 1)
    t = hidden.t.expand(hidden.h.shape[:2]).reshape(-1)
    logits = logits_of(hidden).flatten(0, 1).unsqueeze(1)
    return normalise(logits, x, t, hidden.process).view(*hidden.h.shape[:2], -1)


@every_process
@pytest.mark.parametrize("rows", ["one state", "a state each"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_it_is_what_the_denoiser_says(process: Process, rows: str, bias: bool) -> None:
    case = Case(N, P, S, process=process, bias=bias)
    hidden = case.student if rows == "one state" else case.target
    found, want = hidden.log_p(ALL), formed(hidden)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.exp(), want.exp(), rtol=1e-12, atol=1e-14)
    # What is impossible is near LOG_ZERO in both: how near does not matter.
    possible = want > LOG_ZERO / 2
    assert torch.equal(possible, found > LOG_ZERO / 2)
    torch.testing.assert_close(found[possible], want[possible], rtol=1e-12, atol=1e-12)
    assert found.min() > 2 * LOG_ZERO


@every_process
def test_positions_with_several_examples_have_their_own_time(process: Process) -> None:
    """As a batch of two examples of unequal times, against the flat positions."""
    case = Case(N, 2 * P, S, process=process)
    t = torch.tensor([0.9, 0.2], dtype=torch.float64)
    hidden = replace(case.student, t=t.repeat_interleave(P))
    x = hidden.x.view(2, P)
    for n, logits in enumerate(logits_of(hidden)):
        want = normalise(logits.view(2, P, S), x, t, process).flatten(0, 1)
        torch.testing.assert_close(hidden.log_p(ALL)[n].exp(), want.exp())


@every_process
def test_a_part_is_a_part_of_the_whole(process: Process) -> None:
    case = Case(N, P, S, process=process)
    for hidden in (case.student, case.target, case.teacher):
        whole, active = hidden.log_p(ALL), hidden.active(ALL)
        for part in (slice(0, 1), slice(2, 5), slice(5, None), slice(3, 3)):
            torch.testing.assert_close(hidden.log_p(part), whole[:, part])
            assert torch.equal(hidden.active(part), active[part])
            assert hidden.log_p(part).shape == (hidden.count, len(active[part]), hidden.tokens)


@every_process
def test_positions_known_to_be_open_need_no_carry_over(process: Process) -> None:
    hidden = Case(N, P, S, process=process, revealed=0.0).student
    bare = replace(hidden, revealed=False)
    assert torch.equal(bare.log_p(ALL), hidden.log_p(ALL))
    known = Case(N, P, S, process=process, revealed=1.0).student
    same = torch.equal(replace(known, revealed=False).log_p(ALL), known.log_p(ALL))
    assert same == isinstance(process, Uniform), "or the flag says nothing"


@every_process
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_hidden_states_cost_no_more_than_they_lost(process: Process, autocast: bool) -> None:
    """The head is fp32, whatever the network was: exact for what the bf16 numbers are."""
    case = Case(N, P, S, process=process, dtype=torch.float32, scale=3.0)
    hidden = replace(case.student, h=case.student.h.detach().bfloat16())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = hidden.log_p(ALL)
    assert found.dtype == torch.float32
    want = formed(hidden)
    possible = want > LOG_ZERO / 2
    torch.testing.assert_close(found[possible].double(), want[possible], rtol=1e-5, atol=1e-5)
    coarse = (hidden.h @ hidden.weight.bfloat16().T).float().log_softmax(-1)
    own = logits_of(hidden).log_softmax(-1)
    assert (coarse - own).abs().max() > 1e-3, "bf16 logits would not be noticed"


@every_process
def test_autocast_changes_no_gradient(process: Process) -> None:
    case = Case(N, P, S, process=process, dtype=torch.float32)
    pull = case.normal(N, P, S)
    grads = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            total = (case.student.log_p(ALL).clamp(min=-100) * pull).sum()
        grads.append(torch.autograd.grad(total, case.leaves))
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_active_is_where_any_lambda_has_a_mask() -> None:
    case = Case(2, 4, S, process=Absorbing(S))
    x = torch.tensor([[S, 1, S, 2], [S, S, 3, 4]])
    hidden = replace(case.student, x=x)
    assert hidden.active(ALL).tolist() == [True, True, True, False]
    assert (hidden.count, hidden.tokens) == (2, S)


def test_formed_is_cut_into_parts() -> None:
    values, unknown = torch.randn(2, 5, 3), torch.tensor([True, False, True, True, False])
    whole = Formed(values, unknown)
    assert (whole.count, whole.tokens) == (2, 3)
    assert torch.equal(whole.log_p(slice(1, 3)), values[:, 1:3])
    assert torch.equal(whole.active(slice(1, 3)), unknown[1:3])
