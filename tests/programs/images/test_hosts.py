"""MaskGIT, Halton-MaskGIT and tauLDR by `di4c run`: stand-ins of them, then the real programs."""

import os
import sys
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from tests.conftest import MakeHost
from tests.stand_ins import image_hosts, real
from tests.stand_ins.fixtures import Launch

# What each of the programs imports, beside torch and its own modules.
IMPORTS = {
    "maskgit": """
from PIL import Image
import webdataset as wds
import torchvision.transforms as transforms
import torchvision.utils as vutils
from torchvision.utils import save_image
from torchvision.datasets.mnist import MNIST
from torchvision.datasets.cifar import CIFAR10
from torchvision.datasets.stl10 import STL10
from torchvision.datasets.coco import CocoCaptions
from torchvision.datasets import ImageFolder
import pytorch_lightning, einops, requests, clip
from omegaconf import OmegaConf
import numpy as np
np.float_
""",
    "halton_maskgit": """
import torchvision.utils as vutils
from torchvision.utils import make_grid, save_image
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.multimodal.clip_score import CLIPScore
from torchmetrics.utilities.imports import _SCIPY_AVAILABLE
from cleanfid import resize as clean_resize
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
import sklearn.metrics, scipy, webdataset
""",
    "tauldr": """
from tkinter import Image
import ml_collections, yaml, scipy.integrate, matplotlib.pyplot
import torchvision.datasets
import torchvision.transforms
class Own(torchvision.datasets.CIFAR10): pass
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTS)
def test_their_imports_succeed(name: str, make_host: MakeHost, launch: Launch) -> None:
    root = make_host(name)
    script = root / ("train.py" if name == "tauldr" else "main.py")
    script.write_text(IMPORTS[name] + "print('imported')\n")
    done = launch(script)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr
    assert f"di4c: {name} at an unknown commit: " in done.stderr


def run(program: Path, *arguments: object, cwd: Path, paths: tuple[Path, ...] = ()) -> real.Done:
    """Run a host's program with small parts; `paths` are in front of everything."""
    repository = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.stand_ins.image_hosts", str(program)]
    path = os.pathsep.join(map(str, (*paths, repository)))
    done = real.run([*command, *map(str, arguments)], cwd, {"PYTHONPATH": path})
    assert done.code == 0, done.err[-3000:]
    return done


def load(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model_state_dict"]
    return state


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host_checkout", ["maskgit"], indirect=True)
def test_maskgit_trains_and_resumes_and_evaluates(host_checkout: Path, tmp_path: Path) -> None:
    image_hosts.write_pictures(tmp_path / "data")
    image_hosts.write_features(tmp_path / "features")
    image_hosts.write_maskgit(tmp_path)
    arguments = "--img-size 8 --mask-value 17 --bsize 10 --num_workers 0 --warm_up 2 --step 2"
    places = "--data-folder data --vqgan-folder vq --vit-folder vit/"
    script, common = host_checkout / "main.py", [*arguments.split(), *places.split()]
    run(script, *common, "--epoch", 1, cwd=tmp_path)
    assert load(tmp_path / "vit/epoch_000.pth")["tok_emb.weight"].shape == (17 + 1 + 1001, 32)
    resumed = run(script, *common, "--epoch", 2, "--resume", cwd=tmp_path)
    assert "Epoch 1" in resumed.out
    run(script, *common, "--resume", "--debug", cwd=tmp_path)
    assert len(list((tmp_path / "saved_img").iterdir())) == 1
    features = (tmp_path / "features",)
    evaluated = run(script, *common, "--resume", "--test-only", cwd=tmp_path, paths=features)
    assert "'Eval/fid_conditional': " in evaluated.out
    assert "di4c: no GPU: the metrics run on the CPU" in evaluated.err


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host_checkout", ["halton_maskgit"], indirect=True)
def test_halton_maskgit_trains_on_codes_and_evaluates(host_checkout: Path, tmp_path: Path) -> None:
    image_hosts.write_codes(tmp_path / "codes")
    image_hosts.write_pictures(tmp_path / "pictures")
    image_hosts.write_features(tmp_path / "features")
    torch.save({"model": {}}, tmp_path / "vq.pt")
    sizes = "--img-size 8 --f-factor 1 --codebook-size 17 --mask-value 17 --global-bsize 10"
    places = (
        "--data imagenet_feat --data-folder codes/ --eval-folder pictures/ --vqgan-folder vq.pt"
    )
    rest = "--vit-folder vit/ --writer-log log --num-workers 0 --max-iter 6 --step 2 --use-ema"
    arguments = [*sizes.split(), *places.split(), *rest.split()]
    features = (tmp_path / "features",)
    done = run(host_checkout / "main.py", *arguments, cwd=tmp_path, paths=features)
    assert "'FID': " in done.out
    student, ema = load(tmp_path / "vit/last.pth"), load(tmp_path / "vit/last_ema.pth")
    assert student["tok_emb.weight"].shape == (17 + 1, 32)
    assert student.keys() == ema.keys()


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host_checkout", ["tauldr"], indirect=True)
def test_tauldr_trains_and_samples(host_checkout: Path, tmp_path: Path) -> None:
    image_hosts.write_tauldr(tmp_path, host_checkout, [3, 32, 32])
    paths = (tmp_path, host_checkout)
    run(host_checkout / "train.py", "cifar10", cwd=tmp_path, paths=paths)
    (last,) = tmp_path.glob("*/*/checkpoints/ckpt_0000000003.pt")
    (config,) = tmp_path.glob("*/*/config/config_001.yaml")
    text = image_hosts.TAULDR_EVAL.format(root=host_checkout, config=config, checkpoint=last)
    image_hosts.write_config(tmp_path, "eval", text)
    (tmp_path / "path/to/tauLDR_samples").mkdir(parents=True)
    with pytest.raises(UnpicklingError):
        torch.load(last)
    run(host_checkout / "scripts/sample.py", cwd=tmp_path, paths=paths)
    assert len(list((tmp_path / "path/to/tauLDR_samples").glob("*.png"))) == 50
