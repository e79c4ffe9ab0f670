from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.families.dit import LATENT
from di4c_plugin.hosts import host_for, load_source
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.networks.latent import TokenLatent, find_latent
from tests.stand_ins.dit_files import CONFIGS, in_module, lightning, state

LOOKUP = "di4c_plugin.checkpoints.schemes.lookup"


@pytest.fixture
def model() -> Model:
    return BUILTIN().new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1)


def same_weights(a: Model, b: Model) -> bool:
    left, right = a.denoiser.state_dict(), b.denoiser.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("source", ["{}", "file:{}"])
@pytest.mark.parametrize("name", ["model.safetensors", "with:colon"])
def test_a_file_is_named_by_its_path(source: str, name: str, model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / name)
    assert same_weights(load_source(source.format(tmp_path / name)), model)


def test_a_path_object_will_do(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    assert same_weights(load_source(tmp_path / "model.safetensors"), model)


def test_the_rest_goes_to_the_source_of_that_name(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hub(rest: str) -> Model:
        asked.append(rest)
        return model

    sources = {("teacher source", "hub"): hub}
    monkeypatch.setattr(LOOKUP, lambda *key: sources[key])
    assert load_source("hub:owner/name:tag") is model
    assert asked == ["owner/name:tag"]


@pytest.mark.parametrize("ema", [True, False])
def test_a_source_is_told_whether_to_take_averages(
    ema: bool, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def hub(rest: str, *, ema: bool) -> Model:
        told.append(ema)
        return model

    def loose(rest: str, **options: bool) -> Model:
        return hub(rest, **options)

    for source in (hub, loose):
        monkeypatch.setattr(
            "di4c_plugin.checkpoints.schemes.lookup", lambda *key, source=source: source
        )
        assert load_source("hub:x", ema=ema) is model
    assert told == [ema, ema]


def test_a_source_without_averages_refuses_to_leave_them_out() -> None:
    with pytest.raises(UserError, match="^builtin:digits: source 'builtin' has one set of weights"):
        load_source("builtin:digits", ema=False)


def test_the_source_of_files_leaves_the_averages_out(tmp_path: Path) -> None:
    path, weights = tmp_path / "last.ckpt", state()
    content = {"state_dict": in_module(weights), "hyper_parameters": {"config": CONFIGS["mdlm"]}}
    content["ema"] = {"shadow_params": [2 * value for value in weights.values()]}
    torch.save(content, path)
    for ema in (True, False):
        network = load_source(f"file:{path}", ema=ema).denoiser.network
        factor = 2 if ema else 1
        for name, value in weights.items():
            assert torch.equal(network.state_dict()[name], factor * value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:x", "unknown teacher source 'hub'; there are builtin, file"),
        ("builtn:digits", r"unknown teacher source 'builtn' \(did you mean 'builtin'\?\); "),
        ("builtin:letters", "unknown built-in teacher 'letters'; there are: digits"),
        ("nowhere.safetensors", "no such model file: nowhere.safetensors"),
        ("file:nowhere", "no such model file: nowhere"),
        ("", "no such model file: "),
        (".", ". holds neither model.safetensors nor pytorch_model.bin"),
        ("./nowhere", "no such model file: ./nowhere"),
        ("a/b/c", "no such model file: a/b/c"),
    ],
)
def test_what_is_not_there_is_named(source: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}.*$"):
        load_source(source)


def test_foreign_and_damaged_files_are_refused(model: Model, tmp_path: Path) -> None:
    foreign, damaged = tmp_path / "foreign", tmp_path / "damaged"
    save_file({"weight": torch.zeros(2)}, foreign)
    model.save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(UserError, match="^.*foreign holds no weights of a network that we "):
        load_source(foreign)
    with pytest.raises(UserError, match="^.*damaged is not a readable safetensors file: .*$"):
        load_source(damaged)


def test_latents_are_found_among_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(TokenLatent):
        pass

    registered = {"mine": Mine, "broken": len}
    path = "di4c_plugin.networks.latent.making.lookup"
    monkeypatch.setattr(path, lambda kind, name: registered[name])
    assert find_latent("mine") is Mine
    with pytest.raises(
        UserError, match="latent 'broken' does not enter this network: it is no LatentInjector"
    ):
        find_latent("broken")


def test_options_of_no_host_are_refused(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="^builtin:digits does not say whose options heads are: "):
        load_source("builtin:digits", options={"heads": 2})
    with pytest.raises(UserError, match="^host 'builtin': got .* argument 'heads'; it takes no o"):
        load_source(tmp_path / "model.safetensors", options={"heads": 2})


@pytest.mark.parametrize("host", sorted(CONFIGS))
def test_a_checkpoint_is_of_the_program_whose_config_it_holds(host: str, tmp_path: Path) -> None:
    weights = state()
    loaded = load_source(lightning(tmp_path / "x.ckpt", host, weights))
    assert host_for(loaded).name == loaded.info["host"]["name"] == host.partition("_")[0]
    assert host_for(loaded).latent == LATENT  # as in the program itself
