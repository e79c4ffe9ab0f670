"""`di4c plugins`: what is loaded, from which distribution, and what it registers."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from di4c_plugin.cli.output import print_table, write_results
from di4c_plugin.plugins import DISABLE, PluginManager, installed_plugins

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers

HEADER = ("plugin", "distribution", "kind", "names")
EXAMPLE = "di4c plugins"


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    return subparsers.add_parser(
        "plugins",
        help="list what is registered, and by which plugin",
        description=f"List what is registered, and by which plugin. {DISABLE}=name,… leaves "
        "plugins out.",
    )


def run(args: argparse.Namespace) -> int:
    """Print a table on a terminal, lines of tab-separated fields elsewhere.

    A broken plugin is a warning.
    """
    broken = dict[str, None]()
    rows = list(_rows(installed_plugins(lambda error: broken.update({str(error): None}))))
    for line in broken:
        print(f"di4c: warning: {line}", file=sys.stderr)
    print_table(HEADER, rows)
    write_results(args, {"rows": [dict(zip(HEADER, row, strict=True)) for row in rows]})
    return 0


def _rows(manager: PluginManager) -> Iterator[tuple[str, str, str, str]]:
    for plugin in manager.plugins():
        for kind, names in plugin.registered.items() or [("nothing", ())]:
            yield plugin.name, plugin.distribution, kind, ", ".join(names)
