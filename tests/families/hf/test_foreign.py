"""Classes of others: nothing of them runs unasked, and all of them is loaded exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin import distill, load_student, save_student
from di4c_plugin.algorithms.base import Data
from di4c_plugin.errors import UserError
from tests.families.hf.slow import dreamlike_logits, shifted
from tests.families.hf.snapshots import AUTO, foreign, load_teacher

HF = {"name": "hf", "trust_remote_code": True}


def tokens(*shape: int) -> Tensor:
    x = torch.randint(5, 33, shape, generator=torch.Generator().manual_seed(3))
    x[:, ::3] = 4
    return x


def half(count: int) -> Tensor:
    return torch.full((count,), 0.5, dtype=torch.float64)


@pytest.fixture(params=sorted(AUTO))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_without_trust_nothing_runs(kind: str, tmp_path: Path) -> None:
    foreign(kind, tmp_path)
    ran = tmp_path / "ran"
    code = tmp_path / f"modeling_{kind}.py"
    code.write_text(code.read_text() + f"\nopen({str(ran)!r}, 'w')\n")
    for host in ({"name": "hf"}, {"name": "hf", "trust_remote_code": False}, None):
        with pytest.raises(UserError, match="trust_remote_code=true") as caught:
            load_teacher(tmp_path, host=host)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not ran.exists()
    load_teacher(tmp_path, host=HF)
    assert ran.exists()


def test_the_output_says_whose_code_runs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(kind, tmp_path)
    load_teacher(tmp_path, host=HF)
    assert f"runs code of {tmp_path}: " in capsys.readouterr().err


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_and_buffers_are_exact(kind: str, shards: int, tmp_path: Path) -> None:
    network = foreign(kind, tmp_path, shards=shards)
    loaded = load_teacher(tmp_path, host=HF).denoiser.network
    own: dict[str, Tensor] = loaded.state_dict()
    assert own.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, own[name]), name
    buffers = dict(loaded.named_buffers())
    assert buffers.keys() == dict(network.named_buffers()).keys()
    for name, value in network.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_predictions_are_those_of_the_class(kind: str, tmp_path: Path) -> None:
    """Logits that are of the next token come at the token's own position."""
    network = foreign(kind, tmp_path).double()
    denoiser = load_teacher(tmp_path, host=HF | {"dtype": "float64"}).denoiser
    x = tokens(3, 9)
    with torch.no_grad():
        logits = denoiser.logits(x, half(3), None, None)
        hidden = denoiser.head(denoiser.hidden(x, half(3)))
        for row, one in zip(logits, x, strict=True):
            if kind == "dreamlike":
                alone = shifted(dreamlike_logits(network, one, None))
            else:
                alone = network(one[None], use_cache=False).logits[0]
            torch.testing.assert_close(row, alone, rtol=0, atol=1e-9)
    torch.testing.assert_close(hidden, logits)


