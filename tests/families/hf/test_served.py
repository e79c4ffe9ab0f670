"""A student behind the call that diffusers' LLaDA2Pipeline makes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.families.hf.served import Served
from tests.families.hf.snapshots import load_teacher, native


def student(folder: Path, **options: Any) -> Any:
    native("bert", folder)
    teacher = load_teacher(folder, host={"name": "hf"})
    return teacher.family.student_of(teacher, {"name": "token"})


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


def test_the_real_pipeline_serves_a_student(tmp_path: Path) -> None:
    """Its fixed budget: as many calls as steps in each block, and no mask is left."""
    diffusers = pytest.importorskip("diffusers")
    served = Served(student(tmp_path))
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
