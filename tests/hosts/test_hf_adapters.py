"""Adapters on masked language models: trained, killed, resumed, sampled, saved and loaded."""

import builtins
import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("peft", reason="adapters are by peft")

from di4c_plugin import distill, load_student, save_student
from di4c_plugin.errors import UserError
from di4c_plugin.families.adapted import without_adapter
from di4c_plugin.networks.sharing import base_names, own_state
from di4c_plugin.plugins import lookup
from di4c_plugin.training.interrupt import Interrupted
from tests.families.hf.adapters import METHODS
from tests.families.hf.snapshots import foreign, load_teacher, native
from tests.hosts.test_hf import texts

TRUST = {"name": "hf", "trust_remote_code": True}
ROUNDS = {"name": "sdtt", "teacher_steps": 32, "steps": 4, "renew": ("optimiser", "average")}
CASES = [
    ("lladalike", METHODS["di4c"], 3),
    ("dreamlike", METHODS["di4c"], 3),
    ("modernbert", METHODS["di4c"] | {"target": "student"}, 2),
    ("modernbert", METHODS["dmmd"], 2),
    ("dreamlike", {"name": "dmmd"}, 4),
    ("lladalike", METHODS["rsmmd"], 2),
    ("bert", ROUNDS, 3),
    ("bert", ROUNDS, 5),
]


def snapshot(kind: str, folder: Path) -> Any:
    """Write a teacher, and return the class's own network."""
    folder.mkdir(exist_ok=True)
    return (foreign if kind.endswith("like") else native)(kind, folder)


