"""`di4c evaluate`: measures samples of models and files, over steps, temperatures and seeds."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.evaluate_options import add_options, check, completed
from di4c_plugin.cli.matched import at_entropy, at_own_entropy
from di4c_plugin.cli.metrics import Samples, make_metrics
from di4c_plugin.cli.output import print_fields, write_results
from di4c_plugin.cli.sampling import add_sampling
from di4c_plugin.cli.sources import (
    TEMPERATURE,
    Job,
    ModelSource,
    draw_in_processes,
    jobs,
    shard_folder,
)
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from di4c_plugin.evaluation.figures import Figure
    from di4c_plugin.evaluation.frontier import Point, Row
    from di4c_plugin.evaluation.texts import Texts

# Titles of the columns of a sample's cost, and their names in `evaluation.shards.cost`.
COST = {
    "calls": "network_calls",
    "ms/sample": "ms_per_sample",
    "tokens/s": "tokens_per_second",
    "peak MB": "peak_memory_mb",
}

HELP = "measure models over steps, temperatures and seeds"
DESCRIPTION = (
    "Draw samples at each number of steps and measure them, by default pictures of "
    "digits by Fréchet distance; the example compares texts at equal entropy."
)
EXAMPLE = (
    "di4c evaluate teacher.ckpt student.safetensors --metric gen_ppl,entropy --scorer"
    " gpt2 --tokenizer gpt2 --temperatures .8,.9,1 --seeds 3 --at-entropy data --reference real.txt"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    add_options(parser)
    add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a line for each setting, after lines with # that say of what."""
    if args.repeat is not None:
        from di4c_plugin.cli.repeat import repeat

        return repeat(args, evaluate)
    evaluate(args)
    return 0


def evaluate(args: argparse.Namespace) -> "tuple[list[Point], dict[str, Any]]":
    """Measure, print, and write what the options ask for; return points and report.

    Raises:
        UserError: for any mistake of the user.
    """
    from di4c_plugin.announce import announce
    from di4c_plugin.evaluation.frontier import rows

    args = completed(args)
    check(args)
    evaluation = Evaluation(args)
    for name, note in evaluation.notes.items():
        print(f"# {name}: {note}")
    print_fields(*evaluation.header())
    points: list[Point] = []
    for of_setting in evaluation.points():
        points += of_setting
        for row in rows(of_setting):
            print_fields(*evaluation.cells(row))
    report = evaluation.report(points)
    if args.at_entropy == "own":
        report["at_own_entropy"] = at_own_entropy(points)
    elif evaluation.entropy is not None:
        tempered = args.sweep is not None and args.sweep[0] == TEMPERATURE
        report["at_entropy"] = at_entropy(points, evaluation.entropy, 1.0 if tempered else None)
    if args.plot is not None:
        from di4c_plugin.evaluation.frontier_plot import frontier_plot

        swept = None if args.sweep is None else args.sweep[0]
        frontier_plot(rows(points), args.plot, swept=swept, at=evaluation.entropy)
        announce(f"wrote {args.plot}")
    write_results(args, report)
    return points, report