@pytest.mark.parametrize("block", [1, 3, 4, 20])
@pytest.mark.parametrize("shift", [False, True])
def test_blocks_see_what_stands_before(block: int, shift: bool, tmp_path: Path) -> None:
    """And padding is seen by nobody; truth by loops over single sequences."""
    network = foreign("dreamlike", tmp_path).double()
    said = {"attention": "blocks", "block": block, "shift": shift, "dtype": "float64"}
    model = load_teacher(tmp_path, host=HF | said)
    x, lengths = tokens(3, 10), (10, 6, 7)
    for row, length in enumerate(lengths):
        x[row, length:] = model.network.pad
    with torch.no_grad():
        logits = model.denoiser.logits(x, half(3), None, None)
        for row, length in enumerate(lengths):
            alone = dreamlike_logits(network, x[row, :length], block)
            alone = shifted(alone) if shift else alone
            torch.testing.assert_close(logits[row, :length], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("argument", ["attention_mask", "attention_bias"])
def test_padding_changes_nothing(argument: str, tmp_path: Path) -> None:
    kind = "lladalike" if argument == "attention_bias" else "dreamlike"
    foreign(kind, tmp_path)
    model = load_teacher(tmp_path, host=HF | {"dtype": "float64"})
    assert model.network.attention_argument == argument
    x, lengths = tokens(3, 10), (10, 4, 7)
    for row, length in enumerate(lengths):
        x[row, length:] = model.network.pad
    with torch.no_grad():
        logits = model.denoiser.logits(x, half(3), None, None)
        for row, length in enumerate(lengths):
            alone = model.denoiser.logits(x[row : row + 1, :length], half(1), None, None)
            torch.testing.assert_close(logits[row, :length], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["token", "mask_noise"])
def test_a_latent_lets_nothing_later_through(name: str, tmp_path: Path) -> None:
    foreign("dreamlike", tmp_path)
    said = {"attention": "blocks", "block": 4, "shift": False, "dtype": "float64"}
    teacher = load_teacher(tmp_path, host=HF | said)
    student = teacher.family.student_of(teacher, {"name": name}).denoiser.eval()
    x = tokens(2, 12)
    latent = torch.rand(2, *student.latent_shape, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 8:] = 9
    with torch.no_grad():
        one, two = (student.logits(each, half(2), None, latent) for each in (x, other))
        moved = student.logits(x, half(2), None, 1 - latent)
    assert torch.equal(one[:, :8], two[:, :8])
    assert not torch.allclose(one[:, :8], moved[:, :8])


@pytest.mark.parametrize("name", ["token", "mask_noise"])
def test_a_student_is_trained_saved_and_loaded(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    foreign(kind, folder)
    teacher = load_teacher(folder, host=HF)
    student = distill(
        teacher,
        Data(tokens(20, 24).clamp(min=5)),
        latent={"name": name},
        algo={"latents": 3},
        training={"steps": 2, "batch_size": 4},
        out=tmp_path / "run",
        progress=False,
    )
    save_student(student, tmp_path / "student")
    for source in (tmp_path / "student", tmp_path / "run" / "student.safetensors"):
        with pytest.raises(UserError, match="trust_remote_code=true"):
            load_student(source)
        with pytest.raises(UserError, match="say host.root="):
            load_student(source, host=HF)
        again = load_student(source, host=HF | {"root": str(folder)})
        assert torch.equal(student.sample(3, steps=2), again.sample(3, steps=2))
    card = (tmp_path / "student" / "README.md").read_text()
    assert str(tmp_path) not in card + (tmp_path / "student" / "config.json").read_text()


def drop_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def leave_folder(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    (folder / "out.safetensors").write_bytes(b"")
    index.write_text(json.dumps({"weight_map": {"a": "../out.safetensors"}}))


def no_files(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def no_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["a.B", None]}
    (folder / "config.json").write_text(json.dumps(config))


def broken(folder: Path) -> None:
    (folder / "modeling_dreamlike.py").write_text("import nothing_of_this_name\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_shard, "no such file"),
        (leave_folder, "names no files of weights"),
        (no_files, "names no files of weights"),
        (no_class, "names no masked language model"),
        (broken, "does not load"),
    ],
)
def test_mistakes_end_in_one_line(spoil: Any, message: str, tmp_path: Path) -> None:
    foreign("dreamlike", tmp_path, shards=3)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_teacher(tmp_path, host=HF)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "mask", "shift", "block"),
    [
        ("llada", 126336, False, None),
        ("Dream", 151666, True, None),
        ("llada2_moe", 156895, False, 32),
        ("sdar", 151669, False, 4),
    ],
)
def test_the_table(model_type: str, mask: int, shift: bool, block: int | None) -> None:
    from di4c_plugin.families.hf.rows import row_of

    row = row_of({"model_type": model_type}, {})
    assert (row.mask, row.shift, row.block) == (mask, shift, block)
    assert row_of({"model_type": model_type}, {"mask": 7, "shift": not shift}).shift is not shift
    assert row_of({"model_type": model_type}, {"attention": "full"}).block is None


def test_rotary_tables_are_as_in_transformers_4() -> None:
    from types import SimpleNamespace

    from di4c_plugin.families.hf.mends import default_rope

    config = SimpleNamespace(rope_theta=100.0, hidden_size=16, num_attention_heads=2)
    found, scale = default_rope(config)
    assert scale == 1
    assert found.tolist() == pytest.approx([100.0 ** (-2 * i / 8) for i in range(4)])
