"""Texts that `di4c train` cuts into blocks are those of the hosts' own data."""

import pytest
import torch
from transformers import AutoTokenizer

from di4c_plugin.data.texts import read_blocks
from tests.stand_ins.real import Lab


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host", ["mdlm", "duo"])
def test_the_blocks_are_the_hosts_own(lab: Lab, host: str) -> None:
    """But where the host drops the rest of a batch of texts, which are thousands apart."""
    datasets = pytest.importorskip("datasets")
    lab.teacher({"mdlm": "mdlm", "duo": "duo_base"}[host])
    (made,) = (lab.folder / f"cache_{host}").glob("*train*16*wrapped*.dat")
    own = torch.tensor(datasets.load_from_disk(str(made))["input_ids"][:])
    tokenizer = AutoTokenizer.from_pretrained(str(lab.text / "tokenizer"))
    ours = read_blocks(lab.text / "text/train/train.txt", tokenizer, 16).x_0
    assert torch.equal(ours[:20], own[:20])
