"""What the parsers of all commands share."""

import argparse

from di4c_plugin.files import user_path


def add_output(parser: argparse.ArgumentParser, *, results: bool) -> None:
    """Add --quiet, and --json and --overwrite to a command that has results of its own."""
    add = parser.add_argument_group("output").add_argument
    add("--quiet", action="store_true", help="no progress: results and errors only")
    if results:
        add("--json", type=user_path, metavar="FILE", help="write the results to this file too")
        if "--overwrite" not in parser._option_string_actions:
            add("--overwrite", action="store_true", help="replace the file of --json")


def flag(name: str) -> str:
    """Return the option whose value argparse keeps under `name`."""
    return f"--{name.replace('_', '-')}"
