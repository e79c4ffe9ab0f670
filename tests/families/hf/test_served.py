"""A student behind the call that diffusers' LLaDA2Pipeline makes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.families.adapted import adapted_student, shared, without_adapter
from di4c_plugin.families.hf.served import Served
from di4c_plugin.networks.adapters import Adapter
from tests.families.hf.adapters import shaken
from tests.families.hf.snapshots import load_teacher, native

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="adapters are by peft")


ADAPTERS = [False, pytest.param(True, marks=needs_peft)]


def student(folder: Path, adapter: bool = False) -> Any:
    native("bert", folder)
    teacher = load_teacher(folder, host={"name": "hf"})
    if not adapter:
        return teacher.family.student_of(teacher, {"name": "token"})
    made = adapted_student(teacher.family, shared(teacher), {"name": "token"}, Adapter(r=3))
    return shaken({"student": made})["student"]


def test_the_logits_are_the_denoisers(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host={"name": "hf"})
    served = Served(teacher)
    x = torch.tensor([[5, 6, 4, 4, 4]])
    seen = torch.tensor([[1, 1, 1, 1, 0]])
    logits = served(x, attention_mask=seen, position_ids=torch.arange(5)[None]).logits
    with torch.no_grad():
        alone = teacher.denoiser(x[:, :4], torch.ones(1).double())
    torch.testing.assert_close(logits[:, :4], alone, rtol=0, atol=1e-5)
    assert (logits[0, 2:4, 4] < -1e5).all()


@needs_peft
def test_an_adapter_is_served_as_the_whole_network(tmp_path: Path) -> None:
    model = student(tmp_path, adapter=True)
    x = torch.tensor([[5, 6, 4, 4, 4]])
    found, whole = (Served(each)(x).logits for each in (model, without_adapter(model)))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    base = Served(load_teacher(tmp_path, host={"name": "hf"}))(x).logits
    assert (found - base)[0, 2:, 5:33].abs().max() > 0.01


@pytest.mark.parametrize("fresh", [False, True])
def test_a_generation_has_one_latent_unless_it_is_fresh(fresh: bool, tmp_path: Path) -> None:
    served = Served(student(tmp_path), fresh=fresh)
    start = torch.tensor([[5, 4, 4, 4]])
    calls = [start, torch.tensor([[5, 4, 6, 4]]), torch.tensor([[5, 7, 6, 4, 4, 4]]), start]
    found = []
    for x in calls:
        served(x)
        assert served._latent is not None
        found.append(float(served._latent))
    assert len(set(found)) == (4 if fresh else 2)
    assert (found[0] == found[1] == found[2]) is not fresh


def test_a_longer_prompt_starts_a_generation(tmp_path: Path) -> None:
    """Though it covers the last call, whose masks are none in it."""
    served, found = Served(student(tmp_path)), []
    for x in ([5, 4, 4], [5, 6, 7, 4, 4], [5, 6, 7, 8, 9, 6, 4], [5, 6, 7, 8, 9, 6, 8, 4]):
        served(torch.tensor([x]))
        assert served._latent is not None
        found.append(float(served._latent))
    assert found[0] == found[1] != found[2] == found[3]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_real_pipeline_serves_a_student(adapter: bool, tmp_path: Path) -> None:
    """Its fixed budget: as many calls as steps in each block, and no mask is left."""
    diffusers = pytest.importorskip("diffusers")
    served = Served(student(tmp_path, adapter))
    calls: list[Any] = []
    served.register_forward_hook(lambda m, a, k, out: calls.append(k), with_kwargs=True)
    pipe = diffusers.LLaDA2Pipeline(
        model=served, scheduler=diffusers.BlockRefinementScheduler(), tokenizer=None
    )
    out = pipe(
        input_ids=torch.tensor([[5, 6, 7, 8]]),
        use_chat_template=False,
        gen_length=12,
        block_length=4,
        num_inference_steps=2,
        threshold=2.0,
        editing_threshold=None,
        mask_token_id=4,
        eos_token_id=None,
        output_type="seq",
    )
    tokens = torch.as_tensor(out.sequences)
    assert tokens.shape[-1] >= 12
    drawn = set(tokens.flatten().tolist())
    assert drawn <= {3, *range(5, 33)}
    assert len(calls) == 6
