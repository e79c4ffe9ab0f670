"""`di4c evaluate`: measures samples of models and files, over steps, temperatures and seeds."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.evaluate_options import add_options, check, settled
from di4c_plugin.cli.metrics import Metric, Samples, make_metrics
from di4c_plugin.cli.output import write_results
from di4c_plugin.cli.sampling import add_sampling
from di4c_plugin.cli.sources import (
    ModelSource,
    clear_line,
    draw_in_processes,
    jobs,
    shard_folder,
)
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from di4c_plugin.cli.main import Subparsers
    from di4c_plugin.evaluation.figures import Figure
    from di4c_plugin.evaluation.frontier import Point, Row
    from di4c_plugin.evaluation.texts import Texts, Tokenizer

COST = {"calls": "network_calls", "ms/sample": "ms_per_sample", "tokens/s": "tokens_per_second"}
COST |= {"peak MB": "peak_memory_mb"}

EXAMPLE = (
    "di4c evaluate teacher.ckpt student.safetensors --metric gen_ppl,entropy --scorer"
    " gpt2 --tokenizer gpt2 --temperatures .8,.9,1 --seeds 3 --at-entropy data --reference real.txt"
)


def add_parser(subparsers: "Subparsers") -> argparse.ArgumentParser:
    """See `di4c_plugin.cli.main.Command`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure models over steps, temperatures and seeds",
        description="Draw samples at each number of steps and measure them, by default pictures of "
        "digits by Fréchet distance; the example compares texts at equal entropy.",
    )
    add_options(parser)
    add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure, and print a line for each setting, after lines with # that say of what."""
    if args.repeat is not None:
        from di4c_plugin.cli.repeat import repeat

        return repeat(args, evaluate)
    evaluate(args)
    return 0


@dataclass(frozen=True)
class Files:
    """What is read beside the models."""

    tokenizer: "Tokenizer | None"
    samples: "dict[str, Texts]"
    reference: "Texts | None"


def evaluate(args: argparse.Namespace) -> "tuple[list[Point], dict[str, Any]]":
    """Measure, print, and write what the options ask for; return points and report.

    Raises:
        UserError: for any mistake of the user.
    """
    from di4c_plugin.announce import announce
    from di4c_plugin.evaluation.frontier import rows

    args = settled(args)
    check(args)
    models, files = _open(args)
    first = (models[0].host, models[0].model) if models else None
    metrics = make_metrics(args, first, files.reference)
    at = _entropy(args, files.reference)
    notes = _notes(args, models, files, metrics)
    columns = tuple(column for metric in metrics for column in metric.columns)
    for name, note in notes.items():
        print(f"# {name}: {note}")
    costs = COST if models else {}  # nothing is drawn of files
    print(*_header(args, (*columns, *costs)), sep="\t", flush=True)
    points: list[Point] = []
    for group in _measured(args, models, files, metrics):
        points += group
        clear_line()
        for row in rows(group):
            print(*_cells(args, row, columns, costs.values()), sep="\t", flush=True)
    report = _report(args, models, files, notes, points)
    if at is not None:
        report["at_entropy"] = _at(points, at)
    if args.plot is not None:
        from di4c_plugin.evaluation.frontier_plot import frontier_plot

        swept = None if args.sweep is None else args.sweep[0]
        frontier_plot(rows(points), args.plot, swept=swept, at=at)
        announce(f"wrote {args.plot}")
    write_results(args, report)
    return points, report


def _open(args: argparse.Namespace) -> tuple[list[ModelSource], Files]:
    from di4c_plugin.evaluation.scorer import load_tokenizer
    from di4c_plugin.evaluation.texts import is_texts, read_reference, read_samples

    named = [name for name in args.models if is_texts(name)]
    models = [ModelSource(args, name) for name in args.models if name not in named]
    source = args.tokenizer
    if source is None and not models:
        source = args.scorer  # texts of files are tokenised by the scorer's, unless it is said
    tokenizer = None if source is None else load_tokenizer(source)
    samples = {name: read_samples(user_path(name), tokenizer) for name in named}
    length = models[0].model.network.positions if models else args.length
    reference = None
    if args.reference is not None and is_texts(args.reference):
        reference = read_reference(user_path(args.reference), tokenizer, length)
    return models, Files(tokenizer, samples, reference)


def _entropy(args: argparse.Namespace, reference: "Texts | None") -> float | None:
    from di4c_plugin.evaluation.entropy import entropies
    from di4c_plugin.evaluation.text_metric import needed_reference

    if args.at_entropy != "data":
        return args.at_entropy
    return float(entropies(needed_reference(reference, "--at-entropy data")).mean())


def _notes(
    args: argparse.Namespace, models: list[ModelSource], files: Files, metrics: list[Metric]
) -> dict[str, str]:
    notes: dict[str, str] = {}
    for source in models:
        notes |= source.label_note
    if files.tokenizer is not None:
        notes["tokenizer"] = f"{files.tokenizer.name}, {len(files.tokenizer)} tokens"
    if args.scorer is not None:
        anew = "tokenised anew" if files.tokenizer is not None else "tokens as they were drawn"
        notes["scored"] = f"texts {anew}" if files.tokenizer is not None else anew
    if files.reference is not None:
        notes["reference"] = f"{args.reference}, {len(files.reference)} sequences"
    for metric in metrics:
        notes |= metric.notes
    return notes


