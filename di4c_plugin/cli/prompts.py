"""`di4c sample --prompt`: prompts in, texts out."""

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.hosts import OpenHost

TEXTS = (".txt", ".jsonl")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add --prompt, --prompts and --new-tokens."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--prompt", metavar="TEXT", help="a text that every sample begins with")
    which.add_argument(
        "--prompts",
        type=user_path,
        metavar="FILE",
        help="a prompt for each sample: lines of text, or of JSON (.jsonl) with prompt or messages",
    )
    parser.add_argument(
        "--new-tokens", type=int, help="tokens behind a prompt; default: all that fit"
    )


def prompt_options(args: argparse.Namespace, host: "OpenHost") -> tuple[int, dict[str, Any]]:
    """Return how many samples to draw, and the arguments of `di4c_plugin.sample` for prompts.

    Raises:
        UserError: for a file without prompts, and a host whose samples are no texts.
    """
    if args.prompts is not None:
        from di4c_plugin.data.texts import read_prompts

        prompts = host.prompts(read_prompts(args.prompts))
        if args.n not in (None, len(prompts)):
            raise UserError(f"{args.prompts} has {len(prompts)} prompts: leave out --n")
        return len(prompts), {"prompts": prompts, "new_tokens": args.new_tokens}
    if args.prompt is not None:
        n = 1 if args.n is None else args.n
        return n, {"prompts": host.prompts([args.prompt]), "new_tokens": args.new_tokens}
    if args.new_tokens is not None:
        raise UserError("--new-tokens goes with --prompt or --prompts")
    return 64 if args.n is None else args.n, {}


def drawn_tokens(x: "Tensor", prompts: list[list[int]], eos: int | None) -> int:
    """Return how many tokens of samples x (n, D) were drawn, each to the first end of its text.

    Args:
        x: from `sample` with these prompts.
        prompts: n of them, or one for all.
        eos: the end; None: there is none.
    """
    new, count = x.shape[1] - max(map(len, prompts)), 0
    for row, prompt in zip(x.tolist(), cycle(prompts), strict=False):
        tokens = row[len(prompt) : len(prompt) + new]
        count += tokens.index(eos) + 1 if eos in tokens else new
    return count


def write_texts(texts: list[str], path: Path) -> None:
    """Write texts: as {"text": ...} on a line each in `.jsonl`, else as they are."""
    from di4c_plugin.files import atomic_write

    lines = [json.dumps({"text": text}) if path.suffix == ".jsonl" else text for text in texts]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
