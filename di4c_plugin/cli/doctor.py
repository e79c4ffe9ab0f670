"""`di4c doctor`: which hosts are here, what they lack on this machine, and how to get the rest."""

import argparse

from di4c_plugin.cli.output import print_table, write_results
from di4c_plugin.files import user_path

HEADER = ("host", "what", "why")
HELP = "look at the hosts: MDLM, SDTT, Duo, MaskGIT, Halton-MaskGIT, tauLDR"
DESCRIPTION = (
    "Tell which hosts are in a folder, at which commit, which stand-ins and "
    "remedies `di4c run` uses on this machine and why, and how to fetch what is missing."
)
EXAMPLE = "di4c doctor external"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    parser.add_argument(
        "folder", nargs="?", type=user_path, help="where the hosts are, or one of them: external"
    )


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
