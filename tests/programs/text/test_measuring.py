"""The `metrics` group: read, measured, kept in shards, by the stand-in of a host."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus

from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import Absorbing, LogLinear
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import shards
from di4c_plugin.evaluation.entropy import sample_entropy
from di4c_plugin.evaluation.gen_ppl import GenPPL
from di4c_plugin.evaluation.scorer import Scorer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts
from di4c_plugin.families import new_model
from di4c_plugin.programs.callback import Install, absolute_paths
from di4c_plugin.programs.text import measuring, student
from di4c_plugin.programs.text.measuring import Measurement, metric_settings
from di4c_plugin.programs.text.plans import evaluation_plan, plan_of
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.student import Plan
from tests.evaluation.tiny_lm import write_lm
from tests.networks.backbone import CONFIG, state
from tests.stand_ins.text import stand_in
from tests.stand_ins.text.stand_in_parts import EPS, Tokenizer


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of the letters of the stand-in's tokenizer."""
    return str(write_lm(tmp_path_factory.mktemp("lm"), letters="abcde"))


def sampler(config: dict[str, Any], scorer: str | None = None, **others: Any) -> stand_in.Student:
    """A host that evaluates and measures."""
    settings = metric_settings(config, scorer)
    assert settings is not None
    weights = stand_in.weights()
    described = {"model": "x", "fingerprint": weights.fingerprint, "seed": 1, "averages": True}
    described |= {"sampler": asdict(SamplerSettings())}
    plan = Plan(SamplerSettings(), None, weights, measurement=Measurement(settings, described))
    return stand_in.student(plan, **others)


def finished(module: stand_in.Student) -> None:
    """As Hydra's job ends."""
    install, done = Install(), JobReturn()
    install.measurement, done.status = module.plan.measurement, JobStatus.COMPLETED
    install.on_job_end(None, job_return=done)  # type: ignore[arg-type]


def test_all_samples_are_measured_by_the_code_of_the_command(
    scorer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"names": ["gen_ppl", "entropy"], "json": f"{tmp_path}/r.json", "tokenizer": None}
    module = sampler(config, scorer)
    x = torch.cat([module.draw(4, 3), module.draw(3, 3)])
    assert not (tmp_path / "r.json").exists()
    finished(module)
    report = json.loads((tmp_path / "r.json").read_text())
    (point,) = report["points"]
    texts = Texts(list(x), 6, None, stand_in.D)
    expected = GenPPL(None, TextOptions(Scorer(scorer)))(texts)["gen_ppl"].value
    assert point["figures"]["gen_ppl"]["value"] == pytest.approx(expected)
    assert point["figures"]["entropy"]["value"] == pytest.approx(sample_entropy(x))
    assert (point["n"], point["steps"], point["cost"]["network_calls"]) == (7, 3, 3)
    assert report["notes"]["scored"] == "tokens as they were drawn"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"di4c: 7 samples, 3 steps: gen_ppl {expected:.4g} ±")


