"""`di4c run` with our flags, on programs that stand in for the hosts'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.plugins import lookup
from di4c_plugin.programs.images.program import SamplerFlags
from tests.conftest import MakeHost
from tests.stand_ins.fixtures import Launch
from tests.stand_ins.images.checkouts import stand_in

SHAPES = "print(len(codes), tuple(x.shape), sys.argv[1:])"
LABELS = "labels=torch.tensor([0, 1, 2])"
PROGRAMS = {
    "maskgit": {
        "Trainer/vit.py": """
import Network.transformer
from tests.stand_ins.images.trainers import *
""",
        "main.py": f"""
import sys, torch
from pathlib import Path
from typing import Any
from Trainer.vit import MaskGIT
trainer = MaskGIT(Path(__file__).parent)
x, codes, masks = trainer.sample(nb_sample=3, {LABELS}, step=4)
{SHAPES}
""",
    },
    "halton_maskgit": {
        "Sampler/halton_sampler.py": "class HaltonSampler: pass",
        "Sampler/confidence_sampler.py": "class ConfidenceSampler: pass",
        "Trainer/cls_trainer.py": """
import Network.transformer
from Sampler.confidence_sampler import ConfidenceSampler
from Sampler.halton_sampler import HaltonSampler
from tests.stand_ins.images.trainers import HaltonTrainer
""",
        "main.py": f"""
import sys, torch
from pathlib import Path
from typing import Any
from Trainer.cls_trainer import ConfidenceSampler, HaltonSampler, HaltonTrainer
trainer = HaltonTrainer(Path(__file__).parent)
sampler = ConfidenceSampler(sm_temp=1.0, w=2.0, r_temp=4.5, sched_mode="arccos", step=4)
x, codes, masks = sampler(trainer, nb_sample=3, {LABELS}, verbose=False)
{SHAPES}
""",
    },
    "tauldr": {
        "lib/sampling/sampling_utils.py": """
_SAMPLERS = {}
def register_sampler(cls):
    _SAMPLERS[cls.__name__] = cls
def get_sampler(cfg):
    return _SAMPLERS[cfg.sampler.name](cfg)
""",
        "lib/losses/losses_utils.py": "_LOSSES = []\nregister_loss = _LOSSES.append",
        "lib/training/training_utils.py": "_STEPS = []\nregister_train_step = _STEPS.append",
        "lib/models/model_utils.py": "def create_model(cfg, device, rank=None): pass",
        "train.py": """
import sys
from pathlib import Path
from typing import Any
from types import SimpleNamespace
from tests.stand_ins.images.trainers import GaussianModel
import lib.sampling.sampling_utils as sampling_utils
from lib.losses.losses_utils import _LOSSES
from lib.training.training_utils import _STEPS
import lib.models.model_utils
print([*sampling_utils._SAMPLERS, *(kind.__name__ for kind in _LOSSES + _STEPS)])
settings = SimpleNamespace(name=sys.argv[1], num_steps=4, min_t=0.01)
sampler = sampling_utils.get_sampler(SimpleNamespace(sampler=settings))
x, codes, _ = sampler.sample(GaussianModel(Path(__file__).parent), 3, 4)
"""
        + SHAPES,
    },
}


@pytest.fixture(autouse=True)
def _networks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the programs find ours of tests/."""
    monkeypatch.setenv("PYTHONPATH", str(repository))


@pytest.fixture
def program(make_host: MakeHost) -> Callable[[str], Path]:
    """The program of a host that we stand in for."""

    def make(name: str) -> Path:
        root = stand_in(make_host(name), name)
        for path, text in PROGRAMS[name].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return root / ("train.py" if name == "tauldr" else "main.py")

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("maskgit", "--sampler di4c --step 4", "4 (3, 3, 3, 3) ['--step', '4']"),
        (
            "halton_maskgit",
            "--sampler halton --sampler-option guidance=1",
            "4 (3, 3, 3, 3) ['--sampler', 'halton']",
        ),
        ("tauldr", "PCTauLeap --sampler tau_leaping", "4 (3, 48) ['PCTauLeap']"),
    ],
)
def test_a_program_gets_our_sampler(
    program: Callable[[str], Path],
    launch: Launch,
    name: str,
    arguments: str,
    answer: str,
) -> None:
    done = launch(program(name), *arguments.split())
    assert done.stdout.splitlines()[-1:] == [answer], done.stderr[-2000:]
    assert done.stderr.count("di4c: sampler ") == 1
    if name == "tauldr":
        assert done.stdout.splitlines()[0] == "['Di4C', 'Di4C', 'Di4C']"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("maskgit", "--sampler di4d", "unknown sampler 'di4d' (did you mean 'di4c'?); there are"),
        ("maskgit", "--student nowhere.safetensors", "no such model file: nowhere.safetensors"),
        ("tauldr", "cifar10 --sampler hybrid", "sampler 'hybrid' is for a student: add --student"),
        ("mdlm", "--sampler di4c", "mdlm is configured by Hydra: write sampler=di4c"),
    ],
)
def test_mistakes_are_one_line(
    program: Callable[[str], Path],
    make_host: MakeHost,
    launch: Launch,
    name: str,
    arguments: str,
    line: str,
) -> None:
    script = make_host(name) / "main.py" if name == "mdlm" else program(name)
    done = launch(script, *arguments.split())
    errors = [text for text in done.stderr.splitlines() if "di4c: error: " in text]
    assert done.returncode == 2
    assert len(errors) == 1
    assert line in errors[0]
    assert "Traceback" not in done.stderr


def test_nothing_is_touched_without_flags() -> None:
    root = Path()

    def patches(host: str, root: Path, flags: SamplerFlags | None) -> Any:
        return lookup("program", host).patches(root, flags)

    for host in ("maskgit", "halton_maskgit"):
        assert patches(host, root, None) == {}
    assert len(patches("tauldr", root, None)) == 5
    assert list(patches("maskgit", root, SamplerFlags())) == ["Trainer.vit"]
    assert list(patches("halton_maskgit", root, SamplerFlags())) == [
        "Sampler.halton_sampler",
        "Sampler.confidence_sampler",
    ]
