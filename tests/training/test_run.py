import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from di4c_plugin.algorithms.base import Batch, Data, LossTerms, Networks, Update
from di4c_plugin.algorithms.denoising import Denoising
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.families import load_model
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.run import command, train
from tests.training import toy

# Seven examples in batches of three, two for each update: checkpoints lie inside passes.
CONFIG = TrainingConfig(
    steps=11, batch_size=3, accumulate=2, log_every=2, checkpoint_every=5, ema=0.5
)


class Fails(toy.Distil):
    """Fails in micro-step `at`."""

    at = 17

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        if len(self.totals) == self.at:
            raise RuntimeError("power cut")
        return super().losses(batch, networks, update)


def run(
    out: Path | None, algorithm: type[toy.Distil] = toy.Distil, config: TrainingConfig = CONFIG,
    **options: Any,
) -> tuple[Model, toy.Distil]:  # fmt: skip
    student = toy.student()
    method = algorithm(student.process)
    model = train(
        method, student, toy.teacher(), toy.data(), config, out, progress=False, **options
    )
    return model, method


def test_a_resumed_run_is_bit_for_bit_the_unbroken_one(tmp_path: Path) -> None:
    whole, method = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "broken", Fails)
    resumed, rest = run(tmp_path / "broken", resume=True)
    assert rest.totals == method.totals[10:]
    assert toy.rows(tmp_path / "broken") == toy.rows(tmp_path / "whole")
    assert toy.same(toy.weights(resumed), toy.weights(whole))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    again, method = run(tmp_path, resume=True)
    assert method.totals == []
    assert toy.same(toy.weights(again), toy.weights(whole))


class FailsEarly(Fails):
    """Fails before the first checkpoint."""

    at = 3


def test_to_resume_what_has_not_begun_is_to_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = run(tmp_path / "whole")
    assert capsys.readouterr().err == ""
    model, method = run(tmp_path / "run", resume=True)
    assert len(method.totals) == 22
    assert toy.same(toy.weights(model), toy.weights(whole))
    line = f"di4c: nothing to resume in {tmp_path / 'run'}: starting at update 0\n"
    assert capsys.readouterr().err == line
    for resume in (True, False):
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path / "broken", FailsEarly, resume=resume)
    assert {path.name for path in (tmp_path / "broken").iterdir()} == {"logs"}


def test_a_folder_is_used_by_one_run_at_a_time(tmp_path: Path) -> None:
    """The lock is held from the check to the finished model."""
    taken: list[str] = []

    def try_to_enter() -> None:
        try:
            run(tmp_path, overwrite=True)
        except UserError as error:
            taken.append(str(error))

    class Watched(toy.Distil):
        def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
            if len(self.totals) == 2:
                thread = threading.Thread(target=try_to_enter)
                thread.start()
                thread.join()
            return super().losses(batch, networks, update)

    run(tmp_path, Watched)
    assert taken == [f"{tmp_path} is in use by another run"]
    assert not list(tmp_path.glob(".*"))
    run(tmp_path, overwrite=True)


