"""Puts students in the place of `letters.Letters`, which the program looks up in each job."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from di4c_plugin.diffusion import Absorbing
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.generation import TextSampler
from di4c_plugin.programs.text.plans import plan_of
from di4c_plugin.programs.text.student import Plan
from di4c_plugin.programs.text.swap import swap


def install(config: Mapping[str, Any]) -> Plan:
    """See `Program.adapter`."""
    ours = {**config, "mode": config["task"], "seed": config["random_seed"]}
    plan = plan_of(ours, config["start_from"], lambda: (config["weights"], True))
    swap("letters", "Letters", lambda base: student_class(base, plan))
    return plan


def student_class(base: type[Any], plan: Plan) -> type[Any]:
    """Return a subclass of the program's class that follows the plan."""
    run = plan

    class LettersStudent(TextSampler, base):  # type: ignore[misc]
        plan: ClassVar[Plan] = run
        parts = frozenset({"batch", "net", "random_seed", "rate", "updates"})
        tokenizer, padded, time_conditioned = None, False, False

        @one_line
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.set_up()

        def make_process(self) -> Absorbing:
            return Absorbing(7, mask=6)

        @property
        def seed(self) -> int:
            return int(self.config.random_seed)

        @property
        def positions(self) -> int:
            return int(self.config.net.length)

        @property
        def sizes(self) -> dict[str, int]:
            net = self.config.net
            return {
                **{"hidden_size": int(net.width), "cond_dim": int(net.condition)},
                **{"n_blocks": int(net.blocks), "n_heads": int(net.heads)},
            }

        def tokens(self, batch: Any) -> Tensor:
            return batch

        def load(self, path: str) -> None:
            """Do nothing: the plan has the weights."""

        def sample(self, count: int, steps: int) -> Tensor:
            return self.draw(count, steps)

    return LettersStudent
