"""What all commands print alike: tables, and reports as JSON.

Results go to stdout, in colour and lines only on a terminal; progress and remarks go to stderr,
and nowhere under `--quiet`. rich heeds `NO_COLOR`. The options are in `di4c_plugin.cli.arguments`.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from di4c_plugin.announce import announce, is_first_process
from di4c_plugin.errors import UserError
from di4c_plugin.files import new_file, user_path


def print_fields(*fields: object) -> None:
    """Print a line of a table that grows: in columns on a terminal, separated by tabs elsewhere."""
    line = "\t".join(map(str, fields))
    print(line.expandtabs(16) if sys.stdout.isatty() else line, flush=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, lines of fields separated by tabs elsewhere."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        for row in (header, *rows):
            print(*row, sep="\t")
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)


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


def write_results(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write --json, if it was asked for, and say so."""
    if args.json is not None and is_first_process():
        from di4c_plugin.evaluation.report import write_json

        write_json(args.json, results)
        announce(f"wrote {args.json}")
