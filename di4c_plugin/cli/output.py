"""What all commands print alike: tables, and reports as JSON.

Results go to stdout, in colour and lines only on a terminal; progress and remarks go to stderr,
and nowhere under `--quiet`. rich heeds `NO_COLOR`. The options are in `di4c_plugin.cli.arguments`.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from di4c_plugin.announce import announce, is_first_process


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


def write_results(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write --json, if it was asked for, and say so."""
    if args.json is not None and is_first_process():
        from di4c_plugin.evaluation.report import write_json

        write_json(args.json, results)
        announce(f"wrote {args.json}")