def predict(model: Any, seed: int = 0) -> Tensor:
    """Return log p for some states and latents."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(5, 33, (2, 9), generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.5] = 4
    shape = model.denoiser.latent_shape
    latent = None if shape is None else torch.rand(2, *shape, generator=generator)
    with torch.no_grad():
        found: Tensor = model.denoiser(x, torch.full((2,), 0.5).double(), latent=latent)
    return found


def run(folder: Path, algo: dict[str, Any], out: Path | None, **more: Any) -> Any:
    """Distil the teacher in folder/teacher, by six updates."""
    teacher = load_teacher(folder / "teacher", host=TRUST)
    training = {"steps": 6, "batch_size": 3, "adapter": {"r": 3}} | more.pop("training", {})
    host = TRUST | {"data": texts(folder)}
    return distill(
        teacher, host=host, algo=algo, training=training, out=out, progress=False, **more
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "algo", "kill"), CASES)
def test_a_killed_run_goes_on_bit_for_bit_and_is_loaded(
    kind: str, algo: dict[str, Any], kill: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot(kind, tmp_path / "teacher")
    student = run(tmp_path, algo, tmp_path / "whole")
    method = lookup("algorithm", algo["name"])
    losses, calls = method.losses, []

    def killed(self: Any, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == kill:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, *args)

    monkeypatch.setattr(method, "losses", killed)
    with pytest.raises(Interrupted):
        run(tmp_path, algo, tmp_path / "broken")
    monkeypatch.undo()
    kept = torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)
    for state in (kept["state_dict"], kept.get("teacher", {})):
        parts = ("lora_", "projection", "_extra_state")
        assert [name for name in state if not any(part in name for part in parts)] == []
    resumed = run(tmp_path, algo, tmp_path / "broken", resume=True)
    own = own_state(student.denoiser)
    assert own.keys() == own_state(resumed.denoiser).keys()
    for name, value in own_state(resumed.denoiser).items():
        assert torch.equal(value, own[name]), name
    base = {"base": str(tmp_path / "teacher")} if kind.endswith("like") else {}
    again = load_student(tmp_path / "broken", host=TRUST | base)
    assert torch.equal(predict(again), predict(student))
    assert again.sample(2, steps=2, sampler="blocks", prompts=[[5, 6]], new_tokens=4).shape == (
        2,
        6,
    )
    teacher = load_teacher(tmp_path / "teacher", host=TRUST)
    assert not torch.equal(predict(again)[:, :, 5:33], predict(teacher)[:, :, 5:33])
    assert torch.allclose(predict(without_adapter(again)), predict(again), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "lladalike", "dreamlike"])
def test_plain_peft_loads_what_is_saved(kind: str, tmp_path: Path) -> None:
    """Without λ: it enters at masks alone, and the states have none."""
    from peft import PeftModel

    base = copy.deepcopy(snapshot(kind, tmp_path / "teacher"))
    student = run(tmp_path, {"name": "di4c", "latents": 2}, None, training={"lr": 0.1})
    save_student(student, tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "adapter_config.json").read_text()
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    plain = PeftModel.from_pretrained(base, str(tmp_path / "saved")).eval()
    x = torch.randint(5, 33, (2, 9))
    options = student.denoiser.arguments(x)
    with torch.no_grad():
        logits = plain(x, **options).logits
        own = student.denoiser.network(x, **options).logits
        assert torch.allclose(logits, own, rtol=1e-4, atol=1e-4)
        with plain.disable_adapter():
            assert (plain(x, **options).logits - own).abs().max() > 0.01
    again = load_student(tmp_path / "saved", host=TRUST | {"base": str(tmp_path / "teacher")})
    assert torch.equal(predict(again), predict(student))


def test_code_runs_where_the_user_says(tmp_path: Path) -> None:
    """A file names its base; that the user trusts code is not said of whatever it names."""
    snapshot("lladalike", tmp_path / "teacher")
    student = run(tmp_path, METHODS["di4c"], tmp_path / "run", training={"steps": 1})
    with pytest.raises(UserError, match="where is the code of modeling_lladalike"):
        load_student(tmp_path / "run", host=TRUST)
    base = {"base": str(tmp_path / "teacher")}
    with pytest.raises(UserError, match="runs only with host.trust_remote_code=true"):
        load_student(tmp_path / "run", host={"name": "hf"} | base)
    state = torch.get_rng_state()
    again = load_student(tmp_path / "run", host=TRUST | base)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(predict(again), predict(student))


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "teacher" / "model.safetensors"
    tensors = load_file(file)
    tensors["bert.embeddings.LayerNorm.weight"] += 1
    save_file(tensors, file, metadata={"format": "pt"})


def no_base(folder: Path) -> None:
    (folder / "teacher").rename(folder / "elsewhere")


def without_weights(folder: Path) -> None:
    from di4c_plugin.checkpoints.model_file import read_safetensors, write_file

    file = folder / "run" / "adapter_model.safetensors"
    text, tensors = read_safetensors(file)
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    write_file(file, json.loads(text or ""), tensors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_weights, "has other weights than the base that"),
        (no_base, "is an adapter on .*teacher.*: say host.base="),
        (without_weights, "missing bert.encoder.layer.0.*lora_A"),
    ],
)
def test_what_does_not_go_with_its_base_is_refused(
    spoil: Any, message: str, tmp_path: Path
) -> None:
    snapshot("bert", tmp_path / "teacher")
    run(tmp_path, METHODS["di4c"], tmp_path / "run", training={"steps": 1})
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_student(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_resume_asks_for_the_same_base(tmp_path: Path) -> None:
    snapshot("bert", tmp_path / "teacher")
    run(tmp_path, METHODS["di4c"], tmp_path / "run")
    with pytest.raises(UserError, match=r"adapter.r was 3, and is 4"):
        run(
            tmp_path,
            METHODS["di4c"],
            tmp_path / "run",
            resume=True,
            training={"adapter": {"r": 4}},
        )
    other_weights(tmp_path)
    with pytest.raises(UserError, match=r"is another run: .*fingerprint was"):
        run(tmp_path, METHODS["di4c"], tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"r": 0}, r"training.adapter: r must be in \[1, 65536\], not 0"),
        ({"rank": 4}, "training.adapter: got an unexpected keyword argument 'rank'"),
        ({"targets": ["decoder"]}, "have no linear layers 'decoder'; there are dense, key, query"),
        ({"dropout": 1.0}, "dropout must be in"),
        (3, "adapter must be a mapping of options, not 3"),
    ],
)
def test_mistakes_end_in_one_line(adapter: Any, message: str, tmp_path: Path) -> None:
    snapshot("bert", tmp_path / "teacher")
    with pytest.raises(UserError, match=message):
        run(tmp_path, METHODS["di4c"], None, training={"adapter": adapter})


def test_without_peft_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot("bert", tmp_path / "teacher")
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"adapters need peft: pip install 'di4c_plugin\[hf\]'"):
        run(tmp_path, METHODS["di4c"], None)


def test_a_start_goes_on_with_its_adapter(tmp_path: Path) -> None:
    snapshot("bert", tmp_path / "teacher")
    first = run(tmp_path, METHODS["di4c"], tmp_path / "first")
    loaded = load_student(tmp_path / "first")
    still = {"training": {"lr": 0.0}}
    second = run(tmp_path, METHODS["di4c"], tmp_path / "second", start=loaded, **still)
    assert torch.equal(predict(second), predict(first))
    whole = run(tmp_path, METHODS["di4c"], None, training={"adapter": None})
    for start, adapter, message in (
        (loaded, {"r": 4}, "has the adapter"),
        (loaded, None, "is an adapter: say training.adapter="),
        (whole, {"r": 3}, "is a whole network: training.adapter=null"),
    ):
        with pytest.raises(UserError, match=message):
            run(
                tmp_path,
                METHODS["di4c"],
                None,
                start=start,
                training={"adapter": adapter},
            )


def test_an_adapter_is_a_teacher_of_whole_networks_alone(tmp_path: Path) -> None:
    snapshot("bert", tmp_path / "teacher")
    first = run(tmp_path, METHODS["sdtt"], tmp_path / "first", training={"lr": 0.1})
    options: dict[str, Any] = {
        "host": TRUST | {"data": texts(tmp_path)},  # its base has the tokenizer
        "algo": METHODS["sdtt"],
        "progress": False,
    }
    training = {"steps": 1, "batch_size": 2, "lr": 0.0, "ema": 0.0}
    second = distill(first, training=training, **options)
    assert second.adapter is None
    assert torch.allclose(predict(second), predict(first), atol=1e-5)
    assert not base_names(second.denoiser)
    with pytest.raises(UserError, match="the teacher is an adapter itself"):
        distill(first, training=training | {"adapter": {"r": 2}}, **options)


def test_a_folder_holds_one_model(tmp_path: Path) -> None:
    snapshot("bert", tmp_path / "teacher")
    student = run(tmp_path, METHODS["di4c"], None, training={"steps": 1})
    whole = run(tmp_path, METHODS["di4c"], None, training={"steps": 1, "adapter": None})
    save_student(student, tmp_path / "one")
    save_student(student, tmp_path / "one")
    with pytest.raises(UserError, match=r"holds adapter_model.safetensors, of another model"):
        save_student(whole, tmp_path / "one")
