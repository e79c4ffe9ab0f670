"""`di4c train host=hf` from files as people have them, killed, resumed, and sampled."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from di4c_plugin import load_student
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.cli.main import main
from di4c_plugin.networks.sharing import own_state
from tests.families.hf.snapshots import foreign, native

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }}.{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
CHATS = [
    [("user", "hello"), ("assistant", "yes")],
    [("user", "a"), ("assistant", "b"), ("user", "what"), ("assistant", "no way")],
    [("user", "who"), ("assistant", "me and you")],
]


def chats(folder: Path) -> Path:
    """Write chats as lines of JSON."""
    rows = [{"messages": [{"role": r, "content": c} for r, c in chat]} for chat in CHATS]
    file = folder / "chats.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def plain(folder: Path) -> Path:
    """Write a plain text."""
    file = folder / "text.txt"
    file.write_text("once upon a time there was a text. " * 20)
    return file


@pytest.fixture(params=["bert", "lladalike", "dreamlike"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random teacher whose tokenizer has a chat template."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    (native if request.param == "bert" else foreign)(request.param, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("write", "adapter"), [(chats, True), (plain, True), (chats, False)])
def test_a_killed_command_goes_on(
    teacher: Path,
    write: Any,
    adapter: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if adapter:
        pytest.importorskip("peft", reason="adapters are by peft")
    trust = "host.trust_remote_code=true"
    command = ["train", "host=hf", f"teacher={teacher}", f"host.data={write(tmp_path)}", trust]
    command += ["algo.latents=2", "training.steps=4", "training.batch_size=2"]
    command += ["training.adapter={r: 2}"] if adapter else []
    name = "adapter_model.safetensors" if adapter else "student.safetensors"
    assert main([*command, f"out={tmp_path / 'whole'}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'whole' / name}\n"
    losses, calls = Di4C.losses, []

    def killed(self: Di4C, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, *args)

    monkeypatch.setattr(Di4C, "losses", killed)
    assert main([*command, f"out={tmp_path / 'broken'}"]) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert main([*command, f"out={tmp_path / 'broken'}", "resume=true"]) == 0
    host = {"name": "hf", "trust_remote_code": True, "root": str(teacher)}
    whole, resumed = (load_student(tmp_path / n / name, host=host) for n in ("whole", "broken"))
    states = [own_state(model.denoiser) for model in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    capsys.readouterr()
    options = ["--host", "hf", "--host-option", "trust_remote_code=true", "--sampler", "blocks"]
    options += [] if adapter else ["--host-option", f"tokenizer={teacher}"]
    options += ["--host-option", f"root={teacher}", "--option", "block=3", "--new-tokens", "3"]
    found = tmp_path / "broken" / name
    assert main(["sample", str(found), *options, "--prompt", "abc", "--steps", "1"]) == 0
    assert capsys.readouterr().out.startswith("abc")
