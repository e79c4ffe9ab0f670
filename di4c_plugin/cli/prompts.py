"""`di4c sample --prompt`: prompts in, texts out."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.hosts import OpenHost
    from di4c_plugin.samplers import Step

TEXTS = (".txt", ".jsonl")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
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


def prompt_options(args: argparse.Namespace, host: "OpenHost") -> dict[str, Any]:
    """Return the keyword arguments of `di4c_plugin.sample` that prompts are; sets how many samples.

    Raises:
        UserError: for a file without prompts, and a host whose samples are no texts.
    """
    if args.prompt is None and args.prompts is None:
        if args.new_tokens is not None:
            raise UserError("--new-tokens goes with --prompt or --prompts")
        return {}
    if args.prompts is None:
        found = host.prompts([args.prompt])
        args.n = 1 if args.n is None else args.n
    else:
        from di4c_plugin.data.texts import read_prompts

        found = host.prompts(read_prompts(args.prompts))
        if args.n not in (None, len(found)):
            raise UserError(f"{args.prompts} has {len(found)} prompts: leave out --n")
        args.n = len(found)
    return {"prompts": found, "new_tokens": args.new_tokens}


class Passes:
    """Counts calls of the network, for the number of tokens that one opens."""

    def __init__(self) -> None:
        self.calls = 0

    def on_step(self, step: "Step") -> None:
        """Note a step."""
        self.calls += 1

    def told(self, tokens: int, batches: int) -> str:
        """Return the report, for so many tokens behind each prompt, in batches."""
        return f"{tokens * batches / max(self.calls, 1):.2f} tokens per forward pass"


def write_texts(host: "OpenHost", x: "Tensor", path: Path | None) -> None:
    """Write samples as texts: a JSON string a line in `.jsonl`, else as they are; None: print."""
    texts = host.texts(x)
    if path is None:
        print("\n".join(texts))
        return
    from di4c_plugin.files import atomic_write

    lines = [json.dumps({"text": text}) if path.suffix == ".jsonl" else text for text in texts]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(path)
