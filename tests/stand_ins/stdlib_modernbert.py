"""A small ModernBERT for the standard library's sources, with random weights, and its tokenizer.

    python -m tests.stand_ins.stdlib_modernbert STDLIB OUT

STDLIB is a folder of `stdlib_text`. OUT gets a byte-level BPE of 512 tokens made from its training
text, and 3 layers of width 128, all with full attention, for 32 positions: the start of
`di4c train-teacher host=hf start=OUT`.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch

TOKENS = 512
SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[EOS]")


def write_tokenizer(text: Path, out: Path) -> None:
    """Make the BPE from a text, and write it for AutoTokenizer."""
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    pairs = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    pairs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=list(SPECIAL))
    pairs.train([str(text)], trainer)
    names = dict(zip(("pad_token", "unk_token", "mask_token", "eos_token"), SPECIAL, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=pairs, **names).save_pretrained(out)


def write_modernbert(stdlib: Path, out: Path) -> None:
    """Write tokenizer and network, always the same."""
    transformers = import_module("transformers")
    write_tokenizer(stdlib / "text/train/train.txt", out)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.ModernBertConfig(
            vocab_size=TOKENS, hidden_size=128, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=256, max_position_embeddings=32, global_attn_every_n_layers=1,
            attention_dropout=0.0, embedding_dropout=0.0, mlp_dropout=0.0, pad_token_id=0, **ends,
        )  # fmt: skip
        transformers.ModernBertForMaskedLM(config).save_pretrained(out)


if __name__ == "__main__":
    write_modernbert(Path(sys.argv[1]), Path(sys.argv[2]))
