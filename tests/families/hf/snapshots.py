"""Tiny random snapshots: native classes made from their configs, foreign ones of our own code."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch

import di4c_plugin

# Models of any kind of sizes.
load_teacher: Any = di4c_plugin.load_teacher
TOKENS = 40
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
NATIVE = ("bert", "roberta", "distilbert", "modernbert")


def native(kind: str, folder: Path, **options: Any) -> Any:
    """Write a random network of transformers to a folder, and return it, in eval mode."""
    hf: Any = importlib.import_module("transformers")

    common = {"vocab_size": TOKENS, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    configs: dict[str, Any] = {
        "bert": lambda: hf.BertConfig(
            **common, **sizes, max_position_embeddings=24, initializer_range=0.3, **options
        ),
        "roberta": lambda: hf.RobertaConfig(
            **common, **sizes, max_position_embeddings=25, initializer_range=0.3, **options
        ),
        "distilbert": lambda: hf.DistilBertConfig(
            **common,
            dim=16,
            n_layers=2,
            n_heads=2,
            hidden_dim=24,
            max_position_embeddings=24,
            initializer_range=0.3,
            **options,
        ),
        "modernbert": lambda: hf.ModernBertConfig(
            **common,
            **sizes,
            cls_token_id=2,
            sep_token_id=3,
            max_position_embeddings=24,
            initializer_range=0.3,
            local_attention=4,
            **options,
        ),
    }
    classes = {
        "bert": "BertForMaskedLM",
        "roberta": "RobertaForMaskedLM",
        "distilbert": "DistilBertForMaskedLM",
        "modernbert": "ModernBertForMaskedLM",
    }
    torch.manual_seed(0)
    network = getattr(hf, classes[kind])(configs[kind]()).eval()
    network.save_pretrained(folder)
    tokenizer(folder)
    return network


def tokenizer(folder: Path, *, mask: str | None = "[MASK]") -> None:
    """Write the files of a tokenizer of single letters."""
    letters = {chr(ord("a") + i): len(SPECIAL) + i for i in range(26)} | {" ": 31, ".": 32}
    added = [
        {
            "id": i,
            "content": token,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for token, i in SPECIAL.items()
    ]
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": SPECIAL | letters, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(described))
    configured = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "eos_token": "[SEP]",
        "cls_token": "[CLS]",
    }
    if mask:
        configured["mask_token"] = mask
    (folder / "tokenizer_config.json").write_text(json.dumps(configured))


CODE = Path(__file__).parent / "code"
AUTO = {
    "lladalike": ("LladaLikeConfig", "AutoModel", "LladaLikeModelLM"),
    "dreamlike": ("DreamLikeConfig", "AutoModel", "DreamLikeModel"),
}
SIZES: dict[str, dict[str, Any]] = {
    "lladalike": {
        "model_type": "llada",
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 2,
        "vocab_size": 40,
        "max_sequence_length": 24,
        "embedding_size": 48,
        "weight_tying": False,
        "use_cache": False,
        "mask_token_id": 4,
    },
    "dreamlike": {
        "model_type": "Dream",
        "vocab_size": 48,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "rope_theta": 100.0,
        "tie_word_embeddings": True,
        "mask_token_id": 4,
    },
}


def foreign(kind: str, folder: Path, *, shards: int = 1, **config: Any) -> Any:
    """Write a random network of one of our own classes to a folder, code included.

    Return the network, constructed without any of the loaders, in eval mode and float32.
    """
    from safetensors.torch import save_file
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    from di4c_plugin.families.hf.mends import mend

    config_name, auto, name = AUTO[kind]
    for file in (CODE / kind).glob("*.py"):
        (folder / file.name).write_text(file.read_text())
    described = (
        SIZES[kind]
        | config
        | {
            "architectures": [name],
            "auto_map": {
                "AutoConfig": f"configuration_{kind}.{config_name}",
                auto: f"modeling_{kind}.{name}",
            },
        }
    )
    (folder / "config.json").write_text(json.dumps(described))
    tokenizer(folder, mask=None)
    mend()
    made: Any = get_class_from_dynamic_module(f"modeling_{kind}.{name}", str(folder))
    torch.manual_seed(0)
    network = made(made.config_class(**described)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if kind == "dreamlike":
        network.lm_head.weight = network.model.embed_tokens.weight
    state = {k: v.clone() for k, v in network.state_dict().items() if k != "lm_head.weight"}
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return network
    names = sorted(state)
    files = {
        n: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, n in enumerate(names)
    }
    for shard in set(files.values()):
        save_file({n: state[n] for n in names if files[n] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return network
