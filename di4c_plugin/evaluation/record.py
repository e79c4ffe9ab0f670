"""The report of an evaluation as JSON, and the comparison of two; the schema is in README.md."""

import hashlib
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from di4c_plugin.errors import UserError, refusing
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.frontier import Against, Matched, Point, Row
from di4c_plugin.limits import regular

FORMAT = 1
PACKAGES = (
    *("di4c_plugin", "torch", "numpy", "transformers", "tokenizers"),
    *("mauve-text", "torch-fidelity", "torchmetrics"),
)
AGREE = 2.0  # standard errors of the difference
SAME = 1e-9  # relative: rounding of sums in another order


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """Return the commit of this package's checkout, with "+" where it was edited."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--", "di4c_plugin") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def file_sha256(path: Path) -> str | None:
    """Return SHA-256 of a file, hexadecimal; None for a folder."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def plain(
    values: Sequence[Point] | Sequence[Row] | Sequence[Matched] | Sequence[Against],
) -> list[dict[str, Any]]:
    """Return points, rows or values at an entropy as JSON values."""
    return [asdict(value) for value in values]


def read_report(path: Path) -> dict[str, Any]:
    """Read a report, its points as `Point`.

    Raises:
        UserError: if it is missing, damaged, not a report, or of another format.
    """
    try:
        report = json.loads(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no report of di4c evaluate: it is no JSON") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path} is no report of di4c evaluate of format {FORMAT}")
    with refusing(f"{path} is a damaged report"):
        return report | {
            "arguments": dict(report["arguments"]),
            "sources": [dict(source) for source in report["sources"]],
            "points": [_point(point) for point in report["points"]],
        }


def _point(values: Mapping[str, Any]) -> Point:
    figures = {
        str(name): Figure(float(f["value"]), None if f["error"] is None else float(f["error"]))
        for name, f in dict(values["figures"]).items()
    }
    whole = [values[name] for name in ("steps", "seed")]
    steps, seed = (None if value is None else int(value) for value in whole)
    swept = None if values["swept"] is None else float(values["swept"])
    return Point(str(values["model"]), steps, swept, seed, int(values["n"]), figures)


@dataclass(frozen=True)
class Comparison:
    """A value of two runs at one setting; `verdict` is "equal", "agrees", "differs", "missing"."""

    model: str
    steps: int | None
    swept: float | None
    seed: int | None
    column: str
    before: Figure
    now: Figure | None
    verdict: str


def compare(before: Sequence[Point], now: Sequence[Point]) -> list[Comparison]:
    """Compare each value of an earlier run with that of a later one."""
    later = {(p.setting, p.seed): p.figures for p in now}
    return [
        Comparison(
            *(p.model, p.steps, p.swept, p.seed, name, old),
            new := later.get((p.setting, p.seed), {}).get(name),
            verdict(old, new),
        )
        for p in before
        for name, old in p.figures.items()
    ]


def verdict(before: Figure, now: Figure | None) -> str:
    """Return how two values compare: "missing", "equal", "agrees" or "differs".

    Equal values may differ by rounding; values agree within two standard errors of their
    difference. Values without errors cannot agree.
    """
    if now is None:
        return "missing"
    if math.isclose(before.value, now.value, rel_tol=SAME, abs_tol=1e-12):
        return "equal"
    if before.error is None or now.error is None:
        return "differs"
    near = abs(before.value - now.value) <= AGREE * math.hypot(before.error, now.error)
    return "agrees" if near else "differs"
