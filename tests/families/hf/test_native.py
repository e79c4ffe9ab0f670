"""Native classes: loading, prediction, a latent, a student that is saved; against transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from di4c_plugin import distill, load_student, save_student
from di4c_plugin.algorithms.base import Data
from di4c_plugin.errors import UserError
from tests.families.hf.snapshots import NATIVE, TOKENS, load_teacher, native

HF = {"name": "hf"}
FIRST = {"roberta": 1}  # position of the first token


def tokens(*shape: int) -> Tensor:
    x = torch.randint(5, 33, shape, generator=torch.Generator().manual_seed(3))
    x[:, ::3] = 4
    return x


def half(count: int) -> Tensor:
    return torch.full((count,), 0.5, dtype=torch.float64)


def call(network: Any, kind: str, x: Tensor, **options: Any) -> Tensor:
    """Return the logits of transformers' own class, for ids or embeddings."""
    places = torch.arange(x.shape[1]).expand(len(x), -1) + FIRST.get(kind, 0)
    name = "input_ids" if x.ndim == 2 else "inputs_embeds"
    with torch.no_grad():
        logits: Tensor = network(**{name: x}, position_ids=places, **options).logits
    return logits


@pytest.mark.parametrize("kind", NATIVE)
def test_a_teacher_predicts_what_transformers_does(kind: str, tmp_path: Path) -> None:
    network = native(kind, tmp_path)
    model = load_teacher(tmp_path, host=HF)
    x = tokens(3, 9)
    with torch.no_grad():
        logits = model.denoiser.logits(x, half(3), None, None)
        log_p = model.denoiser(x, half(3))
    torch.testing.assert_close(logits, call(network, kind, x), rtol=0, atol=1e-6)
    masked = x == 4
    assert log_p.exp()[masked][:, [0, 1, 2, 4, *range(33, TOKENS)]].max() == 0  # barred
    assert (log_p.exp()[masked][:, [3, *range(5, 33)]] > 0).all()
    assert (log_p.argmax(-1)[~masked] == x[~masked]).all()
    assert model.network.length == 24
    assert model.info["vocabulary"]["size"] == 32


@pytest.mark.parametrize("kind", NATIVE)
def test_hidden_states_and_head_make_the_logits(kind: str, tmp_path: Path) -> None:
    native(kind, tmp_path)
    denoiser = load_teacher(tmp_path, host=HF).denoiser
    x = tokens(2, 7)
    assert denoiser.head is not None
    with torch.no_grad():
        logits = denoiser.head(denoiser.hidden(x, half(2)))
        torch.testing.assert_close(logits, denoiser.logits(x, half(2), None, None))


