"""`di4c doctor`: which hosts are here, what they lack on this machine, and how to get the rest."""

import argparse
from typing import TYPE_CHECKING

from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "doctor",
        help="look at the hosts: MDLM, SDTT, Duo, MaskGIT, Halton-MaskGIT, tauLDR",
        description="Tell which hosts are in a folder, at which commit, which stand-ins and "
        "remedies `di4c run` uses on this machine and why, and how to fetch what is missing.",
    )
    parser.add_argument(
        "folder", nargs="?", type=user_path, help="where the hosts are, or one of them: external"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Print a table on a terminal, lines of tab-separated fields elsewhere."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from di4c_plugin.errors import UserError
    from di4c_plugin.programs.checkup import checkup, default_folder

    if args.folder and not args.folder.is_dir():
        raise UserError(f"no such folder: {args.folder}")
    rows = checkup(args.folder or default_folder(), gpu=torch.cuda.is_available())
    console = Console()
    if not console.is_terminal:
        for row in rows:
            print(*row, sep="\t")
        return 0
    table = Table("host", "what", "why")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 0
