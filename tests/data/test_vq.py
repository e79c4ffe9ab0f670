"""The VQ models of the hosts' own classes: the same codes and pictures as by the classes alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.data import vq as vq_module
from di4c_plugin.data.vq import VQ, layout, load_llamagen, load_taming, parameters
from di4c_plugin.errors import UserError
from di4c_plugin.families.importing import host_module
from tests.stand_ins.images.vq_files import (
    CODES,
    with_stand_in,
    write_llamagen,
    write_taming,
    write_vq,
)

Root = Callable[[str], Path]
both = pytest.mark.parametrize("host", ["maskgit", "halton_maskgit"])


@pytest.fixture
def vq_root(root: Root, repository: Path) -> Root:
    """As `root`, with a VQ model in the stand-ins too."""

    def find(host: str) -> Path:
        place = root(host)
        return place if repository in place.parents else with_stand_in(place, host)

    return find


@pytest.fixture
def stand_ins(make_host: Callable[[str], Path]) -> Root:
    return lambda host: with_stand_in(make_host(host), host)


def load_vq(host: str, path: Path, place: Path) -> VQ:
    return {"maskgit": load_taming, "halton_maskgit": load_llamagen}[host](host, path, place)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 8, 8) * 2 - 1


def codes_by(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.encode(x)[2][2].view(-1, 4, 4)


@both
def test_codes_and_pictures_are_those_of_the_hosts_class(
    host: str, vq_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = vq_root(host)
    path, model = write_vq(host, tmp_path / "vq", place)
    vq = load_vq(host, path, place)
    assert (vq.n_codes, vq.factor) == (CODES[host], 2)
    monkeypatch.setattr(vq_module, "CHUNK", 2)
    x = images()
    codes = vq.encode(x)
    assert torch.equal(codes, codes_by(model, x))
    assert codes.dtype == torch.int64
    assert codes.unique().numel() > 1
    decode: Any = model
    with torch.no_grad():
        values = decode.decode_code(codes)
    pixels = vq.decode(codes.to(torch.int16))
    assert pixels.shape == x.shape
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(pixels.float(), (values.clamp(-1, 1) + 1) * 127.5, atol=0.51, rtol=0)
    assert pixels.unique().numel() > 10


@both
def test_what_is_no_code_is_grey(host: str, vq_root: Root, tmp_path: Path) -> None:
    place = vq_root(host)
    vq = load_vq(host, write_vq(host, tmp_path / "vq", place)[0], place)
    codes = torch.randint(vq.n_codes, (2, 4, 4))
    assert torch.equal(vq.draw(codes), vq.decode(codes))
    codes[0, 1, 2], codes[1, 0, 0] = vq.n_codes, -1
    drawn = vq.draw(codes)
    cells = (drawn == 128).all(1).view(2, 4, 2, 4, 2).all(-1).all(2)
    assert torch.equal(cells, (codes < 0) | (codes == vq.n_codes))


def test_full_precision_no_gradients_and_no_module(stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins("maskgit")
    path, model = write_vq("maskgit", tmp_path / "vq", place)
    vq = load_vq("maskgit", path, place)
    assert not isinstance(vq, nn.Module)
    assert not vq.model.training
    assert not any(p.requires_grad for p in vq.model.parameters())
    x = images(50)
    exact = codes_by(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(codes_by(model, x), exact)
        assert torch.equal(vq.encode(x), exact)
    assert vq.to("cpu") is vq


@both
def test_fingerprint_is_of_the_weights(host: str, stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins(host)
    path, model = write_vq(host, tmp_path / "vq", place)
    first = load_vq(host, path, place).fingerprint
    assert load_vq(host, path, place).fingerprint == first
    key = "state_dict" if host == "maskgit" else "model"
    name = "quantize.embedding.weight"
    state = model.state_dict()
    torch.save({key: state | {name: state[name] + 1}}, weights_file(path))
    assert load_vq(host, path, place).fingerprint != first


def weights_file(path: Path) -> Path:
    return path / "ckpts" / "last.ckpt" if path.is_dir() else path


def test_files_where_the_hosts_downloads_leave_them(stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins("maskgit")
    folder, _ = write_taming(tmp_path / "flat", place, config=".", weights=".")
    assert load_vq("maskgit", folder, place).n_codes == CODES["maskgit"]
    place = stand_ins("halton_maskgit")
    file, _ = write_llamagen(tmp_path / "saved", place)
    assert load_vq("halton_maskgit", file.parent, place).n_codes == CODES["halton_maskgit"]


@both
def test_missing_files_say_where_to_get_them(host: str, stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins(host)
    name, source = {
        "maskgit": ("configs/model.yaml", "llvictorll/Maskgit-pytorch"),
        "halton_maskgit": ("nothing", "FoundationVision/LlamaGen"),
    }[host]
    with pytest.raises(UserError, match=f"^no VQGAN for {host}: .*{name} is missing .*{source}"):
        load_vq(host, tmp_path / "nothing", place)
    if host == "maskgit":
        write_taming(tmp_path / "half", place)
        (tmp_path / "half" / "ckpts" / "last.ckpt").unlink()
        with pytest.raises(UserError, match="ckpts/last.ckpt is missing"):
            load_vq(host, tmp_path / "half", place)


@both
def test_other_weights_are_refused(host: str, stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins(host)
    path, model = write_vq(host, tmp_path / "vq", place)
    key = "state_dict" if host == "maskgit" else "model"
    name = "quantize.embedding.weight"
    state = {k: v for k, v in model.state_dict().items() if k != "decoder.conv.bias"}
    if host == "halton_maskgit":
        del state["decoder.conv_out.bias"]
    torch.save({key: state}, weights_file(path))
    with pytest.raises(UserError, match="weights of .* do not fit .*missing decoder"):
        load_vq(host, path, place)
    for content in ({"weights": state}, {key: {"a": torch.ones(1)}}):
        torch.save(content, weights_file(path))
        with pytest.raises(UserError, match=f"holds no VQ model: '{key}' has no {name}"):
            load_vq(host, path, place)


def test_other_sizes_are_refused(stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins("halton_maskgit")
    file, _ = write_llamagen(tmp_path / "vq", place, codebook_embed_dim=4)
    with pytest.raises(UserError, match="codes of 4 numbers; Halton-MaskGIT decodes 8"):
        load_vq("halton_maskgit", file, place)
    place = stand_ins("maskgit")
    folder, _ = write_taming(tmp_path / "taming", place)
    yaml = folder / "configs" / "model.yaml"
    text = yaml.read_text()
    yaml.write_text(text.replace("n_embed: 12", "n_embed: 13"))
    with pytest.raises(UserError, match=r"quantize.embedding.weight is \(12, 4\), not \(13, 4\)"):
        load_vq("maskgit", folder, place)
    yaml.write_text(text.replace("n_embed", "codes"))
    with pytest.raises(UserError, match="model.yaml does not make the host's VQ model: .*n_embed"):
        load_vq("maskgit", folder, place)
    for bad, reason in (
        ("model: [", "is not readable"),
        ("model: {target: x}", "is no config of a VQGAN"),
        ("", "is no config of a VQGAN"),
    ):
        yaml.write_text(bad)
        with pytest.raises(UserError, match=f"^[^\n]*model.yaml {reason}[^\n]*$"):
            load_vq("maskgit", folder, place)


def test_checks(stand_ins: Root, tmp_path: Path) -> None:
    place = stand_ins("maskgit")
    vq: VQ = load_vq("maskgit", write_taming(tmp_path / "vq", place)[0], place)
    vq.check(side=4, codes=12, image_size=8)
    vq.check(side=7, codes=12)
    with pytest.raises(UserError, match="has 12 codes, and the network 1024"):
        vq.check(side=4, codes=1024, image_size=8)
    with pytest.raises(UserError, match="pictures of 9 x 9 .* grid of 4 x 4 .* image_size is 8"):
        vq.check(side=4, codes=12, image_size=9)
    with pytest.raises(UserError, match="9 x 8 pixels are no grid .* 2 x 2"):
        vq.encode(torch.zeros(1, 3, 9, 8))


@pytest.mark.host
@pytest.mark.parametrize("name", ["VQ-16", "VQ-8"])
def test_layouts_of_the_released_models(name: str, real_root: Root) -> None:
    module = host_module("halton_maskgit", "Network.vq_model", real_root("halton_maskgit"))
    with torch.device("meta"):
        model = module.VQ_models[name](codebook_size=16384, codebook_embed_dim=8)
    found = layout(model.state_dict())
    assert found == {key: getattr(model.config, key) for key in found}
    assert len(found) == 6


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("ddconfig: {ch: '${oc.env:HOME}'}", "is no config of a VQGAN: ch is no number"),
        ("ddconfig: {ch_mult: [1, x]}", "is no config of a VQGAN: ch_mult is no number"),
        ("n_embed: {a: 1}\n    ddconfig: {}", "is no config of a VQGAN: n_embed is no number"),
        ("remap: codes.npy\n    ddconfig: {}", "renumbers its codes by another file (remap)"),
        ("ddconfig: 3", "is no config of a VQGAN: it has no model.params.ddconfig"),
        ("&x ddconfig: {ch: &y [*y]}", "is not readable: "),
    ],
)
def test_only_sizes_are_taken_from_a_config(params: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "model.yaml"
    config.write_text(f"model:\n  params:\n    {params}\n")
    with pytest.raises(UserError, match=f"^{re.escape(f'{config} {message}')}[^\n]*$"):
        parameters(config)


def test_nothing_of_a_config_reaches_the_hosts_class_but_sizes(tmp_path: Path) -> None:
    config = tmp_path / "model.yaml"
    classes = "lossconfig: {target: os.system, params: {command: x}}"
    more = f"ckpt_path: x.ckpt\n    image_key: x\n    monitor: ${{oc.env:HOME}}\n    {classes}"
    layers = "ddconfig: {ch: 8, ch_mult: [1, 2], double_z: false, target: x.y}"
    params = f"params:\n    n_embed: 7\n    {more}\n    {layers}\n"
    config.write_text(f"model:\n  target: a.b\n  {params}")
    layers_found = {"ch": 8, "ch_mult": [1, 2], "double_z": False}
    assert parameters(config) == {"n_embed": 7, "ddconfig": layers_found, "lossconfig": {}}
