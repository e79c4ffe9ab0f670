"""`di4c completion`: what makes a shell complete commands and options."""

import argparse

HELP = "print what completes commands and options in a shell"
DESCRIPTION = (
    "Print a script that completes commands and options. zsh: save it as _di4c in "
    "a folder of $fpath; fish: as ~/.config/fish/completions/di4c.fish."
)
EXAMPLE = "di4c completion bash > ~/.local/share/bash-completion/completions/di4c"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from di4c_plugin.cli.main import make_parser

    print(shtab.complete(make_parser(), args.shell))
    return 0
