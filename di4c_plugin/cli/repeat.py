"""`di4c evaluate --repeat`: what a report holds of the command, and how two runs compare."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError, printable, refusing

if TYPE_CHECKING:
    from di4c_plugin.evaluation.frontier import Point

# Of the run and not of the figures; and options of a host, which may name code to be imported:
# these are the user's alone.
OWN = ("run", "quiet", "repeat", "json", "plot", "overwrite", "shards", "processes", "host_option")


def plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that figures depend on, as JSON values."""
    kept = {k: v for k, v in vars(args).items() if k not in OWN}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in kept.items()}
    return plain | {"host_option": [name for name, _ in args.host_option]}


def restored(args: argparse.Namespace, plain: dict[str, Any], origin: Path) -> argparse.Namespace:
    """Return the options of a report, with those of the present command that are its own.

    Raises:
        UserError: for options that this version has not, and options of a host that the user has
            not typed again.
    """
    unknown = plain.keys() - vars(args).keys()
    if unknown:
        raise UserError(f"{origin} was made with an unknown option {sorted(unknown)[0]!r}")
    missing = set(plain.pop("host_option", ())) - {name for name, _ in args.host_option}
    if missing:
        raise UserError(
            f"{origin} was made with --host-option {sorted(missing)[0]}=…: type it again, since no "
            "file may name what a host opens"
        )
    taken = sorted(plain.keys() & set(OWN))
    if taken:
        raise UserError(f"{origin} names {taken[0]}: what is run and written is the user's to say")
    with refusing(f"{origin} cannot be repeated"):
        plain["option"] = [(str(name), value) for name, value in plain["option"]]
        if plain["sweep"] is not None:
            name, values = plain["sweep"]
            plain["sweep"] = str(name), [float(value) for value in values]
        for name in ("statistics", "inception"):
            plain[name] = None if plain[name] is None else Path(plain[name])
        if plain["statistics"] is not None and not plain["statistics"].exists():
            plain["statistics"] = None  # it would be written
        plain["models"] = [str(name) for name in plain["models"]]
        return argparse.Namespace(**vars(args) | plain)


Evaluate = Callable[[argparse.Namespace], "tuple[list[Point], dict[str, Any]]"]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what is another than in the report: weights, files, scorer, versions, and the like."""
    pairs: list[tuple[str, Any, Any]] = []
    for kind, old, new in (
        ("notes", before.get("notes"), now["notes"]),
        ("versions", before.get("versions"), now["versions"]),
    ):
        if isinstance(old, dict) and old != new:
            pairs += [(f"{kind} {k}", old.get(k), new.get(k)) for k in {**old, **new}]
    prints = [{s.get("name"): s.get("fingerprint") for s in r["sources"]} for r in (before, now)]
    prints = [p | {"reference": dict(r.get("reference") or {}).get("fingerprint")}
              for p, r in zip(prints, (before, now), strict=True)]  # fmt: skip
    pairs += [
        (f"fingerprint of {name}", prints[0].get(name), prints[1][name]) for name in prints[1]
    ]
    pairs.append(("commit", before.get("commit"), now["commit"]))
    return [f"{what} was {old}, is {new}" for what, old, new in pairs if old != new]


def repeat(args: argparse.Namespace, evaluate: Evaluate) -> int:
    """Run again, print how the figures compare, and return 1 where one differs, else 0."""
    from di4c_plugin.evaluation.record import compare, read_report

    if args.models:
        raise UserError("--repeat takes models and options from the report: name none")
    before = read_report(args.repeat)
    told = restored(args, before["arguments"], args.repeat)
    with refusing(f"{args.repeat} cannot be repeated"):
        points, now = evaluate(told)
        said = changes(before, now)
    found = compare(before["points"], points)
    for line in said:
        print(f"# {printable(line)}")
    print(f"# compared with {args.repeat}: equal, or within two standard errors of the difference")
    print("model", "steps", "swept", "seed", "value", "before", "now", "verdict", sep="\t")
    for entry in found:
        setting = ["" if x is None else x for x in (entry.steps, entry.swept, entry.seed)]
        value = "" if entry.now is None else f"{entry.now.value:.6g}"
        print(
            *(
                entry.model,
                *setting,
                entry.column,
                f"{entry.before.value:.6g}",
                value,
                entry.verdict,
            ),
            sep="\t",
        )
    counts = Counter(entry.verdict for entry in found)
    print("# " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(any(counts[verdict] for verdict in ("differs", "missing")))
