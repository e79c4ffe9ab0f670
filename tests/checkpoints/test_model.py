import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from di4c_plugin.checkpoints.description import FORMAT
from di4c_plugin.checkpoints.model import Model, save_model, with_info
from di4c_plugin.diffusion import (
    Absorbing,
    Cosine,
    DiscretisedGaussian,
    LogLinear,
    Process,
    Uniform,
)
from di4c_plugin.errors import UserError
from di4c_plugin.families import load_model, new_model, student_of
from di4c_plugin.networks import DiTConfig, TransformerConfig
from tests.checkpoints.model_files import read_file


def small(process: Process, **sizes: Any) -> TransformerConfig:
    return TransformerConfig(
        num_tokens=process.num_tokens,
        num_states=process.num_states,
        grid=(2, 2),
        patch=(1, 2),
        hidden_size=8,
        embedding_size=4,
        num_heads=2,
        **{"num_blocks": 1} | sizes,
    )


def make(latent: dict[str, Any] | None = None, **sizes: Any) -> Model:
    torch.manual_seed(0)
    process = Absorbing(3, Cosine())
    return new_model(small(process, **sizes), process, latent, info={"seed": 7, "of": ["a", None]})


def rewrite(path: Path, **changes: Any) -> None:
    """Change the description in a model file and keep its weights."""
    description, weights = read_file(path)
    save_file(weights, path, metadata={"di4c": json.dumps(description | changes)})


