"""The options of `di4c evaluate`, read and checked."""

import argparse
import math

from di4c_plugin.cli.arguments import flag
from di4c_plugin.cli.sources import TEMPERATURE
from di4c_plugin.errors import UserError
from di4c_plugin.files import new_file, user_path
from di4c_plugin.limits import SAMPLES, exceeds, over

# What is at least 1, where it is said, and the most that it may be.
COUNTS = {
    **{"samples": SAMPLES, "seeds": 10**4, "processes": 10**3, "batch_size": math.inf},
    **dict.fromkeys(("scorer_batch", "length", "ngram_order", "mauve_buckets"), math.inf),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options but those of sampling."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="path of a model file, or SOURCE:NAME as builtin:digits; or a file of samples: texts "
        "(.txt, .jsonl, .json) or tokens (.npy)",
    )
    add = parser.add_argument
    add("--metric", type=names, help="one or several, separated by commas: fd on tokens; fid, kid, "
        "precision_recall of pictures; gen_ppl, entropy, mauve, gradient_moment, self_bleu, "
        "distinct_n, bits, coverage of texts; default fd, of files entropy")  # fmt: skip
    add("--steps", type=numbers, default="1,2,4,8,16", help="network calls a sample, separated by "
        "commas; default 1,2,4,8,16")  # fmt: skip
    add("--samples", type=int, default=10_000, help="of each model and setting; default 10000")
    add("--seeds", type=int, default=1, help="how many, from --seed on; default 1")
    add("--temperatures", type=floats, metavar="T,T,…", help="draw from p(x_0 | x_t)^(1/T)")
    add("--sweep", type=sweep, metavar="OPTION=V,V,…", help="another option of the sampler over "
        "several values, as guidance=0,1,2")  # fmt: skip
    add("--at-entropy", type=entropy, metavar="NATS", help="compare at this entropy; data: at that "
        "of the reference; own: with the first model in 1, 2, 4 times as many steps")  # fmt: skip
    add("--labels", metavar="WHICH", help="for models that take class labels: data (as often as "
        "there, the default), uniform, none, or numbers separated by commas")  # fmt: skip
    add("--plot", type=user_path, metavar="FILE.png", help="draw the values")
    add("--overwrite", action="store_true", help="replace the files of --json and --plot")
    add(
        "--repeat",
        type=user_path,
        metavar="REPORT",
        help="do again what a report says, and compare",
    )
    add("--shards", type=user_path, metavar="FOLDER", help="keep the samples here: an interrupted "
        "evaluation goes on")  # fmt: skip
    add("--processes", type=int, default=1, help="that draw, on --device cuda one for each GPU; "
        "default 1")  # fmt: skip
    _add_texts(parser)
    _add_pictures(parser)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("metrics of texts").add_argument
    add("--tokenizer", metavar="NAME", help="texts: the model's, a folder or hub id, or bytes")
    add("--scorer", metavar="NAME", help="gen_ppl, gradient_moment, mauve: a causal "
        "language model, a folder or hub id; without --tokenizer it is given tokens")  # fmt: skip
    add("--scorer-dtype", default="float32", help="default float32")
    add("--scorer-batch", type=int, default=8, help="texts scored at once; default 8")
    add("--after-end", default="hosts", help="gen_ppl, after the first end of text: hosts (all "
        "counts but further ends; default), keep (all counts), cut (nothing counts)")  # fmt: skip
    add("--length", type=int, help="files: tokens of a sequence of the reference")
    add("--ngram-order", type=int, default=5, help="bits: default 5")
    add("--mauve-model", metavar="NAME", help="whose features; default: the scorer's")
    add("--mauve-buckets", type=int, help="default: a tenth of the samples")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the reference, and metrics of pictures").add_argument
    add("--reference", metavar="PATH", help="what to compare with. Texts: a file as of samples; a "
        ".txt is running text. Pictures: a folder; default: the host's data, as the host draws "
        "them, so that codes are decoded and not the original pictures")  # fmt: skip
    add("--statistics", type=user_path, metavar="FILE.npz", help="fid: statistics of the "
        "reference, read if the file is there, else written")  # fmt: skip
    add("--inception", type=user_path, metavar="PATH", help="fid: weights of the feature "
        "extractor; default: where torch-fidelity keeps them")  # fmt: skip


