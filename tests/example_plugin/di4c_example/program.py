"""The toy as a program: `di4c run main.py --sampler NAME` has our sampler in its `pairs.sample`.

Nothing but the standard library is imported before the program itself is.
"""

from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import Patch, Program
from di4c_plugin.programs.images.program import SamplerFlags


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `Program.patches`."""

    def patch(pairs: ModuleType) -> None:
        from di4c_example.pairs import PairSampler

        assert flags is not None
        pairs.sample = PairSampler(flags.sampler, flags.student, flags.options, root)  # type: ignore[attr-defined]

    return {} if flags is None else {"pairs": patch}


PROGRAM = Program(
    name="two_bits",
    url="https://example.org/two_bits.git",
    commit="0" * 40,
    marks=("main.py", "pairs.py"),
    script="main.py",
    patches=patches,
)
