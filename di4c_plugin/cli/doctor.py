"""`di4c doctor`: which hosts are here, what they lack on this machine, and how to get the rest."""

import argparse
from typing import TYPE_CHECKING

from di4c_plugin.cli.output import print_table, write_results
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers

HEADER = ("host", "what", "why")
EXAMPLE = "di4c doctor external"


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

    from di4c_plugin.errors import UserError
    from di4c_plugin.programs.checkup import checkup, default_folder

    if args.folder and not args.folder.is_dir():
        raise UserError(f"no such folder: {args.folder}")
    rows = list(checkup(args.folder or default_folder(), gpu=torch.cuda.is_available()))
    print_table(HEADER, rows)
    write_results(args, {"rows": [dict(zip(HEADER, row, strict=True)) for row in rows]})
    return 0
