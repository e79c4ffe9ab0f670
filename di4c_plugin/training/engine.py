"""One update of a method, whichever program steps the optimiser.

The program (our own loop, MDLM, SDTT, Duo or tauLDR) keeps its optimiser, schedule, precision and
checkpoints. It asks the engine for parameter groups and for the losses of each batch, and calls
`finish` after each update. Imports torch only.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.algorithms.base import AVERAGE, Algorithm, Batch, LossTerms, Update
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.sharing import let_gradients_in
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.finite import check_finite
from di4c_plugin.training.rng import seeded_dropout, step_generator


def identity(denoiser: Any) -> Any:
    """Return the denoiser itself."""
    return denoiser


class Engine:
    """A method with the networks of a run.

    It is not an `nn.Module`: the program decides where networks and averages are registered. The
    teacher is not registered, so that neither checkpoints nor DDP see it.

    Args:
        algorithm: the method.
        networks: the trained denoiser of each of its roles.
        teacher: frozen; None for methods without one.
        averages: by role; must include those that the method reads.
        next_teacher: called after a round, returns the frozen teacher of the next one.
        rounds: None: the method's.
        seed: of every draw of the losses.
        view: wraps each denoiser for the method, for example in autocast.

    Raises:
        UserError: for fewer than one round.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        networks: Mapping[str, nn.Module],
        teacher: Denoiser | None,
        *,
        averages: Mapping[str, EMA] | None = None,
        next_teacher: Callable[[], Denoiser] | None = None,
        rounds: int | None = None,
        seed: int = 0,
        view: Callable[[Any], Denoiser] = identity,
    ) -> None:
        assert networks.keys() == algorithm.roles.keys(), "a network for each role"
        self.algorithm, self.trained_networks, self.teacher = algorithm, networks, teacher
        self.averages = dict(averages or {})
        self.next_teacher, self.seed, self.view = next_teacher, seed, view
        self.rounds = algorithm.rounds if rounds is None else rounds
        if self.rounds < 1:
            raise UserError(f"rounds must be at least 1, not {self.rounds}")
        self.round = 0

    @property
    def plain(self) -> bool:
        """Whether only the student is trained, with the program's own optimiser settings."""
        roles = self.algorithm.roles.values()
        return len(roles) == 1 and all(
            (role.lr, role.betas, role.eps) == (1.0, None, None) for role in roles
        )

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Return an optimiser's parameter groups, one for each role, named by its entry "role".

        Args:
            lr: the program's learning rate; each role scales it.
        """
        groups: list[dict[str, Any]] = []
        for name, role in self.algorithm.roles.items():
            parameters = [p for p in self.trained_networks[name].parameters() if p.requires_grad]
            group: dict[str, Any] = {"params": parameters, "lr": lr * role.lr, "role": name}
            group |= {} if role.betas is None else {"betas": role.betas}
            group |= {} if role.eps is None else {"eps": role.eps}
            groups.append(group)
        return groups

    def trained(self, index: int, total: int) -> Collection[str]:
        """Return the roles that optimiser update `index` of `total` trains."""
        return self.algorithm.trained(self.update(torch.Generator(), index, total))

    def begin(self, index: int, total: int, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Prepare optimiser update `index`: change rounds if due, enable gradients by role.

        Args:
            index: from 0.
            total: updates of the whole run.
            optimizer: loses its moments with a new round if the method asks for it.

        Returns:
            Whether a new round, with a new teacher, has begun.
        """
        current = round_of(index, total, self.rounds)
        new = current > self.round
        if new:
            assert self.next_teacher is not None, "rounds need next_teacher"
            self.round, self.teacher = current, self.next_teacher()
            if "optimiser" in self.algorithm.renew and optimizer is not None:
                optimizer.state.clear()
            if "average" in self.algorithm.renew:
                for name, average in self.averages.items():
                    average.restart(self.trained_networks[name])
        self._let_gradients_in(self.trained(index, total))
        return new

    def losses(
        self, batch: Batch, index: int, total: int, *, rank: int, step: int, device: torch.device
    ) -> LossTerms:
        """Return the losses of a micro-batch; its draws are a function of seed, rank and step.

        Args:
            batch: on `device`.
            index: of the optimiser update.
            total: updates of the whole run.
            rank: of this process.
            step: of the micro-batch, counted over the whole run.
            device: of the networks.
        """
        with seeded_dropout(self.seed, rank, step, device):
            generator = step_generator(self.seed, rank, step, device)
            return self.losses_by(batch, self.update(generator, index, total))

    def losses_by(self, batch: Batch, update: Update) -> LossTerms:
        """Return the losses, with draws from the generator of `update`.

        Raises:
            UserError: if a network's weights are not finite, so that sampling from it fails.
        """
        try:
            losses = self.algorithm.losses(batch, self.networks(), update)
        except (IndexError, RuntimeError):  # a sampled token that is out of range
            check_finite(self.trained_networks, update.index)
            raise
        trained = set(self.algorithm.trained(update))
        assert losses.totals.keys() == trained, f"losses of {set(losses.totals)}, trained {trained}"
        return losses

    def networks(self) -> dict[str, Denoiser]:
        """Return the networks as the method sees them."""
        networks: dict[str, Any] = dict(self.trained_networks)
        networks |= {
            f"{name}{AVERAGE}": self.averages[name].network
            for name, role in self.algorithm.roles.items()
            if role.averaged
        }
        if self.teacher is not None:
            networks["teacher"] = self.teacher
        return {name: self.view(denoiser) for name, denoiser in networks.items()}

    def clip(self, norm: float) -> dict[str, Tensor]:
        """Clip the norm of each role's gradient; return the norms before clipping, by role."""
        return {
            name: torch.nn.utils.clip_grad_norm_(network.parameters(), norm)
            for name, network in self.trained_networks.items()
        }

    def finish(self, index: int, total: int) -> None:
        """Update the averages of the roles that update `index` has trained.

        Between updates all weights require gradients, by which hosts choose what they average.
        """
        self._let_gradients_in(self.trained_networks)
        for name in self.trained(index, total):
            if name in self.averages:
                self.averages[name].update(self.trained_networks[name])

    def _let_gradients_in(self, names: Collection[str]) -> None:
        """Make the networks of these roles, and no others, require gradients."""
        if len(self.trained_networks) > 1:
            for name, network in self.trained_networks.items():
                let_gradients_in(network, name in names)

    def update(self, generator: torch.Generator, index: int, total: int) -> Update:
        """Return the description of optimiser update `index` of `total`."""
        return Update(generator, index, max(total, 1), self.round, self.rounds)


def check_rounds(rounds: int, updates: int) -> None:
    """Refuse more rounds than updates, of which some would never be; raises UserError."""
    if rounds > updates:
        raise UserError(f"{rounds} rounds take at least {rounds} updates, not {updates}")


def round_of(index: int, total: int, rounds: int) -> int:
    """Return the round, from 0, of optimiser update `index`; rounds are equally long."""
    return min(index * rounds // max(total, 1), rounds - 1)