def test_files_of_the_user_outlive_every_run(tmp_path: Path) -> None:
    mine = {"mine.safetensors", "teacher.safetensors", "report.json", "notes"}
    for name in mine:
        (tmp_path / name).write_text(name)
    run(tmp_path)
    run(tmp_path, overwrite=True)
    run(tmp_path, resume=True)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, FailsEarly, overwrite=True)
    assert {name for name in mine if (tmp_path / name).read_text() == name} == mine


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "last.ckpt", "student.safetensors"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_what_no_run_wrote_is_in_the_way(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is in the way, and no run wrote it"):
        run(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_place_of_the_logs(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("mine")
    with pytest.raises(UserError, match="logs is not a folder: move it, or choose another folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    run(tmp_path, config=replace(CONFIG, logger="none"))
    assert (tmp_path / "logs").read_text() == "mine"


@pytest.mark.parametrize("said", ["inputs", "info"])
def test_what_a_run_reads_is_not_replaced(tmp_path: Path, said: str) -> None:
    run(tmp_path)
    file = tmp_path / "student.safetensors"
    before = file.read_bytes()
    given: dict[str, Any] = {"inputs": {"inputs": [file]}, "info": {"info": {"x": [str(file)]}}}
    with pytest.raises(UserError, match=f"^{file} is what this run reads"):
        run(tmp_path, overwrite=True, **given[said])
    assert file.read_bytes() == before


def test_what_is_returned_and_saved_is_the_moving_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[TrainingModule] = []
    monkeypatch.setattr(TrainingModule, "on_fit_start", lambda module: made.append(module))
    model, _ = run(tmp_path)
    saved = load_model(tmp_path / "student.safetensors")
    assert not model.denoiser.training
    assert toy.same(toy.weights(saved), toy.weights(model))
    assert toy.same(toy.weights(model), made[0].student().state_dict())
    assert not toy.same(toy.weights(model), made[0].networks["student"].state_dict())


def test_the_log_holds_the_means_of_every_term(tmp_path: Path) -> None:
    _, method = run(tmp_path)
    rows = toy.rows(tmp_path)
    assert sorted(rows) == [2, 4, 6, 8, 10, 11]
    for first, last in ((0, 2), (8, 10), (10, 11)):
        mean = sum(method.totals[2 * first : 2 * last]) / (2 * (last - first))
        assert float(rows[last]["loss"]) == pytest.approx(mean)
        parts = float(rows[last]["distil"]) + float(rows[last]["data"])
        assert parts == pytest.approx(mean, rel=1e-5)


def test_a_run_leaves_its_description(tmp_path: Path) -> None:
    run(tmp_path, info={"teacher": "toy"})
    config = OmegaConf.to_object(OmegaConf.load(tmp_path / "config.yaml"))
    assert isinstance(config, dict)
    info = load_model(tmp_path / "student.safetensors").info
    assert config["teacher"] == info["teacher"] == "toy"
    assert config["training"] == info["training"]
    assert TrainingConfig(**config["training"] | {"betas": (0.9, 0.999)}) == CONFIG
    assert info["versions"]["torch"] == torch.__version__
    assert json.dumps(info)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", "config.yaml", "last.ckpt", "logs", "student.safetensors"}


def test_a_description_names_a_module_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/di4c_plugin/__main__.py", "train", "a b"])
    assert command() == "python -m di4c_plugin train 'a b'"
    monkeypatch.setattr("sys.argv", ["/bin/di4c", "train"])
    assert command() == "di4c train"


def test_the_checkpoint_holds_plain_values_and_no_teacher(tmp_path: Path) -> None:
    run(tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"networks", "averages"}


def test_what_the_start_was_read_from_is_not_said_of_the_result(tmp_path: Path) -> None:
    """Else an adapter on it would know its base by the digest of other weights."""
    student = toy.student()
    read = {"origin": "start.ckpt", "fingerprint": "a" * 64, "teacher": "kept.ckpt"}
    student = replace(student, info=student.info | read)
    method = toy.Distil(student.process)
    model = train(method, student, toy.teacher(), toy.data(), CONFIG, tmp_path, progress=False)
    for info in (model.info, load_model(tmp_path / "student.safetensors").info):
        assert info["teacher"] == "kept.ckpt"
        assert "fingerprint" not in info
        assert "origin" not in info


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(None)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_is_named_teacher(tmp_path: Path) -> None:
    model = toy.teacher()
    train(Denoising(model.process), model, None, toy.data(), CONFIG, tmp_path, progress=False)
    assert not load_model(tmp_path / "teacher.safetensors").is_student


def test_data_smaller_than_a_batch_and_batches_of_one() -> None:
    for batch_size in (1, 20):
        config = replace(CONFIG, steps=3, batch_size=batch_size)
        _, method = run(None, config=config)
        assert [len(t) for t, _ in method.draws] == [batch_size] * 6


def test_networks_without_classes_see_no_labels() -> None:
    model = toy.teacher(num_classes=0)
    train(Denoising(model.process), model, None, toy.data(), CONFIG, progress=False)


@pytest.mark.parametrize("logger", ["tensorboard", "none"])
def test_other_loggers(tmp_path: Path, logger: str) -> None:
    if logger == "tensorboard":
        pytest.importorskip("tensorboard")
    run(tmp_path, config=replace(CONFIG, logger=logger))
    assert [path.name for path in tmp_path.glob("logs/*/events*")] != [] or logger == "none"
    assert not list(tmp_path.glob("logs/*/metrics.csv"))


@pytest.mark.parametrize("fault", ["loss", "weights"])
def test_numbers_that_are_not_finite_end_the_run_and_are_not_kept(
    tmp_path: Path, fault: str
) -> None:
    """In update 8: after the checkpoint of update 5, before the one of update 10."""

    class Diverges(toy.Distil):
        def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
            losses = super().losses(batch, networks, update)
            if update.index != 7:
                return losses
            if fault == "loss":
                return LossTerms({"student": losses.total * float("nan")}, losses.terms)
            total = losses.total
            total.register_hook(lambda gradient: gradient * float("inf"))
            return LossTerms({"student": total}, losses.terms)

    number = {"loss": 8, "weights": 9}[fault]  # the next loss tells of weights
    message = f"^the loss is not finite at update {number}; a smaller lr may help$"
    with pytest.raises(UserError, match=message):
        run(tmp_path / "broken", Diverges)
    kept = torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 5
    resumed, _ = run(tmp_path / "broken", resume=True)
    whole, _ = run(tmp_path / "whole")
    assert toy.same(toy.weights(resumed), toy.weights(whole))


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    """Of the very update after which a checkpoint is due."""

    class Diverges(toy.Distil):
        def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
            losses = super().losses(batch, networks, update)
            total = losses.total
            if update.index == 9:
                total.register_hook(lambda gradient: gradient * float("inf"))
            return LossTerms({"student": total}, losses.terms)

    with pytest.raises(UserError, match="of the student is not finite at update 10; a smaller"):
        run(tmp_path, Diverges)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


class Huge(toy.Distil):
    """Asks for more memory than there is."""

    def losses(self, *arguments: Any) -> Any:
        torch.empty(self.numbers)
        return super().losses(*arguments)

    numbers = 2**50


@pytest.mark.parametrize("numbers", [2**50, 2**62])
def test_too_little_memory_is_one_line(
    numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Huge, "numbers", numbers)
    with pytest.raises(UserError, match="^not enough memory: try a smaller training.batch_size"):
        run(tmp_path, Huge)


def test_mistakes_are_found_before_anything_is_written(tmp_path: Path) -> None:
    student = toy.student()
    out = tmp_path / "run"
    with pytest.raises(UserError, match="Distil needs a teacher"):
        train(toy.Distil(student.process), student, None, toy.data(), CONFIG, out)
    nothing = Data(torch.empty(0, 4, dtype=torch.long))
    with pytest.raises(UserError, match="no data"):
        train(toy.Distil(student.process), student, toy.teacher(), nothing, CONFIG, out)
    given = replace(toy.data(), given=torch.ones_like(toy.data().x_0, dtype=torch.bool))
    with pytest.raises(UserError, match="^every token of the data is given"):
        train(toy.Distil(student.process), student, toy.teacher(), given, CONFIG, out)
    short = replace(toy.data(), lengths=torch.zeros(len(toy.data().x_0), dtype=torch.long))
    with pytest.raises(UserError, match="^an example has a length of 0 tokens$"):
        train(toy.Distil(student.process), student, toy.teacher(), short, CONFIG, out)
    callbacks: Any
    for callbacks in (3, [3], ["x"], len, NotImplemented):
        with pytest.raises(UserError, match="^callbacks must be a list of Lightning's Callback"):
            train(
                toy.Distil(student.process),
                student,
                toy.teacher(),
                toy.data(),
                CONFIG,
                out,
                callbacks=callbacks,
            )
    with pytest.raises(UserError, match="name the folder"):
        run(None, resume=True)
    with pytest.raises(UserError, match="exclude each other"):
        run(out, resume=True, overwrite=True)
    with pytest.raises(UserError, match="^9 rounds take at least 9 updates, not 8$"):
        run(out, config=replace(CONFIG, steps=8, rounds=9))
    with pytest.raises(UserError, match="strategy"):
        run(out, config=replace(CONFIG, strategy="magic"))
    assert not out.exists()