@pytest.mark.parametrize("kind", NATIVE)
def test_padding_changes_nothing(kind: str, tmp_path: Path) -> None:
    network = native(kind, tmp_path).double()
    model = load_teacher(tmp_path, host=HF | {"dtype": "float64"})
    lengths = (4, 9, 6)
    x = tokens(3, 9)
    for row, length in enumerate(lengths):
        x[row, length:] = model.network.pad
    with torch.no_grad():
        logits = model.denoiser.logits(x, half(3), None, None)
    for row, length in enumerate(lengths):
        alone = call(network, kind, x[row : row + 1, :length])
        torch.testing.assert_close(logits[row, :length], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("name", ["token", "mask_noise", "stream_noise", "pyramid_noise"])
def test_a_latent_enters_as_it_would_by_embeddings(kind: str, name: str, tmp_path: Path) -> None:
    """Truth: transformers' own network called with embeddings that are put together by hand."""
    network = native(kind, tmp_path).double()
    teacher = load_teacher(tmp_path, host=HF | {"dtype": "float64"})
    student = teacher.family.student_of(teacher, {"name": name}).denoiser.eval()
    x = tokens(2, 8)
    latent = torch.rand(6, *student.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = student.logits(x, half(2), None, latent)
        injector = student.network.di4c_injector[0]
        code = injector.encode(latent).double()
        for n in range(3):
            for b in range(2):
                row = 2 * n + b
                e = network.get_input_embeddings()(x[b])
                if name == "token":
                    e = torch.cat([e, code[row]])
                else:
                    enters = (x[b] == 4) | (name != "mask_noise")
                    e = e + code[row, :8] * enters[:, None]
                alone = call(network, kind, e[None])[0, :8]
                torch.testing.assert_close(logits[row], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["mask_noise", "stream_noise", "pyramid_noise"])
def test_noise_is_projected_for_the_positions_of_the_text(name: str, tmp_path: Path) -> None:
    """A network of 8192 positions would hold 400 MB of it, 16 lambda of a text of 128 tokens."""
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host=HF)
    student = teacher.family.student_of(teacher, {"name": name}).denoiser
    shapes: list[Any] = []
    student.network.di4c_injector[0].projection.register_forward_hook(
        lambda module, args, noise: shapes.append(tuple(noise.shape[:2]))
    )
    student(tokens(2, 8), half(2), latent=torch.rand(6, *student.latent_shape))
    assert shapes == [(6, 8)]


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@pytest.mark.parametrize("name", ["token", "mask_noise"])
def test_a_student_is_trained_saved_and_loaded(kind: str, name: str, tmp_path: Path) -> None:
    native(kind, tmp_path)
    teacher = load_teacher(tmp_path, host=HF)
    student = distill(
        teacher,
        Data(tokens(20, 24).clamp(min=5)),
        latent={"name": name},
        algo={"latents": 3},
        training={"steps": 2, "batch_size": 4},
        progress=False,
    )
    tied: Any = student.denoiser.network
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    save_student(student, tmp_path / "student")
    again = load_student(tmp_path / "student")
    assert torch.equal(student.sample(3, steps=2), again.sample(3, steps=2))
    assert again.info["vocabulary"] == teacher.info["vocabulary"]
    body: Any = again.denoiser.network
    assert body.get_input_embeddings().weight is body.get_output_embeddings().weight
    before = teacher.denoiser.network.state_dict()
    assert any(not torch.equal(v, body.state_dict()[k]) for k, v in before.items())


def test_the_loss_by_chunks_is_the_naive_one(tmp_path: Path) -> None:
    from di4c_plugin.algorithms.base import Batch, Update
    from di4c_plugin.algorithms.di4c import Di4C

    native("bert", tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    teacher = load_teacher(tmp_path, host=HF | {"dtype": "float64"})
    student = teacher.family.student_of(teacher, {"name": "token"}).denoiser
    found = {}
    for loss in ("naive", "chunked"):
        method = Di4C(teacher.process, latents=3, loss=loss, loss_mb=1)
        student.zero_grad()
        update = Update(torch.Generator().manual_seed(0))
        batch = Batch(tokens(5, 24).clamp(min=5))
        networks = {"student": student, "teacher": teacher.denoiser}
        total = method.losses(batch, networks, update).total
        total.backward()
        found[loss] = (
            total.detach(),
            [p.grad.clone() for p in student.parameters() if p.grad is not None],
        )
    torch.testing.assert_close(*[found[loss][0] for loss in found])
    for one, other in zip(found["naive"][1], found["chunked"][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_the_head_of_bf16_weights_is_fp32(tmp_path: Path) -> None:
    from di4c_plugin.networks.predict import AllPositions, States, predict

    native("bert", tmp_path)
    model = load_teacher(tmp_path, host=HF | {"dtype": "bfloat16"})
    denoiser, x = model.denoiser.requires_grad_(False), tokens(2, 6)
    head = denoiser.head
    assert head is not None
    assert head.weight.dtype == torch.bfloat16
    h = denoiser.hidden(x, half(2))
    assert h.dtype == torch.bfloat16
    bias = torch.nn.functional.linear(h.double(), head.weight.double(), head.bias.double())
    logits = denoiser.logits(x, half(2), None, None)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), bias, rtol=1e-5, atol=1e-5)
    states = States(x[None], half(2), None, None)
    where = AllPositions(x == 4)
    found: Any = [predict(denoiser, states, where, model.process, hidden=True) for _ in range(2)]
    assert found[0].weight.data_ptr() == found[1].weight.data_ptr()  # one copy for all predictions


def test_files_of_the_first_berts_load(tmp_path: Path) -> None:
    network = native("bert", tmp_path)
    file = tmp_path / "model.safetensors"
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in load_file(file).items()
    }
    old |= {
        "bert.pooler.dense.weight": torch.ones(16, 16),
        "cls.seq_relationship.bias": torch.ones(2),
    }
    old["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(old, file)
    x = tokens(2, 6)
    with torch.no_grad():
        logits = load_teacher(tmp_path, host=HF).denoiser.logits(x, half(2), None, None)
    torch.testing.assert_close(logits, call(network, "bert", x), rtol=0, atol=1e-6)


def test_windows_of_modernbert_stay(tmp_path: Path) -> None:
    """With padding too: a mask (B, 1, D, D) would replace them."""
    native("modernbert", tmp_path, global_attn_every_n_layers=2)
    model = load_teacher(tmp_path, host=HF)
    seen: list[Any] = []
    attention = model.denoiser.network.model.layers[1].attn
    attention.register_forward_pre_hook(
        lambda m, a, k: seen.append(k.get("attention_mask")), with_kwargs=True
    )
    x = tokens(2, 12)
    x[0, 10:] = 0
    with torch.no_grad():
        model.denoiser(x, half(2))
    mask = seen[0].expand(2, 1, 12, 12)
    sees = mask if mask.dtype == torch.bool else mask == 0
    assert sees[1, 0, 0, :3].all()
    assert not sees[1, 0, 0, 3:].any()  # a window of 4: two to each side


def test_a_folder_is_told_by_itself(tmp_path: Path) -> None:
    native("bert", tmp_path)
    assert load_teacher(tmp_path).info["host"]["name"] == "hf"


def test_nothing_of_transformers_is_loaded_before_its_time() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import di4c_plugin; from di4c_plugin.plugins import names_of, lookup; "
        "[lookup('host', n) for n in names_of('host')]; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adaln_needs_norms(tmp_path: Path) -> None:
    native("bert", tmp_path)
    teacher = load_teacher(tmp_path, host=HF)
    for wrong in ("wte", ["wte"]):
        with pytest.raises(UserError, match="^latent.doors is a set of names of sub-modules, not "):
            teacher.family.student_of(teacher, {"name": "token", "doors": wrong})
    with pytest.raises(UserError, match="say latent.doors.norms"):
        teacher.family.student_of(teacher, {"name": "adaln"})
    names = [
        f"bert.encoder.layer.{i}.{n}.LayerNorm"
        for i in range(2)
        for n in ("attention.output", "output")
    ]
    doors = {"norms": ["bert.embeddings.LayerNorm", *names]}
    student = teacher.family.student_of(teacher, {"name": "adaln", "doors": doors}).denoiser.eval()
    with torch.no_grad():
        one, other = (
            student(tokens(2, 6), half(2), latent=torch.full((2, 1), v)) for v in (0.1, 0.9)
        )
    assert not torch.allclose(one, other)
