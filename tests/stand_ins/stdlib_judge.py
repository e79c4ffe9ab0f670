"""A small GPT-2 that knows the standard library's sources: scorer of gen-PPL, features of MAUVE.

    python -m tests.stand_ins.stdlib_judge STDLIB OUT [updates]

STDLIB is a folder of `stdlib_text`; OUT gets the model and the tokenizer, in 8 CPU minutes. It is
trained on the blocks of STDLIB/text/train, of the kind that MDLM and Duo make.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch

from tests.stand_ins.stdlib_text import TOKENS, blocks, write_tokenizer


def train_judge(
    stdlib: Path, out: Path, updates: int = 2500, *, layers: int = 3, width: int = 128
) -> float:
    """Train and write the judge, always the same; return its last loss, nats a token."""
    transformers = import_module("transformers")
    x = torch.from_numpy(blocks((stdlib / "text/train/train.txt").read_text("ascii")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=len(TOKENS), n_positions=64, n_embd=width, n_layer=layers, n_head=4,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, updates)
        for _ in range(updates):
            batch = x[torch.randint(len(x), (48,))]
            loss = model(batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.save_pretrained(out)
    write_tokenizer(out)
    return float(loss.detach())


if __name__ == "__main__":
    updates = int(sys.argv[3]) if sys.argv[3:] else 2500
    loss = train_judge(Path(sys.argv[1]), Path(sys.argv[2]), updates)
    sys.stdout.write(f"{loss:.3f} nats a token\n")
