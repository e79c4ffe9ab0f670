from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from di4c_plugin.api import load_student, load_teacher
from di4c_plugin.checkpoints.weights import Weights, read_weights
from di4c_plugin.diffusion import Absorbing, LogLinear, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families import dit
from di4c_plugin.families.dit import network_of, process_of
from di4c_plugin.networks import DiTConfig
from tests.networks import dit_reference
from tests.stand_ins import dit_files
from tests.stand_ins.dit_files import CONFIGS, HUB_CONFIG, in_module, lightning, state

SIZES = DiTConfig(vocab_size=7, length=6, hidden_size=24, cond_dim=5, n_blocks=2, n_heads=3)


def weights(config: dict[str, Any]) -> Weights:
    return Weights(state(), None, config, None, "here", "")


@pytest.mark.parametrize("host", ["mdlm", "sdtt", "duo"])
def test_a_checkpoint_becomes_the_model_that_it_is(host: str, tmp_path: Path) -> None:
    averaged = state(seed=1)
    path = lightning(tmp_path / "x.ckpt", host, state(), list(averaged.values()))
    model = load_teacher(path)
    uniform = host == "duo"
    assert model.network == replace(SIZES, time_conditioning=uniform)
    assert isinstance(model.process, Uniform if uniform else Absorbing)
    assert model.info["origin"] == str(path)
    x_t = torch.tensor([[0, 6, 1, 6, 6, 2]])
    t = torch.tensor([0.4], dtype=torch.float64)
    sigma = -torch.log(1 - (1 - 1e-3) * t) if uniform else torch.zeros(1)
    logits = dit_reference.logits(averaged, x_t, sigma, 3)
    log_p_0 = model.denoiser(x_t, t)
    if uniform:
        # Duo's network leaves out what a token says of itself: q(x_t | x_0) makes up for it.
        hot = torch.nn.functional.one_hot(x_t, logits.shape[-1])
        likelihood = hot * torch.exp(-sigma) + (1 - torch.exp(-sigma)) / logits.shape[-1]
        expected = (logits + likelihood.log()).log_softmax(-1)
        torch.testing.assert_close(log_p_0.double(), expected, rtol=1e-4, atol=1e-4)
        return
    # MDLM's SUBS: the mask is never predicted, what is revealed stays.
    expected = logits[..., :6].log_softmax(-1)
    masked = x_t == 6
    torch.testing.assert_close(
        log_p_0[..., :6][masked].double(), expected[masked], rtol=1e-4, atol=1e-4
    )
    assert log_p_0.argmax(-1)[~masked].equal(x_t[~masked])
    assert (log_p_0[..., 6] < -1e5).all()


def test_official_students_are_loaded_by_name(tmp_path: Path) -> None:
    student = state(latent=True)
    model = load_student(lightning(tmp_path / "sdtt7-di4c2.ckpt", "sdtt", student))
    x_t, t = torch.full((2, 6), 6), torch.ones(2, dtype=torch.float64)
    lam = torch.tensor([[0.2], [0.7]])
    expected = dit_reference.logits(student, x_t, torch.zeros(2), 3, lam[:, 0])
    log_p_0 = model.denoiser(x_t, t, latent=lam)[..., :6]
    expected = expected[..., :6].log_softmax(-1)
    torch.testing.assert_close(log_p_0.double(), expected, rtol=1e-4, atol=1e-4)
    assert model.sample(3, steps=1).shape == (3, 6)


def test_the_hubs_config_says_enough(tmp_path: Path) -> None:
    assert network_of(weights(HUB_CONFIG)) == SIZES
    process = process_of(weights(HUB_CONFIG))
    assert process == {
        "name": "absorbing",
        "num_tokens": 7,
        "mask": 6,
        "schedule": "loglinear",
        "eps": 1e-3,
    }
    duo = HUB_CONFIG | {"model_type": "DUO", "time_conditioning": True}
    assert process_of(weights(duo))["name"] == "uniform"
    assert network_of(weights(duo)).time_conditioning


def test_the_mask_may_be_any_token(tmp_path: Path) -> None:
    model = load_teacher(lightning(tmp_path / "x.ckpt", "mdlm", state(), mask=True))
    assert model.process.config["mask"] == 2
    assert 2 not in model.sample(8, steps=2)


def test_our_own_notes_go_before_everything(tmp_path: Path) -> None:
    process = Absorbing(7, LogLinear(1e-3), mask=4).config
    notes = {
        "format": 1,
        "latent": {"name": "adaln", "dim": 2},
        "process": process,
        "network": {"kind": "dit"} | vars(SIZES),
        "teacher": {"source": "a/b"},
        "run": {"round": 1},
    }
    modulation = {
        "modulation.weight": torch.randn(5 * 2 * 24, 128),
        "modulation.bias": torch.zeros(5 * 2 * 24),
    }
    path = lightning(tmp_path / "x.ckpt", "duo", state() | modulation, di4c=notes)
    model = load_student(path)
    assert (model.network, model.process.config) == (SIZES, process)
    assert model.latent == notes["latent"]
    assert model.info["teacher"] == {"source": "a/b"}
    assert model.sample(2, steps=2, prefix=[1, 2])[:, :2].tolist() == [[1, 2]] * 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "here does not say its length: put a config.json beside the weights .*model_length"),
        ({"model_length": 6}, "here does not say its n_heads: "),
        (HUB_CONFIG | {"n_heads": 5}, ".*here is damaged: 5 heads do not divide hidden size 24"),
        (CONFIGS["mdlm"] | {"parameterization": "ar"}, "here is an autoregressive model"),
        (CONFIGS["sdtt"] | {"parameterization": {"name": "ar"}}, "here is an autoregressive mo"),
        ({"algo": {"name": "sedd", "parameterization": "score"}}, "here is SEDD"),
        (
            CONFIGS["mdlm"] | {"noise": {"type": "geometric"}, "time_conditioning": True},
            "here was trained with noise=geometric and knows the time",
        ),
    ],
)
def test_what_does_not_suffice_is_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        _ = network_of(weights(config)), process_of(weights(config))


