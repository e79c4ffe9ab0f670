"""`di4c plugins`: what is loaded, from which distribution, and what it registers."""

import argparse
import sys
from collections.abc import Iterator

from di4c_plugin.cli.output import print_table, write_results
from di4c_plugin.plugins import DISABLE, PluginManager, installed_plugins

HEADER = ("plugin", "distribution", "kind", "names")
HELP = "list what is registered, and by which plugin"
DESCRIPTION = f"List what is registered, and by which plugin. {DISABLE}=name,… leaves plugins out."
EXAMPLE = "di4c plugins"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""


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
