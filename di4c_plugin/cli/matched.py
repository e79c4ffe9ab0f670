"""What `di4c evaluate --at-entropy` prints: models compared at equal entropy."""

from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.output import print_fields

if TYPE_CHECKING:
    from di4c_plugin.evaluation.frontier import Point


def at_entropy(points: "list[Point]", entropy: float, at: float | None) -> dict[str, Any]:
    """Print the values at an entropy, and return what the report says of them.

    `at`: the value of the swept option where they are compared as they are, see `only_entropy`.
    """
    from di4c_plugin.evaluation.figures import shown
    from di4c_plugin.evaluation.frontier import LOGARITHMIC, matched, only_entropy
    from di4c_plugin.evaluation.record import plain

    values = matched(points, entropy)
    models = list(dict.fromkeys(entry.model for entry in values))
    compared = f"; differences from {models[0]} by seed" if len(models) > 1 else ""
    if compared and any(entry.column in LOGARITHMIC for entry in values):
        compared += f", of {', '.join(LOGARITHMIC)} as log ratio"
    print(f"# at entropy {entropy:.4g}{compared}")
    difference = ["difference"] if compared else []
    print_fields("model", "steps", "value", "at this entropy", *difference)
    for entry in values:
        low, high = entry.reached
        count = "1 seed" if entry.missing == 1 else f"{entry.missing} seeds"
        value = f"not reached by {count} ({low:.4g} to {high:.4g})"
        if entry.figure is not None:
            value = shown(entry.figure)
        difference = [] if entry.difference is None else [shown(entry.difference)]
        print_fields(entry.model, entry.steps, entry.column, value, *difference)
    sentences = only_entropy(points, values, at)
    for sentence in sentences:
        print(f"# {sentence}")
    return {"entropy": entropy, "values": plain(values), "only_lower_entropy": sentences}


def at_own_entropy(points: "list[Point]") -> list[dict[str, Any]]:
    """Print models against the first one's curve, and return what the report says of them."""
    from di4c_plugin.evaluation.figures import shown
    from di4c_plugin.evaluation.frontier import LOGARITHMIC, TIMES, against_first
    from di4c_plugin.evaluation.record import plain

    results = against_first(points, 1.0)
    ratio = f", of {', '.join(LOGARITHMIC)} as log ratio"
    ratio = ratio if any(entry.column in LOGARITHMIC for entry in results) else ""
    first = next(point.model for point in points if point.seed is not None)
    print(f"# minus {first} at the model's own entropy, by seed{ratio}; it takes")
    print_fields("model", "steps", "value", *(f"{times} x steps" for times in TIMES))
    for entry in results:
        cells = ("" if d is None else shown(d) for d in entry.differences.values())
        print_fields(entry.model, entry.steps, entry.column, *cells)
    return plain(results)