def test_a_causal_dit_is_no_teacher() -> None:
    causal = {name: value for name, value in state().items() if "sigma_map" not in name}
    with pytest.raises(UserError, match="^here is an autoregressive model: there is no student"):
        network_of(Weights(causal, None, {}, None, "here", ""))


def test_other_noise_does_not_matter_where_the_time_is_not_seen() -> None:
    config = CONFIGS["mdlm"] | {"noise": {"type": "geometric"}}
    assert process_of(weights(config))["schedule"] == "loglinear"
    duo = CONFIGS["duo"] | {"noise": {"type": "cosine", "eps": 1e-3}}
    assert process_of(weights(duo))["schedule"] == "duo_cosine"


def test_rotary_buffers_tell_the_heads(tmp_path: Path) -> None:
    save_file(dit_files.in_module(state()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_length": 6}')
    assert network_of(read_weights(tmp_path)) == SIZES


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    cut = {name: value for name, value in state().items() if name != "blocks.1.mlp.0.bias"}
    path = lightning(tmp_path / "x.ckpt", "mdlm", cut)
    with pytest.raises(UserError, match="^the weights of .*x.ckpt do not fit .*blocks.1.mlp.0.bi"):
        load_teacher(path)


def test_a_checkpoint_that_says_nothing_is_described_by_its_run(tmp_path: Path) -> None:
    """As SDTT writes them: `checkpoints/last.ckpt` and, one folder above, Hydra's own copy."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".hydra").mkdir()
    path = run / "checkpoints/last.ckpt"
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in state().items()}}, path)
    with pytest.raises(UserError, match="does not say its length"):
        load_teacher(path)
    config = run / ".hydra/config.yaml"
    config.write_text("model: {length: 6, n_heads: 3}\ntime_conditioning: false\nx: ${cwd:}\n")
    model = load_teacher(path)
    assert model.network == SIZES
    config.write_text("model: [")
    with pytest.raises(UserError, match="config.yaml is not readable"):
        load_teacher(path)


def released(*, latent: bool = True) -> dict[str, torch.Tensor]:
    """Weights of the released layout, without their values."""
    tensors = {name: value.to("meta") for name, value in state(latent=latent).items()}
    block = {k: v for k, v in tensors.items() if k.startswith("blocks.0.")}
    for i in range(12):
        tensors |= {k.replace("blocks.0.", f"blocks.{i}."): v for k, v in block.items()}
    return tensors | {"vocab_embed.embedding": torch.empty(50258, 768, device="meta")}


def test_a_released_student_by_itself_has_length_and_heads() -> None:
    found = network_of(Weights(released(), {"name": "token"}, {}, None, "sdtt7-di4c2.ckpt", ""))
    assert (found.length, found.n_heads, found.n_blocks, found.time_conditioning) == (
        *(1024, 12, 12),
        False,
    )
    said = Weights(released(), None, {"model_length": 512, "n_heads": 6}, None, "x", "")
    assert (network_of(said).length, network_of(said).n_heads) == (512, 6)
    own = Weights(released(), None, {}, None, "x", "", {"format": 1})
    for other in (Weights(released(latent=False), None, {}, None, "x", ""), own):
        with pytest.raises(UserError, match="x does not say its length"):
            network_of(other)


def test_a_lone_file_of_the_released_kind_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Di4C's authors write it: a Lightning file without `hyper_parameters`; small here."""
    monkeypatch.setattr(dit, "RELEASED", (7, 24, 2))
    monkeypatch.setattr(dit, "OF_RELEASED", {"length": 6, "n_heads": 3})
    path, weights = tmp_path / "sdtt7-di4c2.ckpt", state(latent=True)
    averages = [2 * value for value in weights.values()]
    content = {"state_dict": in_module(weights), "ema": {"shadow_params": averages}}
    torch.save(content | {"global_step": 1, "pytorch-lightning_version": "2.4.0"}, path)
    student = load_student(path, ema=False)  # as the paper samples
    assert student.network == SIZES
    own = student.denoiser.network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    assert student.sample(3, steps=2, latents="fresh").shape == (3, 6)
    assert f"{path} is taken for a released student of Di4C" in capsys.readouterr().err


def test_redis_text_models_are_uniform() -> None:
    config = CONFIGS["duo"] | {"algo": {"name": "rectification", "parameterization": "mean"}}
    assert process_of(weights(config))["name"] == "uniform"
