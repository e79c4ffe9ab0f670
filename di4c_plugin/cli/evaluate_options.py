"""The options of `di4c evaluate`, read and checked."""

import argparse
import math

from di4c_plugin.cli.sources import TEMPERATURE
from di4c_plugin.errors import UserError
from di4c_plugin.files import new_file, place, user_path
from di4c_plugin.limits import exceeds, over

MOST = {"samples": 10**8, "seeds": 10**4, "processes": 10**3}


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
        "distinct_n, bits of texts; default fd, of files entropy")  # fmt: skip
    add("--steps", type=numbers, default="1,2,4,8,16", help="default 1,2,4,8,16")
    add("--samples", type=int, default=10_000, help="of each model and setting; default 10000")
    add("--seeds", type=int, default=1, help="how many, from --seed on; default 1")
    add("--temperatures", type=floats, help="of p(x_0 | x_t), separated by commas")
    add("--sweep", type=sweep, metavar="OPTION=V,V,…", help="another option of the sampler over "
        "several values, as guidance=0,1,2")  # fmt: skip
    add("--at-entropy", type=entropy, metavar="NATS", help="compare at this entropy; data: at that "
        "of the reference")  # fmt: skip
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
    add = parser.add_argument
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
    add = parser.add_argument
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
    """Read numbers from 1 separated by commas; raises UserError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UserError(f"--steps takes numbers from 1 separated by commas, not {text!r}")
    return [int(part) for part in parts]


def floats(text: str, flag: str = "--temperatures") -> list[float]:
    """Read numbers separated by commas; raises UserError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise UserError(f"{flag} takes numbers separated by commas, not {text!r}")
    return found


def sweep(text: str) -> tuple[str, list[float]]:
    """Read OPTION=V,V,…; raises UserError."""
    name, equals, values = text.partition("=")
    if not (name and equals):
        raise UserError(f"--sweep takes OPTION=V,V,…, not {text!r}")
    return name, floats(values, f"--sweep {name}")


def entropy(text: str) -> float | str:
    """Read an entropy in nats, or "data"; raises UserError."""
    return text if text == "data" else floats(text, "--at-entropy")[0]


def settled(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options with --temperatures as a sweep and a metric chosen; raises UserError."""
    from di4c_plugin.evaluation.texts import is_texts

    chosen = argparse.Namespace(**vars(args))
    if args.temperatures is not None:
        if args.sweep is not None:
            raise UserError("--temperatures and --sweep exclude each other")
        chosen.sweep, chosen.temperatures = (TEMPERATURE, args.temperatures), None
    if not args.metric:
        only_files = all(is_texts(name) for name in args.models)
        chosen.metric = ["entropy"] if only_files else ["fd"]
    return chosen


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is drawn; raises UserError."""
    from di4c_plugin.evaluation.pictures import check_png

    if not args.models:
        raise UserError("name a model or a file of samples; see di4c evaluate --help")
    double = [name for name in args.models if args.models.count(name) > 1]
    if double:
        raise UserError(f"{double[0]} is named twice")
    if args.plot is not None:
        check_png(args.plot)
    check_written(args)
    for name in ("seeds", "processes", "scorer_batch", "length", "samples", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1 and name not in ("samples", "batch_size"):
            raise UserError(f"--{name.replace('_', '-')} is at least 1, not {value}")
    for name, most in MOST.items():
        if exceeds(getattr(args, name), most):
            raise UserError(over(f"--{name} is at most {most}, not {getattr(args, name)}"))
    if args.samples < 1 or args.batch_size < 1:
        raise UserError(
            f"n and batch_size must be at least 1, not {args.samples} and {args.batch_size}"
        )
    if not 0 <= args.seed <= 2**63 - args.seeds:
        raise UserError(f"seed must be in [0, 2^63), not {args.seed}")
    if args.sweep is not None and args.sweep[0] == TEMPERATURE and min(args.sweep[1]) <= 0:
        raise UserError(f"temperatures are above 0, not {min(args.sweep[1]):g}")
    if args.sweep is not None and args.sweep[0] in dict(args.option):
        raise UserError(f"{args.sweep[0]} is swept: leave out --option {args.sweep[0]}=…")
    if args.at_entropy is not None and "entropy" not in args.metric:
        raise UserError("--at-entropy needs the entropy of the samples: add it to --metric")


def check_written(args: argparse.Namespace) -> None:
    """Refuse files that cannot be written, or would replace another; raises UserError."""
    read = [args.reference, args.statistics, args.inception, args.repeat, *args.models]
    taken = {place(path) for path in read if path}
    for name in ("json", "plot"):
        path = getattr(args, name)
        if path is None:
            continue
        if place(path) in taken:
            raise UserError(f"--{name} {path} is another file of this command")
        taken.add(place(path))
        new_file(path, overwrite=args.overwrite)
    if args.statistics is not None and not args.statistics.exists():
        new_file(args.statistics)
    if args.shards is not None:
        new_file(args.shards / "shard")
