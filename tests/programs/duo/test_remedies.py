from types import SimpleNamespace

import torch

from di4c_plugin.programs.duo import remedies


class Metrics:
    """Takes the arguments of Duo's class."""

    def record_generative_perplexity(
        self, text: str, max_length: int, retokenize: bool = True, device: object = "cuda"
    ) -> None:
        self.seen = (text, max_length, retokenize, device)


def test_a_device_in_the_wrong_place_finds_its_own() -> None:
    module = SimpleNamespace(Metrics=type("Metrics", (Metrics,), {}))
    remedies.perplexity_on_its_device(module)  # type: ignore[arg-type]
    metrics, cpu = module.Metrics(), torch.device("cpu")
    for arguments, seen in (
        ((cpu,), (True, cpu)),
        ((), (True, "cuda")),
        ((False, "cuda:1"), (False, "cuda:1")),
    ):
        metrics.record_generative_perplexity("text", 3, *arguments)
        assert metrics.seen == ("text", 3, *seen)