def _measured(
    args: argparse.Namespace, models: list[ModelSource], files: Files, metrics: list[Metric]
) -> "Iterator[list[Point]]":
    """Yield the points of each setting, over the seeds."""
    from di4c_plugin.evaluation.frontier import Point

    for name, texts in files.samples.items():
        samples = Samples(None, None, partial(_same, texts))
        yield [Point(name, None, None, None, len(texts), _values(metrics, samples))]
    if not models:
        return
    with shard_folder(args) as folder:
        if args.processes > 1:
            assert folder is not None
            draw_in_processes(args, [source.name for source in models], folder)
        for source in models:
            todo = jobs(args)
            for start in range(0, len(todo), args.seeds):
                group = todo[start : start + args.seeds]
                yield [_point(args, source, files, metrics, job, folder) for job in group]


def _same(texts: "Texts") -> "Texts":
    return texts


def _point(
    args: argparse.Namespace,
    source: ModelSource,
    files: Files,
    metrics: list[Metric],
    job: Any,
    folder: Path | None,
) -> "Point":
    import torch

    from di4c_plugin.evaluation.frontier import Point
    from di4c_plugin.evaluation.shards import cost
    from di4c_plugin.evaluation.texts import data_tokens, of_tokens

    shards = source.draw(job, folder)
    x = torch.cat([shard.tokens for shard in shards])
    known = data_tokens(source.model.process)
    samples = Samples(x, source.host, lambda: of_tokens(x, known, files.tokenizer))
    found = _values(metrics, samples)
    took = cost(shards, args.device)
    return Point(source.name, job.steps, job.swept, job.seed, len(x), found, took)


def _values(metrics: list[Metric], samples: Samples) -> "dict[str, Figure]":
    found: dict[str, Figure] = {}
    for metric in metrics:
        found |= metric.values(samples)
    return found


def _header(args: argparse.Namespace, columns: Sequence[str]) -> list[str]:
    several = ["model"] if len(args.models) > 1 else []
    swept = [] if args.sweep is None else [args.sweep[0]]
    return [*several, "steps", *swept, *columns]


def _cells(
    args: argparse.Namespace, row: "Row", columns: Sequence[str], costs: Iterable[str]
) -> list[str]:
    from di4c_plugin.evaluation.figures import shown

    several = [row.model] if len(args.models) > 1 else []
    swept = [] if args.sweep is None else ["" if row.swept is None else f"{row.swept:g}"]
    steps = "" if row.steps is None else str(row.steps)
    took = [f"{row.cost[name]:.4g}" if name in row.cost else "" for name in costs]
    return [*several, steps, *swept, *(shown(row.figures[name]) for name in columns), *took]


def _at(points: "list[Point]", at: float) -> dict[str, Any]:
    """Print the values at an entropy, and return what the report says of them."""
    from di4c_plugin.evaluation.figures import shown
    from di4c_plugin.evaluation.frontier import matched, only_entropy
    from di4c_plugin.evaluation.record import plain_matched

    found = matched(points, at)
    first = next((entry.model for entry in found), "")
    print(f"# at entropy {at:.4g}; differences from {first} by seed, of gen_ppl as log ratio")
    print("model", "steps", "value", "at this entropy", "difference", sep="\t")
    for entry in found:
        low, high = entry.reached
        value = f"not reached ({low:.4g} to {high:.4g})"
        if entry.figure is not None:
            value = shown(entry.figure)
        difference = "" if entry.difference is None else shown(entry.difference)
        print(entry.model, entry.steps, entry.column, value, difference, sep="\t")
    said = only_entropy(points, found)
    for line in said:
        print(f"# {line}")
    return {"entropy": at, "values": plain_matched(found), "only_lower_entropy": said}


def _report(
    args: argparse.Namespace,
    models: list[ModelSource],
    files: Files,
    notes: dict[str, str],
    points: "list[Point]",
) -> dict[str, Any]:
    from di4c_plugin.cli.repeat import plain_arguments
    from di4c_plugin.evaluation import record
    from di4c_plugin.evaluation.frontier import rows

    read = [{"name": k, "kind": "samples", "fingerprint": record.file_sha256(user_path(k))}
            for k in files.samples]  # fmt: skip
    kept = args.reference and record.file_sha256(user_path(args.reference))
    return {
        "format": record.FORMAT,
        "arguments": plain_arguments(args),
        "sources": [*(source.described() for source in models), *read],
        "draws": "float64",
        "reference": {"name": args.reference, "fingerprint": kept},
        "notes": notes,
        "versions": record.versions(),
        "commit": record.commit(),
        "rows": record.plain_rows(rows(points)),
        "points": record.plain_points(points),
    }
