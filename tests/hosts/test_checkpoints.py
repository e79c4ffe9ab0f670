"""Checkpoints as people keep and publish them: their host is known without being named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.api import load_teacher
from di4c_plugin.errors import UserError
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.place import HOSTS, Place, options

State = dict[str, Tensor]


def torch_file(name: str, wrap: Callable[[State], Any]) -> Callable[[Path, State], Path]:
    def write(folder: Path, state: State) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        torch.save(wrap(state), path)
        return path

    return write


def safetensors(folder: Path, state: State) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({k: v.clone() for k, v in state.items()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def without_twins(folder: Path, state: State) -> Path:
    """As safetensors' `save_model`: tied weights under the first of their names only."""
    first = {value.data_ptr(): name for name, value in sorted(state.items(), reverse=True)}
    return safetensors(folder, {k: v for k, v in state.items() if first[v.data_ptr()] == k})


def dimo(folder: Path, state: State) -> Path:
    """A folder, as Di[M]O's `save_pretrained` writes it."""
    return torch_file("maskgit/pytorch_model.bin", dict)(folder, state).parent


WAYS: dict[str, Callable[[Path, State], Path]] = {
    "state dict": torch_file("x.pth", dict),
    "under model": torch_file("x.pt", lambda state: {"model": state, "step": 1}),
    "under state_dict": torch_file("x.ckpt", lambda state: {"state_dict": state, "epoch": 1}),
    "as ReDi": torch_file("redi1.ckpt", lambda s: {"iter": 1, "model_state_dict": s}),
    "no suffix": torch_file("checkpoint", lambda state: {"model_state_dict": state}),
    "wrapped": torch_file("x.bin", lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()}),
    "safetensors": safetensors,
    "without twins": without_twins,
    "as Di[M]O": dimo,
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("way", WAYS)
def test_its_host_is_found(way: str, host: str, root: Root, tmp_path: Path) -> None:
    place = Place(host, root(host), tmp_path)
    state = place.network.state_dict()
    if host == "tauldr":  # what its weights do not tell
        own: dict[str, Any] = {"config": str(place.config), "root": str(place.root)}
    else:
        own = {k: v for k, v in options(place).items() if k != "name"}
    source = WAYS[way](tmp_path / "files", state)
    for asked in (own, own | {"name": host}):
        model = load_teacher(source, host=asked)
        assert model.network.kind == host
        found = model.denoiser.network.state_dict()
        assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("more", [("reweight.linear.weight",), ("rand_token",), ()])
def test_what_only_redi_uses_is_left_out_and_said(
    more: tuple[str, ...], root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    place = Place("maskgit", root("maskgit"), tmp_path)
    state = place.network.state_dict() | {name: torch.ones(1, 16) for name in more}
    path = WAYS["as ReDi"](tmp_path, state)
    own = {k: v for k, v in options(place).items() if k != "name"}
    model, plain = load_teacher(path, host=own), load_teacher(place.teacher, host=own)
    assert model.info["fingerprint"] == plain.info["fingerprint"]
    assert capsys.readouterr().err.count(
        "is of ReDi: its reweight and rand_token are left"
    ) == bool(more)


def test_what_is_of_no_host_is_one_line(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    torch.save({"state_dict": {"x": torch.ones(1)}}, tmp_path / "x.ckpt")
    for name in ("x.safetensors", "x.ckpt"):
        with pytest.raises(UserError, match="^.*holds no weights of a network that we know"):
            load_teacher(tmp_path / name)
        with pytest.raises(UserError, match="^.*holds no weights of a network that we know"):
            load_teacher(tmp_path / name, host={"name": "maskgit"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds neither model.safetensors nor"):
        load_teacher(tmp_path / "empty", host={"name": "maskgit"})
