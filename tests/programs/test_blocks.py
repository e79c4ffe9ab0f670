"""Texts that `di4c train` cuts into blocks are the blocks of MDLM's own data."""

import pytest
import torch
from transformers import AutoTokenizer

from di4c_plugin.data.texts import read_blocks
from tests.stand_ins.real import LENGTH, Lab


@pytest.mark.host
@pytest.mark.slow
def test_the_blocks_are_mdlms_own(lab: Lab) -> None:
    """But where the host drops the rest of a batch of texts, which are thousands apart."""
    datasets = pytest.importorskip("datasets")
    lab.teacher("mdlm")
    made = lab.text / f"text_train_bs{LENGTH}_wrapped.dat"
    own = torch.tensor(datasets.load_from_disk(str(made))["input_ids"][:])
    tokenizer = AutoTokenizer.from_pretrained(str(lab.text / "tokenizer"))
    ours = read_blocks(lab.text / "text/train/train.txt", tokenizer, LENGTH).x_0
    assert torch.equal(ours[:20], own[:20])