def test_a_report_is_repeated_by_the_command(
    scorer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command draws the same samples, to the last token, and measures the same."""
    monkeypatch.chdir(tmp_path)
    process = Absorbing(7, LogLinear(eps=EPS), mask=stand_in.MASK)
    teacher = new_model(CONFIG, process)
    teacher.denoiser.network.load_state_dict(state())
    teacher.save("teacher.safetensors")
    np.save("real.npy", np.random.default_rng(0).integers(0, 6, (30, stand_in.D)))
    names = ["gen_ppl", "entropy", "bits"]
    metrics = {"names": names, "json": "host.json", "tokenizer": None, "reference": "real.npy"}
    config = {"seed": 1, "metrics": metrics, "sampler": {"name": "di4c", "last_latents": 2}}
    source = str(tmp_path / "teacher.safetensors")

    def report(config: dict[str, Any], *, ema: bool = True, strides: int = 0) -> None:
        plan = evaluation_plan(config, source, ema=ema, scorer=scorer)
        module = stand_in.student(plan, sampling={"steps": 3})
        for count in (20, 20, 7):
            module.draw_strides(count, 3, strides, 3) if strides else module.draw(count, 3)
        finished(module)

    report(config)
    capsys.readouterr()
    assert main(["evaluate", "--repeat", "host.json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "# 3 equal"
    assert not [line for line in out if " was " in line]
    Path("known.json").write_text("[0, -1, -1, -1, -1, -1]")
    unlike: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("sampler.prefix", {"sampler": {"prefix": "ab"}}, {}),
        ("sampler.known", {"sampler": {"known": "known.json"}}, {}),
        ("weights that are no averages", {}, {"ema": False}),
        ("strides", {}, {"strides": 2}),
    ]
    for name, others, how in unlike:
        report(config | others, **how)
        capsys.readouterr()
        assert main(["evaluate", "--repeat", "host.json"]) == 2
        told = f"host.json was made with {name}, which di4c evaluate does not have"
        assert capsys.readouterr().err == f"di4c: error: {told}\n"


def test_a_plan_without_the_group_measures_and_keeps_nothing() -> None:
    module = stand_in.student(Plan(SamplerSettings(), None, stand_in.weights()))
    assert module.plan.measurement is None
    assert metric_settings(None, "gpt2") is None
    install, done = Install(), JobReturn()
    done.status = JobStatus.COMPLETED
    install.on_job_end(None, job_return=done)  # type: ignore[arg-type]


def test_a_killed_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn before is read: of the same model, sampler and seed only."""
    config = {"names": ["entropy"], "shards": f"{tmp_path}/kept"}
    whole = sampler({"names": ["entropy"]})
    expected = [whole.draw(4, 3) for _ in range(3)]
    killed = sampler(config)
    assert torch.equal(killed.draw(4, 3), expected[0])
    drawn: list[Any] = []

    def measured(*given: Any) -> Any:
        drawn.append(given)
        return shards.measured(*given)

    monkeypatch.setattr(measuring, "measured", measured)
    again = sampler(config)
    assert all(torch.equal(again.draw(4, 3), x) for x in expected)
    assert len(drawn) == 2
    sampler(config).draw(4, 5)  # of other steps
    assert len(drawn) == 3


def test_strides_are_measured_as_whole_texts() -> None:
    module = sampler({"names": ["entropy"]})
    module.draw_strides(3, 2, 2, 4)
    measurement = module.plan.measurement
    assert measurement is not None
    (shard,) = measurement.shards
    assert shard.tokens.shape == (3, stand_in.D + 2 * 2)
    assert shard.calls == 3 * 3 * 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"names": ["gen_pl"]}, "unknown metric 'gen_pl'"),
        ({"names": ["fid"]}, "metrics.names: fid is no metric of texts"),
        ({"names": []}, "metrics.names is empty"),
        ({"names": ["entropy"], "speed": 1}, "metrics: got an unexpected keyword argument 'speed'"),
        ({"names": ["gen_ppl"], "scorer_batch": "x"}, "metrics: scorer_batch must be a whole"),
        ({"names": ["entropy"], "tokenizer": "gpt2"}, "metrics.tokenizer is host or null"),
    ],
)
def test_mistakes_of_the_group(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metric_settings(config, None)


def test_mistakes_before_anything_is_drawn(scorer: str) -> None:
    with pytest.raises(UserError, match="bits compares with real text: metrics.reference FILE"):
        sampler({"names": ["bits"]})
    with pytest.raises(UserError, match="gen_ppl needs a language model: metrics.scorer FOLDER"):
        sampler({"names": ["gen_ppl"]})
    with pytest.raises(UserError, match="^metrics.after_end takes hosts, keep, cut, not 'no'"):
        sampler({"names": ["gen_ppl"], "after_end": "no"}, scorer)
    group = {"metrics": {"names": ["entropy"]}}
    with pytest.raises(UserError, match="add sampler=…"):
        evaluation_plan(group, "x", ema=True)
    with pytest.raises(UserError, match="metrics=… is for evaluation"):
        plan_of(group | {"mode": "train"}, None, lambda: (None, True))


def test_outputs_lie_where_the_command_was_typed(tmp_path: Path) -> None:
    config = {"metrics": {"shards": "kept", "json": "/r.json", "reference": "none.txt"}}
    typed = absolute_paths(config, tmp_path)["metrics"]
    assert typed == {"shards": f"{tmp_path}/kept", "json": "/r.json", "reference": "none.txt"}


def test_an_evaluation_takes_place_on_the_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert student.device_of({"trainer": {"accelerator": "cpu"}}) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert student.device_of({"trainer": {"accelerator": "cuda"}}) == "cuda"
    assert student.device_of({}) == "cuda"
    assert student.device_of({"trainer": {"accelerator": "cpu"}}) == "cpu"
    # The host's program makes the model by this call, and asks it for samples.
    moved: list[str] = []
    kind: Any = stand_in.student_class(Plan(SamplerSettings(), None, stand_in.weights()))

    def to(module: Any, device: str) -> Any:
        moved.append(device)
        return module

    monkeypatch.setattr(kind, "to", to)
    config = stand_in.config(trainer={"accelerator": "gpu"})
    kind.load_from_checkpoint("x", config=config, tokenizer=Tokenizer())
    assert moved == ["cuda"]


def test_a_reference_of_tokens(tmp_path: Path) -> None:
    np.save(tmp_path / "real.npy", np.random.default_rng(0).integers(0, 6, (9, stand_in.D)))
    config = {"names": ["bits"], "reference": f"{tmp_path}/real.npy", "tokenizer": None}
    module = sampler(config)
    module.draw(4, 2)
    finished(module)
    assert module.plan.measurement is not None
    assert module.plan.measurement.notes["reference"].endswith("real.npy, 9 sequences")
