import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Absorbing
from di4c_plugin.models import NetworkDenoiser
from di4c_plugin.training.settled import Settled, settled


class Dropping(nn.Module):
    """Logits that dropout makes noisy."""

    latent_shape = None

    def __init__(self, p: float) -> None:
        super().__init__()
        self.table, self.drop = nn.Embedding(4, 3), nn.Dropout(p)

    def forward(
        self, x: Tensor, t: Tensor, *, cond: object = None, latent: object = None
    ) -> Tensor:
        return self.drop(self.table(x))


def test_a_target_has_no_dropout_and_leaves_the_student_as_it_was() -> None:
    student = NetworkDenoiser(Dropping(0.5), Absorbing(3)).train()
    student.network.get_submodule("table").eval()
    flags = [part.training for part in student.modules()]
    x, t = torch.full((2, 5), 3), torch.full((2,), 0.5, dtype=torch.float64)
    target = settled(student)
    assert isinstance(target, Settled)
    assert list(target.parameters()) == []  # not trained a second time
    first, second = target(x, t), target(x, t)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [part.training for part in student.modules()] == flags
    assert not torch.equal(student(x, t), student(x, t))


def test_without_dropout_it_is_the_student_itself() -> None:
    student = NetworkDenoiser(Dropping(0.0), Absorbing(3))
    assert settled(student) is student
