"""The entry `di4c` of a student's checkpoint, beside the host's own entries.

Plain values and tensors only: the file loads with `weights_only`, unlike the hosts' own, which
pickle their config and tokenizer.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from di4c_plugin.announce import announce
from di4c_plugin.checkpoints.vocabulary import entry_of, vocabulary_in
from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent import same_options
from di4c_plugin.programs.text.averages import names
from di4c_plugin.programs.text.recorded import settings_of
from di4c_plugin.training.recorded import compare

FORMAT = 1
PICKLED = ("hyper_parameters", "hparams_name", "hparams_type", "datamodule_hyper_parameters")


@dataclass
class RunState:
    """The state of a run.

    Attributes:
        teacher: fingerprint of the first teacher's weights.
        start: fingerprint of the student to continue from; "" if training started at the teacher.
        round: of iterated Di4C, from 0.
        micro_step: batches that this process has trained on; it determines all random draws.
        batches: those of them in this epoch.
        epoch: from 0.
        examples: of this epoch that all processes together have trained on.
        size: examples per batch, over all processes; 0: not known yet.
    """

    teacher: str
    start: str = ""
    round: int = 0
    micro_step: int = 0
    batches: int = 0
    epoch: int = 0
    examples: int = 0
    size: int = 0

    def count(self, examples: int, per_epoch: float) -> None:
        """Count a batch; Lightning's own counter is off if a run is resumed between two epochs.

        Args:
            examples: of the batch, over all processes.
            per_epoch: batches per epoch.
        """
        self.micro_step += 1
        self.batches = 1 + (self.batches if self.batches < per_epoch else 0)
        self.examples += examples
        if self.batches >= per_epoch:
            self.epoch, self.examples = self.epoch + 1, 0


def save_state(module: Any, checkpoint: dict[str, Any]) -> None:
    """Add the entry `di4c` to a checkpoint of `module`, a `TextStudent`."""
    for key in PICKLED:
        checkpoint.pop(key, None)
    teacher = {"source": module.plan.weights.origin}
    checkpoint["di4c"] = {
        "format": FORMAT,
        "role": "student",
        "sampling": dict(module.engine.algorithm.sampling),
        "latent": module.latent,
        "process": module.process.config,
        "network": network_sizes(module),
        "ema_names": names(module),
        "teacher": teacher,
        "run": asdict(module.state),
        "settings": settings_of(module),
        **entry_of(module.vocabulary),
    }
    if module.state.round:
        weights = dict(module.engine.teacher.backbone.named_parameters())
        teacher["weights"] = {n: p.detach() for n, p in weights.items()}
    count_batches(checkpoint["loops"]["fit_loop"], module.state, module.trainer.global_step)


def count_batches(loop: dict[str, Any], run: RunState, updates: int) -> None:
    """Set Lightning's counters to the trained batches, whenever the checkpoint is saved.

    Lightning counts a batch as completed only after the callbacks that save, and infers from the
    difference where to resume; the hosts overwrite some counters.
    """
    progress = loop["epoch_loop.batch_progress"]
    for part, batches in (("current", run.batches), ("total", run.micro_step)):
        for counter in ("ready", "started", "processed", "completed"):
            progress[part][counter] = batches
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = updates


def network_sizes(module: Any) -> dict[str, Any]:
    """Return the sizes of the host's DiT, by the names of `di4c_plugin.networks.dit.DiTConfig`."""
    return module.sizes | {
        "kind": "dit",
        "vocab_size": module.process.num_states,
        "length": module.positions,
        "time_conditioning": module.time_conditioned,
    }


def restore_state(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Restore the run's state from a checkpoint.

    Raises:
        UserError: if it is of another kind of run, or of another teacher, start, latent, vocabulary
            or method.
    """
    notes = checkpoint.get("di4c")
    if notes is None:
        raise UserError(
            "the checkpoint to resume from was not written by this algo: the folder of this run "
            "holds another run; name a new one, and give that checkpoint as teacher=PATH"
        )
    known = {f.name for f in fields(RunState)} & notes["run"].keys()  # earlier versions: fewer
    run = RunState(**{name: notes["run"][name] for name in known})
    if run.teacher != module.state.teacher:
        raise UserError(
            f"the run to resume distils another teacher ({notes['teacher']['source']}) than "
            f"{module.plan.weights.origin}"
        )
    if run.start != module.state.start:
        raise UserError("the run to resume started from another student= than this one")
    if not same_options(notes["latent"], module.latent):
        raise UserError(f"the run to resume has the latent {notes['latent']}, not {module.latent}")
    before, now = vocabulary_in(notes, "the checkpoint"), module.vocabulary
    if before is not None and now is not None:
        before.check(now, "the run to resume", "this one")
    if names(module) != notes["ema_names"]:
        raise UserError("the run to resume averages other weights than this one")
    compare(notes.get("settings"), settings_of(module))
    if "epoch" not in notes["run"]:
        announce("the run to resume is of an earlier version: its data come in another order now")
        run.epoch = int(checkpoint["epoch"])
    module.state = run
    if run.round:
        module.engine.round = run.round
        module.engine.teacher = module.next_teacher(notes["teacher"]["weights"])
