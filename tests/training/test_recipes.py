"""Every recipe starts: one update of `di4c train`, or one for each round, on tiny networks.

What a recipe says, and that Python and Hydra read it alike: tests/test_one_owner.py.
"""

import json
from pathlib import Path

import pytest

from di4c_plugin.checkpoints.model import save_model
from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.families import new_model
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.networks import DiTConfig
from di4c_plugin.training.recipes import ALL, merged, recipe
from tests.checkpoints.model_files import read_file
from tests.conftest import MakeHost
from tests.families.hf.snapshots import native
from tests.stand_ins import stdlib_text
from tests.stand_ins.images.checkouts import stand_in
from tests.stand_ins.images.place import Place

SHARED = "text"  # what the text hosts' recipes take from
FILES = sorted((configs_dir() / "recipe").glob("*/*.yaml"))
RECIPES = [(p.parent.name, p.stem) for p in FILES if p.parent.name != SHARED and p.stem != ALL]
SHORT = ["batch_size=2", "logger=none", "accelerator=cpu"]
CHECKOUTS = {"maskgit", "halton_maskgit", "tauldr"}


def of_digits(folder: Path) -> list[str]:
    sizes = {"hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 2}
    save_model(BUILTIN().new_teacher({"name": "absorbing"}, **sizes), folder / "teacher")
    return [f"teacher={folder / 'teacher'}"]


def of_pictures(host: str, folder: Path, make_host: MakeHost) -> list[str]:
    place = Place(host, stand_in(make_host(host), host), folder)
    known = [f"host.root={place.root}", f"teacher={place.teacher}", f"host.data={place.data}"]
    return [*known, *place.own]


def of_text(host: str, folder: Path) -> list[str]:
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": "abcdefgh"}) for _ in "1234"))
    known = [f"host.data={folder / 'texts.jsonl'}", f"teacher={folder / 'teacher'}"]
    if host == "hf":
        pytest.importorskip("transformers")
        native("bert", folder / "teacher")
        return known
    stdlib_text.write_tokenizer(folder / "tokenizer")
    tokens = len(stdlib_text.TOKENS) + (host != "duo")
    process: Process = Absorbing(tokens, mask=tokens - 1)
    if host == "duo":
        process = Uniform(tokens, leave_one_out=True)
    save_model(new_model(DiTConfig(tokens, 6, 16, 8, 1, 2), process), folder / "teacher")
    return [*known, f"host.tokenizer={folder / 'tokenizer'}"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("host", "algo"), RECIPES)
def test_every_recipe_starts(
    host: str, algo: str, tmp_path: Path, make_host: MakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = "halton_maskgit" if host == "halton" else host
    if host == "builtin":
        own = of_digits(tmp_path)
    elif checkout in CHECKOUTS:
        own = of_pictures(checkout, tmp_path, make_host)
    else:
        own = of_text(host, tmp_path)
    updates = 7 if algo in ("sdtt", "dcd") else 1  # at most seven rounds
    out, short = tmp_path / "out", [f"training.{o}" for o in (f"steps={updates}", *SHORT)]
    command = ["train", f"host={host}", f"algo={algo}", f"out={out}", *own, *short]
    assert main(command) == 0, capsys.readouterr().err
    student, weights = read_file(out / "student.safetensors")
    found, used = recipe(host, algo), student["info"]["algo"]
    assert used == merged(used, {"name": algo, **found.algo})
    if found.latent is not None:
        assert student["latent"]["name"] == found.latent["name"]
    assert all(weight.isfinite().all() for weight in weights.values())
