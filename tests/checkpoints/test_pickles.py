import os
import pickle
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import omegaconf
import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from di4c_plugin.checkpoints.pickles import read_plain
from di4c_plugin.checkpoints.stubs import Inert, plain
from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.checkpoints.vocabulary import mask_index
from di4c_plugin.errors import UserError
from tests.checkpoints.inert import loads_inert


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", mask_token="[MASK]")  # type: ignore[no-untyped-call]


CONFIG = {
    "model": {"hidden_size": 8, "n_heads": 2, "length": "${data.length}", "missing": "???"},
    "data": {"length": 4, "names": ["a", None, 1.5, True], "empty": {}},
}


class Bomb:
    """Runs a command when unpickled by ordinary means."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@dataclass
class Gone:
    """Stands for a class of a module that is deleted later."""

    weight: int = 3
    items: list[int] = field(default_factory=lambda: [1, 2])


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_back_as_they_were(legacy: bool, tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    content = {
        "state_dict": OrderedDict(a=base, view=base[::2, 1], half=base.bfloat16()),
        "parameter": torch.nn.Parameter(base),
        "rng": torch.get_rng_state(),
        "size": base.shape,
        "dtype": torch.float16,
        "plain": [1, 2.5, "three", None, True, (4, {5}), b"six", slice(1, 2), 3j],
    }
    path = tmp_path / "file.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    again = load_inert(path, mmap=True)
    assert again.keys() == content.keys()
    for name, tensor in content["state_dict"].items():  # type: ignore[attr-defined]
        assert again["state_dict"][name].equal(tensor)
        assert again["state_dict"][name].dtype == tensor.dtype
    assert isinstance(again["parameter"], torch.nn.Parameter)
    assert again["parameter"].equal(base)
    for name in ("rng", "size", "dtype", "plain"):
        same = again[name] == content[name]
        assert same.all() if isinstance(same, torch.Tensor) else same


def test_an_optimiser_comes_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "file")
    again = load_inert(tmp_path / "file")["optimizer"]
    torch.optim.AdamW(layer.parameters()).load_state_dict(again)
    assert again["state"][0]["exp_avg"].equal(optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numbers_of_numpy_are_read_without_numpys_own_unpickling(protocol: int) -> None:
    values = [np.float64(1.5), np.int32(-3), np.bool_(True), np.dtype(">f4").type(2.5)]
    assert loads_inert(pickle.dumps(values, protocol)) == values
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    again = plain(loads_inert(pickle.dumps([array, array.T.copy(order="F")], min(protocol, 4))))
    assert (again[0] == array).all()
    assert (again[1] == array.T).all()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "call",
    [os.system, eval, exec, os.mkdir, pickle.loads, getattr, __import__, print, torch.load],
    ids=lambda call: call.__name__,
)
def test_nothing_in_the_file_is_executed(call: Any, legacy: bool, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    arguments: dict[Any, Any] = {
        os.system: (f"touch {evil}",),
        eval: (f"open({str(evil)!r}, 'w')",),
        exec: (f"open({str(evil)!r}, 'w')",),
        os.mkdir: (str(evil),),
        pickle.loads: (pickle.dumps(Bomb(os.mkdir, str(evil))),),
        getattr: (os, "system"),
        __import__: ("antigravity",),
        print: ("executed",),
        torch.load: (str(evil),),
    }
    bomb = Bomb(call, *(a for a in arguments[call] if not isinstance(a, types.ModuleType)))
    path = tmp_path / "file.ckpt"
    content = {"state_dict": {"w": torch.ones(2)}, "bomb": bomb, "list": [bomb]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    again = load_inert(path)
    assert not evil.exists()
    assert isinstance(again["bomb"], Inert)
    assert again["state_dict"]["w"].equal(torch.ones(2))


def test_the_same_file_would_have_executed_it(tmp_path: Path) -> None:
    torch.save({"bomb": Bomb(os.mkdir, str(tmp_path / "evil"))}, tmp_path / "file.ckpt")
    torch.load(tmp_path / "file.ckpt", weights_only=False)
    assert (tmp_path / "evil").exists()


def test_a_nested_torch_file_is_not_opened(tmp_path: Path) -> None:
    torch.save(Bomb(os.mkdir, str(tmp_path / "evil")), tmp_path / "inner")
    inner = (tmp_path / "inner").read_bytes()
    torch.save({"x": Bomb(torch.storage._load_from_bytes, inner)}, tmp_path / "file.ckpt")
    assert isinstance(load_inert(tmp_path / "file.ckpt")["x"], Inert)
    assert not (tmp_path / "evil").exists()


def test_no_module_is_imported() -> None:
    assert "antigravity" not in sys.modules
    stub = loads_inert(b"cantigravity\nfly\n.")
    assert stub.path == "antigravity.fly"
    assert "antigravity" not in sys.modules


def test_a_numpy_dtype_cannot_smuggle_pointers() -> None:
    scalar = pickle.loads(b"cnumpy._core.multiarray\nscalar\n.")
    evil = Bomb(scalar, np.dtype("O"), b"\1" * 8)
    assert isinstance(loads_inert(pickle.dumps(evil)), Inert)


def test_a_config_and_a_tokenizer_are_stubs_and_the_config_can_be_read(tmp_path: Path) -> None:
    content = {
        "state_dict": {"w": torch.ones(2)},
        "hyper_parameters": {"config": OmegaConf.create(CONFIG), "tokenizer": tokenizer()},
    }
    torch.save(content, tmp_path / "file.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file.ckpt", weights_only=True)
    again = load_inert(tmp_path / "file.ckpt")["hyper_parameters"]
    assert plain(again["config"]) == CONFIG
    assert isinstance(again["tokenizer"], Inert)
    assert mask_index(again["tokenizer"]) == tokenizer().mask_token_id == 3


def test_structured_configs_enums_and_paths_are_plain_too() -> None:
    config = OmegaConf.structured(Gone)
    assert plain(loads_inert(pickle.dumps(config))) == {"weight": 3, "items": [1, 2]}
    value = {"kind": omegaconf.base.Node, "path": Path("/a/b"), "lists": OmegaConf.create([1])}
    again = plain(loads_inert(pickle.dumps(value)))
    assert again == {"kind": "<omegaconf.base.Node>", "path": "/a/b", "lists": [1]}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_classes_that_no_longer_exist_are_stubs(
    protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("gone_by_now")
    source = (
        "class Plain:\n  def __init__(self): self.a = 1\n"
        "class Rows(list): pass\n"
        "class Table(dict): pass\n"
        "class Slots:\n  __slots__ = ('b',)\n"
        "class New:\n  def __new__(cls, *, x): return object.__new__(cls)\n"
        "  def __getnewargs_ex__(self): return (), {'x': 5}\n"
    )
    exec(source, vars(module))
    for kind in ("Plain", "Rows", "Table", "Slots", "New"):
        getattr(module, kind).__module__ = "gone_by_now"
    monkeypatch.setitem(sys.modules, "gone_by_now", module)
    table = module.Table(key="value")
    objects = {"plain": module.Plain(), "rows": module.Rows([1, 2]), "table": table}
    if protocol >= 2:
        slots = module.Slots()
        slots.b = 7
        objects |= {"slots": slots, "new": module.New(x=5)}
    data = pickle.dumps(objects, protocol)
    monkeypatch.delitem(sys.modules, "gone_by_now")
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(data)
    again = loads_inert(data)
    assert again["plain"].get("a") == 1
    assert str(again["plain"]) == "<gone_by_now.Plain>"
    if protocol >= 2:
        assert again["rows"].items == [1, 2]
        assert again["table"].items == [("key", "value")]
        assert again["slots"].get("b") == 7
        assert isinstance(again["new"], Inert)


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.pt")
    (tmp_path / "text").write_text("weights")
    (tmp_path / "empty").touch()
    torch.save({"a": torch.ones(1000)}, tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:500])
    torch.save(torch.ones(2), tmp_path / "tensor")
    torch.save(Gone(), tmp_path / "object")
    for name in ("script.pt", "text", "empty", "cut", "tensor", "object", "nowhere"):
        with pytest.raises(UserError, match=f"^[^\n]*{name}[^\n]*$"):
            load_inert(tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_plain_pickles_with_arrays(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "codes": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 2)),
    }
    (tmp_path / "x").write_bytes(pickle.dumps(arrays | {"y": 3, b"k": np.int64(4)}, protocol))
    again = read_plain(tmp_path / "x")
    for name, array in arrays.items():
        assert np.array_equal(again[name], array)
        assert again[name].dtype == array.dtype
    assert (again["y"], again[b"k"]) == (3, 4)


def test_arrays_of_objects_are_not_read(tmp_path: Path) -> None:
    for protocol in (2, 5):
        evil = {"x": np.array([Gone()], dtype=object)}
        (tmp_path / "x").write_bytes(pickle.dumps(evil, protocol))
        assert read_plain(tmp_path / "x")["x"].startswith("<numpy")


def test_plain_pickles_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps({"a": Bomb(os.mkdir, str(tmp_path / "evil"))}))
    assert read_plain(tmp_path / "x") == {"a": str(tmp_path / "evil")}
    assert not (tmp_path / "evil").exists()


def test_what_is_no_pickle(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    for content in (b"", b"text", pickle.dumps({"a": 1})[:-3], pickle.dumps(loop)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match="^[^\n]*x is not a readable pickle: [^\n]+$"):
            read_plain(tmp_path / "x")