def predictions(model: Model) -> torch.Tensor:
    x_t = torch.tensor([[3, 1, 2, 3], [3, 3, 3, 3]])
    shape = model.denoiser.latent_shape
    lam = None if shape is None else torch.full((2, *shape), 0.3)
    return model.denoiser(x_t, torch.tensor([0.5, 1.0], dtype=torch.float64), latent=lam)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved teacher."""
    save_model(make(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    "latent",
    [None, {"name": "token", "dim": 2}, {"name": "adaln", "std": 0.2}, {"name": "mask_noise"}],
)
def test_what_is_loaded_is_what_was_saved(latent: dict[str, Any] | None, tmp_path: Path) -> None:
    model = make(latent, num_classes=3, time_conditioned=True, mask=3)
    model.save(tmp_path / "new folder" / "model.safetensors")
    again = load_model(tmp_path / "new folder" / "model.safetensors")
    weights, same = model.denoiser.state_dict(), again.denoiser.state_dict()
    assert list(weights) == list(same)
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert torch.equal(predictions(model), predictions(again))
    assert (again.network, again.latent, again.info) == (model.network, model.latent, model.info)
    assert again.is_student == (latent is not None)


def test_weights_have_the_networks_names_in_files(path: Path) -> None:
    names = make().denoiser.network.state_dict().keys()
    assert read_file(path)[1].keys() == names
    # As earlier versions wrote them.
    description, weights = read_file(path)
    save_file(
        {f"network.{name}": value for name, value in weights.items()},
        path,
        metadata={"di4c": json.dumps(description)},
    )
    assert torch.equal(predictions(load_model(path)), predictions(make()))


@pytest.mark.parametrize(
    "process", [Absorbing(3, Cosine()), Uniform(3), DiscretisedGaussian(3, q_sigma=2.0)]
)
def test_the_process_comes_back(process: Process, tmp_path: Path) -> None:
    save_model(new_model(small(process), process), tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors").process
    assert type(again) is type(process)
    assert again.config == process.config


def test_loaded_models_are_in_eval_mode(path: Path) -> None:
    assert not any(module.training for module in load_model(path).denoiser.modules())


def test_info_is_added_to(path: Path) -> None:
    assert with_info(make(), steps=3).info == {"seed": 7, "of": ["a", None], "steps": 3}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model file: .*nowhere.safetensors"):
        load_model(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"junk" * 9, lambda b: b""]
)
def test_a_damaged_file_is_named(damage: Any, path: Path) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="model.safetensors is not a readable safetensors file"):
        load_model(path)


def test_a_file_of_another_program_is_refused(path: Path) -> None:
    save_file(load_file(path), path)
    with pytest.raises(UserError, match="was not written by di4c"):
        load_model(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    rewrite(path, format=FORMAT + 1)
    with pytest.raises(UserError, match="newer"):
        load_model(path)


@pytest.mark.parametrize(
    "change", [{"network": {"depth": 3}}, {"process": {"name": "uniform"}}, {"latent": {}}]
)
def test_a_description_that_makes_no_model_is_refused(change: dict[str, Any], path: Path) -> None:
    rewrite(path, **change)
    with pytest.raises(UserError):
        load_model(path)


def test_a_description_that_is_no_json_is_refused(path: Path) -> None:
    save_file(load_file(path), path, metadata={"di4c": "{"})
    with pytest.raises(UserError):
        load_model(path)


def test_missing_and_unexpected_weights_are_named(path: Path) -> None:
    description, _ = read_file(path)
    rewrite(path, network=description["network"] | {"time_conditioned": True})
    with pytest.raises(UserError, match="missing time.weight, missing time.bias$"):
        load_model(path)
    save_model(make(num_classes=2), path)
    rewrite(path, network=description["network"])
    with pytest.raises(UserError, match="unexpected label.weight$"):
        load_model(path)


def test_wrong_shapes_are_named_and_the_rest_counted(path: Path) -> None:
    description, _ = read_file(path)
    rewrite(path, network=description["network"] | {"hidden_size": 16})
    with pytest.raises(UserError, match=r"position is \(2, 8\), not \(2, 16\).* and \d+ more"):
        load_model(path)


def test_a_saved_file_is_as_readable_as_any_other(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_an_interrupted_save_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def interrupted(file: Path, content: bytes) -> int:
        write(file, content[: len(content) // 2])
        raise KeyboardInterrupt

    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(make(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_students_of_students_keep_the_injector() -> None:
    student = make({"name": "adaln"})
    again = student_of(student, {"name": "adaln"})
    assert torch.equal(predictions(student), predictions(again))


def test_another_injector_starts_anew_on_the_same_body() -> None:
    student = make({"name": "adaln"})
    other = student_of(student, {"name": "token"}).denoiser.state_dict()
    body = {k: v for k, v in student.denoiser.state_dict().items() if ".latent." not in k}
    assert all(torch.equal(other[key], value) for key, value in body.items())
    assert any(key.startswith("network.latent.latent_projection") for key in other)


def test_training_a_student_leaves_the_teacher_alone() -> None:
    teacher = make()
    student = student_of(teacher, {"name": "adaln"})
    with torch.no_grad():
        for parameter in student.denoiser.parameters():
            parameter.zero_()
    assert predictions(teacher).exp().std() > 0


@pytest.mark.parametrize("latent", [{"name": "fog"}, {"name": "adaln", "size": 3}])
def test_unknown_latents_and_options_are_refused(latent: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="fog.*adaln, mask_noise, .*token|'size'"):
        make(latent)


# ---- the DiT

DIT = DiTConfig(vocab_size=5, length=4, hidden_size=8, cond_dim=4, n_blocks=1, n_heads=2)


def dit(latent: dict[str, Any] | None = None) -> Model:
    torch.manual_seed(0)
    model = new_model(DIT, Absorbing(5, LogLinear(1e-3), mask=3), latent)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize("latent", [None, {"name": "token", "dim": 2}, {"name": "mask_noise"}])
def test_a_dit_is_saved_under_the_names_of_its_hosts(
    latent: dict[str, Any] | None, tmp_path: Path
) -> None:
    model = dit(latent)
    model.save(tmp_path / "model.safetensors")
    assert "blocks.0.attn_qkv.weight" in load_file(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert (again.network, again.latent) == (DIT, latent)
    assert torch.equal(predictions(model), predictions(again))


@pytest.mark.parametrize("latent", ["token", "adaln", "mask_noise"])
def test_students_of_a_dit_start_from_its_weights(latent: str) -> None:
    teacher = dit()
    student = student_of(teacher, {"name": latent})
    weights, taught = student.denoiser.state_dict(), teacher.denoiser.state_dict()
    assert all(weights[name].equal(value) for name, value in taught.items())
    assert len(weights) > len(taught)
    again = student_of(student, {"name": latent})
    assert torch.equal(predictions(student), predictions(again))
    other = student_of(student, {"name": "adaln", "dim": 3}).denoiser.state_dict()
    assert all(other[name].equal(value) for name, value in taught.items())


def test_a_dit_is_for_absorbing_and_uniform_diffusion() -> None:
    assert new_model(DIT, Uniform(5)).process.num_states == 5
    with pytest.raises(UserError, match="^a DiT is for absorbing and uniform diffusion, not "):
        new_model(DIT, DiscretisedGaussian(5))


def test_unknown_networks_are_refused(path: Path) -> None:
    rewrite(path, kind="mamba")
    with pytest.raises(UserError, match="unknown kind of network, 'mamba'"):
        load_model(path)


def test_files_from_before_there_were_kinds_still_load(path: Path) -> None:
    description, weights = read_file(path)
    del description["kind"]
    save_file(weights, path, metadata={"di4c": json.dumps(description)})
    assert torch.equal(predictions(load_model(path)), predictions(make()))