def names(text: str) -> list[str]:
    """Read names separated by commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(text: str) -> list[int]:
    """Read numbers from 1 separated by commas, each once; raises UserError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UserError(f"--steps takes numbers from 1 separated by commas, not {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def floats(text: str, option: str = "--temperatures") -> list[float]:
    """Read numbers separated by commas, each once; raises UserError."""
    try:
        values = list(dict.fromkeys(map(float, text.split(","))))
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UserError(f"{option} takes numbers separated by commas, not {text!r}")
    return values


def sweep(text: str) -> tuple[str, list[float]]:
    """Read OPTION=V,V,…; raises UserError."""
    name, equals, values = text.partition("=")
    if not (name and equals):
        raise UserError(f"--sweep takes OPTION=V,V,…, not {text!r}")
    return name, floats(values, f"--sweep {name}")


def entropy(text: str) -> float | str:
    """Read an entropy in nats, "data" or "own"; raises UserError."""
    return text if text in ("data", "own") else floats(text, "--at-entropy")[0]


def completed(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options with --temperatures as --sweep, and the default of --metric.

    --sweep temperature=… is the same, if the sampler has no such option.

    Raises:
        UserError: if both --temperatures and --sweep are given, and for an unknown sampler.
    """
    from di4c_plugin.evaluation.texts import is_texts
    from di4c_plugin.options import parameters
    from di4c_plugin.samplers import sampler_named

    options = argparse.Namespace(**vars(args))
    if args.temperatures is not None:
        if args.sweep is not None:
            raise UserError("--temperatures and --sweep exclude each other")
        options.sweep, options.temperatures = (TEMPERATURE, args.temperatures), None
    elif args.sweep is not None and args.sweep[0] == "temperature":
        takes_it = "temperature" in (parameters(sampler_named(args.sampler or "ancestral")) or {})
        options.sweep = args.sweep if takes_it else (TEMPERATURE, args.sweep[1])
    if not args.metric:
        options.metric = ["entropy"] if all(map(is_texts, args.models)) else ["fd"]
    return options


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is drawn; raises UserError."""
    from di4c_plugin.evaluation.texts import is_texts

    if not args.models:
        raise UserError("name a model or a file of samples; see di4c evaluate --help")
    for name in args.models:
        if args.models.count(name) > 1:
            raise UserError(f"{name} is named twice")
    check_written(args)
    for name, most in COUNTS.items():
        count = getattr(args, name)
        if count is not None and count < 1:
            raise UserError(f"{flag(name)} is at least 1, not {count}")
        if count is not None and exceeds(count, most):
            raise UserError(over(f"{flag(name)} is at most {most}, not {count}"))
    if not 0 <= args.seed <= 2**63 - args.seeds:
        raise UserError(f"seed must be in [0, 2^63), not {args.seed}")
    if args.at_entropy is not None and "entropy" not in args.metric:
        raise UserError("--at-entropy needs the entropy of the samples: add it to --metric")
    if args.at_entropy is not None and args.metric == ["entropy"]:
        raise UserError("--at-entropy compares other values at this entropy: add one to --metric")
    if args.at_entropy == "own":
        tempered = args.sweep is not None and args.sweep[0] == TEMPERATURE
        drawn = [name for name in args.models if not is_texts(name)]
        if len(drawn) < 2 or not (tempered and 1 in args.sweep[1]):
            raise UserError(
                "--at-entropy own compares models with the first one's curve: name two models, and "
                "--temperatures with 1 among them"
            )
    if args.sweep is not None:
        name, values = args.sweep
        if name == TEMPERATURE and min(values) <= 0:
            raise UserError(f"temperatures are above 0, not {min(values):g}")
        if name in dict(args.option):
            raise UserError(f"{name} is swept: leave out --option {name}=…")


def check_written(args: argparse.Namespace) -> None:
    """Refuse files that cannot be written, or would replace another; raises UserError."""
    from di4c_plugin.evaluation.pictures import check_png

    if args.plot is not None:
        check_png(args.plot)
    read = [args.reference, args.statistics, args.inception, args.repeat, *args.models]
    taken = {user_path(path).resolve() for path in read if path}
    for name in ("json", "plot"):
        path = getattr(args, name)
        if path is None:
            continue
        if path.resolve() in taken:
            raise UserError(f"{flag(name)} {path} is another file of this command")
        taken.add(path.resolve())
        new_file(path, overwrite=args.overwrite)
    if args.statistics is not None and not args.statistics.exists():
        new_file(args.statistics)
    if args.shards is not None:
        new_file(args.shards / "shard")
