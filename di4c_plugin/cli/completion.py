"""`di4c completion`: what makes a shell complete commands and options."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers

EXAMPLE = "di4c completion bash > ~/.local/share/bash-completion/completions/di4c"


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "completion",
        help="print what completes commands and options in a shell",
        description="Print a script that completes commands and options. zsh: save it as _di4c in "
        "a folder of $fpath; fish: as ~/.config/fish/completions/di4c.fish.",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from di4c_plugin.cli.main import make_parser

    print(shtab.complete(make_parser(), args.shell))
    return 0
