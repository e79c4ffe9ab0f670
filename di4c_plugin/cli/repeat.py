"""`di4c evaluate --repeat`: what a report holds of the command, and how two runs compare."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.output import print_fields
from di4c_plugin.errors import UserError, printable, quoted, refusing
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from di4c_plugin.evaluation.frontier import Point

Evaluate = Callable[[argparse.Namespace], "tuple[list[Point], dict[str, Any]]"]

# What a report has for an option, by its type on the command line.
KINDS: dict[Any, type] = {int: int, user_path: str, None: str}
# Not in a report, since figures do not depend on them; nor may a report set them. Of options of a
# host, which may name code to be imported, a report has the names only.
OWN = ("run", "quiet", "repeat", "json", "plot", "overwrite", "shards", "processes", "host_option")


def plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that figures depend on, as JSON values."""
    options = {k: v for k, v in vars(args).items() if k not in OWN}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    return plain | {"host_option": [name for name, _ in args.host_option]}


def restored(args: argparse.Namespace, plain: dict[str, Any], origin: Path) -> argparse.Namespace:
    """Return the options of a report, and those of the present command that are not in reports.

    Args:
        args: of the present command.
        plain: the options in the report, as `plain_arguments` returns them.
        origin: the report, for messages.

    Raises:
        UserError: for options that this version does not have, options that a report may not set,
            and options of a host that the user has not typed again.
    """
    for name in sorted(plain.keys() - vars(args).keys()):
        raise UserError(f"{origin} was made with {name}, which di4c evaluate does not have")
    check_types(plain, origin)
    untyped = set(plain.pop("host_option", ())) - {name for name, _ in args.host_option}
    for name in sorted(untyped):
        raise UserError(
            f"{origin} was made with --host-option {name}=…: type it again, since no file may name "
            "what a host opens"
        )
    for name in sorted(plain.keys() & set(OWN)):
        raise UserError(f"{origin} names {name}: what is run and written is the user's to say")
    with refusing(f"{origin} cannot be repeated"):
        options = argparse.Namespace(**vars(args) | plain)
        options.models = [str(name) for name in plain["models"]]
        options.option = [(str(name), value) for name, value in options.option]
        if options.sweep is not None:
            name, values = options.sweep
            options.sweep = str(name), [float(value) for value in values]
        options.inception = options.inception and Path(options.inception)
        options.statistics = options.statistics and Path(options.statistics)
        if options.statistics is not None and not options.statistics.exists():
            options.statistics = None  # it would be written
        return options


def check_types(plain: dict[str, Any], origin: Path) -> None:
    """Refuse options of a report that are not of the command line's types; raises UserError."""
    from di4c_plugin.cli.evaluate import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    kinds = {a.dest: KINDS[a.type] for a in parser._actions if a.nargs is None and a.type in KINDS}
    lists = dict.fromkeys(("models", "metric", "host_option"), str) | {"steps": int}
    for name, value in plain.items():
        values = value if name in lists and isinstance(value, list) else [value]
        kind = lists.get(name) or kinds.get(name)
        wrong = [each for each in values if kind and type(each) is not kind]
        if value is None and name in kinds:
            continue
        if wrong or (name in lists and not isinstance(value, list)):
            found = quoted(wrong[0] if wrong else value)
            raise UserError(f"{origin} is a damaged report: its {name} is {found}")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two reports but the figures: weights, files, versions, notes."""
    pairs: list[tuple[str, Any, Any]] = [("commit", before.get("commit"), now["commit"])]
    for kind in ("notes", "versions"):
        old, new = before.get(kind), now[kind]
        if isinstance(old, dict):
            pairs += [(f"{kind} {name}", old.get(name), new.get(name)) for name in {**old, **new}]
    old, new = _fingerprints(before), _fingerprints(now)
    pairs += [(f"fingerprint of {name}", old.get(name), new[name]) for name in new]
    return [f"{what} was {old}, is {new}" for what, old, new in pairs if old != new]


def _fingerprints(report: dict[str, Any]) -> dict[Any, Any]:
    found = {"reference": dict(report.get("reference") or {}).get("fingerprint")}
    for source in report["sources"]:
        name, partners = source.get("name"), source.get("partners")
        found[name] = source.get("fingerprint")
        if isinstance(partners, dict):
            found |= {f"{option} of {name}": value for option, value in partners.items()}
    return found


def repeat(args: argparse.Namespace, evaluate: Evaluate) -> int:
    """Run again, print how the figures compare, and return 1 where one differs, else 0.

    Raises:
        UserError: for a file that is no report, and as `restored` and `evaluate`.
    """
    from di4c_plugin.evaluation.record import compare, read_report

    if args.models:
        raise UserError("--repeat takes models and options from the report: name none")
    before = read_report(args.repeat)
    options = restored(args, before["arguments"], args.repeat)
    with refusing(f"{args.repeat} cannot be repeated"):
        points, now = evaluate(options)
        changed = changes(before, now)
    for line in changed:
        print(f"# {printable(line)}")
    print(f"# compared with {args.repeat}: equal, or within two standard errors of the difference")
    print_fields("model", "steps", "swept", "seed", "value", "before", "now", "verdict")
    counts: Counter[str] = Counter()
    for entry in compare(before["points"], points):
        setting = ["" if x is None else x for x in (entry.steps, entry.swept, entry.seed)]
        value = "" if entry.now is None else f"{entry.now.value:.6g}"
        figures = (entry.column, f"{entry.before.value:.6g}", value, entry.verdict)
        print_fields(entry.model, *setting, *figures)
        counts[entry.verdict] += 1
    print("# " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(any(counts[verdict] for verdict in ("differs", "missing")))
