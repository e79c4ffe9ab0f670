"""Small causal language models of transformers, with a tokenizer of letters, in a folder."""

from importlib import import_module
from pathlib import Path

import torch

LETTERS = "abcdefgh "
END = "."  # ends a text
TOKENS = (*LETTERS, END)


def write_tokenizer(folder: Path, letters: str = LETTERS) -> None:
    """A token for each letter; others are the end of text."""
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    vocab = {token: i for i, token in enumerate((*letters, END))}
    pairs = tokenizers.models.BPE(vocab=vocab, merges=[], unk_token=END)
    inner = tokenizers.Tokenizer(pairs)
    inner.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, unk_token=END, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)


def write_lm(folder: Path, *, letters: str = LETTERS, seed: int = 0, context: int = 32) -> Path:
    """A GPT-2 of one layer with random weights, large enough to be far from uniform."""
    transformers = import_module("transformers")
    count = len(letters) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=count, n_embd=8, n_layer=1, n_head=2, n_positions=context,
            bos_token_id=count - 1, eos_token_id=count - 1, initializer_range=0.5,
        )  # fmt: skip
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    write_tokenizer(folder, letters)
    return folder


def texts(n: int, seed: int, length: int = 12) -> list[str]:
    """Random texts over the letters and the end of text."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(len(TOKENS), (n, length), generator=generator)
    return ["".join(TOKENS[i] for i in row) for row in x.tolist()]
