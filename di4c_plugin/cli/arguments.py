"""What the parsers of all commands share."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from di4c_plugin.errors import UserError
from di4c_plugin.files import new_file, user_path


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


def check_results(args: argparse.Namespace) -> None:
    """Refuse a file for --json that cannot be written, or that the command reads or writes.

    Raises:
        UserError: for such a file.
    """
    if getattr(args, "json", None) is None:
        return
    new_file(args.json, overwrite=args.overwrite)
    for name, value in vars(args).items():
        if name != "json" and args.json.resolve() in _places(value):
            raise UserError(f"--json {args.json} is another file of this command")


def _places(value: Any) -> Iterator[Path]:
    """Yield where the paths in an option lead, also as the values of key=value."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _places(part)
    elif isinstance(value, str | Path):
        for text in (str(value), str(value).partition("=")[2].strip("'\"")):
            with contextlib.suppress(OSError, RuntimeError, UserError, ValueError):  # no path
                yield user_path(text).resolve()
