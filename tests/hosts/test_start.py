import pytest
import torch

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, Cosine, LogLinear, Schedule
from di4c_plugin.families import new_model
from di4c_plugin.hosts.start import digests
from di4c_plugin.networks import TransformerConfig


def student(std: float = 0.1, schedule: Schedule | None = None) -> Model:
    torch.manual_seed(0)
    sizes = TransformerConfig(3, 4, (2, 2), (1, 2), hidden_size=8, embedding_size=4, num_heads=2)
    latent = {"name": "mask_noise", "dim": 2, "std": std}
    return new_model(sizes, Absorbing(3, schedule or LogLinear()), latent)


@pytest.mark.parametrize("other", [student(std=0.2), student(schedule=Cosine())])
def test_equal_weights_are_another_model_with_another_latent_or_process(other: Model) -> None:
    one = digests(student(), None)
    assert one == digests(student(), None)
    assert digests(other, None)["teacher"] != one["teacher"]
    assert digests(other, student())["start"] == one["teacher"]