class Evaluation:
    """Models and files of samples, what is read beside them, and the metrics.

    Attributes:
        models: whose samples are drawn.
        files: texts, by the name of their file.
        tokenizer: of texts; None: samples stay tokens.
        reference: real text, or None.
        metrics: what is measured.
        entropy: at which models are compared, in nats; None: at none.
        notes: what a reader of the values must know, by name.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Load and read everything; raises UserError."""
        from di4c_plugin.evaluation.scorer import load_tokenizer
        from di4c_plugin.evaluation.texts import (
            data_tokens,
            is_texts,
            read_reference,
            read_samples,
        )

        self.args = args
        self.models = [ModelSource(args, name) for name in args.models if not is_texts(name)]
        # Texts of files are tokenised by the scorer's tokenizer, unless another one is named.
        tokenizer = args.tokenizer or (None if self.models else args.scorer)
        self.tokenizer = None if tokenizer is None else load_tokenizer(tokenizer)
        sizes = [data_tokens(source.model.process) for source in self.models]
        self.files = {
            name: read_samples(user_path(name), self.tokenizer, max(sizes, default=0))
            for name in args.models
            if is_texts(name)
        }
        self.reference = None
        if args.reference is not None and is_texts(args.reference):
            length = self.models[0].model.network.positions if self.models else args.length
            sizes += [texts.num_tokens for texts in self.files.values()]
            self.reference = read_reference(
                user_path(args.reference), self.tokenizer, length, max(sizes, default=0)
            )
        first = (self.models[0].host, self.models[0].model) if self.models else None
        self.metrics = make_metrics(args, first, self.reference)
        self.entropy = self._entropy()
        self.notes = self._notes()
        self._columns = [column for metric in self.metrics for column in metric.columns]
        self._costs = COST if self.models else {}  # nothing is drawn of files

    def _entropy(self) -> float | None:
        from di4c_plugin.evaluation.entropy import entropies
        from di4c_plugin.evaluation.text_metric import needed_reference

        if self.args.at_entropy != "data":
            entropy: float | str | None = self.args.at_entropy
            return None if isinstance(entropy, str) else entropy
        return float(entropies(needed_reference(self.reference, "--at-entropy data")).mean())

    def _notes(self) -> dict[str, str]:
        from di4c_plugin.evaluation.texts import described

        notes: dict[str, str] = {}
        for source in self.models:
            notes |= source.label_note
        if self.tokenizer is not None:
            notes["tokenizer"] = described(self.tokenizer)
        if self.args.scorer is not None:
            is_anew = self.tokenizer is not None
            notes["scored"] = "texts tokenised anew" if is_anew else "tokens as they were drawn"
        if self.reference is not None:
            notes["reference"] = f"{self.args.reference}, {len(self.reference)} sequences"
        for metric in self.metrics:
            notes |= metric.notes
        return notes

    def points(self) -> "Iterator[list[Point]]":
        """Draw and measure; yield the points of each setting, over the seeds."""
        for name, texts in self.files.items():
            yield [self._point_of_file(name, texts)]
        if not self.models:
            return
        with shard_folder(self.args) as folder:
            if self.args.processes > 1:
                assert folder is not None
                draw_in_processes(self.args, [source.name for source in self.models], folder)
            for source in self.models:
                for of_setting in jobs(self.args):
                    yield [self._point(source, job, folder) for job in of_setting]

    def _point_of_file(self, name: str, texts: "Texts") -> "Point":
        from di4c_plugin.evaluation.frontier import Point

        figures = self._figures(Samples(None, None, lambda: texts))
        return Point(name, None, None, None, len(texts), figures)

    def _point(self, source: ModelSource, job: Job, folder: Path | None) -> "Point":
        import torch

        from di4c_plugin.evaluation.frontier import Point
        from di4c_plugin.evaluation.shards import cost
        from di4c_plugin.evaluation.texts import data_tokens, of_tokens

        shards = source.draw(job, folder)
        x = torch.cat([shard.tokens for shard in shards])
        num_tokens = data_tokens(source.model.process)
        samples = Samples(x, source.host, lambda: of_tokens(x, num_tokens, self.tokenizer))
        figures, spent = self._figures(samples), cost(shards, self.args.device)
        return Point(source.name, job.steps, job.swept, job.seed, len(x), figures, spent)

    def _figures(self, samples: Samples) -> "dict[str, Figure]":
        figures: dict[str, Figure] = {}
        for metric in self.metrics:
            figures |= metric.values(samples)
        return figures

    def header(self) -> list[str]:
        """Return the titles of the columns."""
        model = ["model"] if len(self.args.models) > 1 else []
        drawn = ["steps"] if self.models else []
        drawn += [] if self.args.sweep is None else [self.args.sweep[0]]
        return [*model, *drawn, *self._columns, *self._costs]

    def cells(self, row: "Row") -> list[str]:
        """Return a row as text, in the columns of `header`."""
        from di4c_plugin.evaluation.figures import digits, shown

        model = [row.model] if len(self.args.models) > 1 else []
        drawn = ["" if row.steps is None else str(row.steps)] if self.models else []
        drawn += [] if self.args.sweep is None else ["" if row.swept is None else f"{row.swept:g}"]
        figures = [shown(row.figures[name]) for name in self._columns]
        spent = [digits(row.cost[k]) if k in row.cost else "" for k in self._costs.values()]
        return [*model, *drawn, *figures, *spent]

    def report(self, points: "list[Point]") -> dict[str, Any]:
        """Return the report as JSON values; its keys are in the README of `evaluation`."""
        from di4c_plugin.cli.repeat import plain_arguments
        from di4c_plugin.evaluation import record
        from di4c_plugin.evaluation.frontier import rows

        reference = self.args.reference
        digests = {name: record.file_sha256(user_path(name)) for name in self.files}
        files = [{"name": n, "kind": "samples", "fingerprint": d} for n, d in digests.items()]
        return {
            "format": record.FORMAT,
            "arguments": plain_arguments(self.args),
            "sources": [*(source.described() for source in self.models), *files],
            "draws": "float64",
            "reference": {
                "name": reference,
                "fingerprint": reference and record.file_sha256(user_path(reference)),
            },
            "notes": self.notes,
            "versions": record.versions(),
            "commit": record.commit(),
            "rows": record.plain(rows(points)),
            "points": record.plain(points),
        }
