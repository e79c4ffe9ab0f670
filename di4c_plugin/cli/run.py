"""`di4c run`: runs the unmodified program of a host, with what it lacks on this machine."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "run",
        help="run a host's own program",
        description="Run a host's own program, for example: di4c run external/mdlm/main.py "
        "algo=di4c teacher=teacher.ckpt. Packages that cannot be installed here get stand-ins.",
    )
    parser.add_argument("script", help="path of the program")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="the program's own arguments"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the program; it ends the process itself if something fails."""
    from di4c_plugin.hosts.launch import launch

    launch(args.script, args.arguments)
    return 0
