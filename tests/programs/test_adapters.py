"""The three adapters on stand-ins of their hosts: what they swap, read, refuse and hand over.

Run against the hosts themselves in test_mdlm.py, test_sdtt.py and test_duo.py.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, DuoCosine, LogLinear, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.programs.duo import adapter as duo
from di4c_plugin.programs.mdlm import adapter as mdlm
from di4c_plugin.programs.sdtt import adapter as sdtt
from di4c_plugin.programs.text.module import TextStudent
from tests.networks.backbone import state
from tests.stand_ins.adapter_hosts import CLASSES, CONFIGS, DuoBase, DuoMDLM
from tests.stand_ins.text import stand_in, stand_in_parts
from tests.stand_ins.text.stand_in import MASK, D

# As Duo's main.py chooses its class.
DUO_NAMES = {"distillation": "Distillation", "mdlm": "MDLM", "duo_base": "DUO_BASE", "duo": "DUO"}
Start = Callable[..., Any]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """Install for a config with these changes, as a host then makes its model."""
    for name, classes in CLASSES.items():
        module = ModuleType(name)
        vars(module).update(classes)
        monkeypatch.setitem(sys.modules, name, module)
    teacher = tmp_path / "teacher.ckpt"
    weights = {f"backbone.{n}": v for n, v in state().items()}
    averages = [2 * v for v in weights.values()]
    torch.save({"state_dict": weights, "ema": {"shadow_params": averages}}, teacher)

    def make(host: str, *overrides: str, install_only: bool = False) -> Any:
        config = stand_in.config(**CONFIGS[host], teacher=str(teacher))
        config.model.type = "ddit-orig"
        if host == "duo" and "mode=sample_eval" in overrides:
            del config.algo
        config = OmegaConf.merge(
            config, OmegaConf.from_dotlist([o.replace("TEACHER", str(teacher)) for o in overrides])
        )
        plain: Any = OmegaConf.to_container(config)
        {"mdlm": mdlm, "sdtt": sdtt, "duo": duo}[host].install(plain)
        if install_only:
            return None
        found: Any = {
            "mdlm": lambda: sys.modules["diffusion"].Diffusion,
            "sdtt": lambda: sys.modules["sdtt.core.distill"].MultiRoundSDTT,
            "duo": lambda: getattr(sys.modules["algo"], DUO_NAMES[config.algo.name]),
        }[host]()
        if config.mode != "train" and host != "sdtt":
            return found.load_from_checkpoint(
                "x", config=config, tokenizer=stand_in_parts.Tokenizer()
            )
        return found(config, stand_in_parts.Tokenizer())

    return make


EVALUATE = {
    "mdlm": ["mode=sample_eval", "algo=null", "eval.checkpoint_path=TEACHER"],
    "sdtt": ["mode=sample", "algo=null", "checkpointing.resume_ckpt_path=TEACHER"],
    "duo": ["mode=sample_eval", "algo.name=mdlm", "eval.checkpoint_path=TEACHER"],
}
HOSTS = sorted(EVALUATE)
ABSORBING = {"mdlm": [], "sdtt": [], "duo": ["algo.diffusion=absorbing"]}


@pytest.mark.parametrize("host", HOSTS)
def test_a_student_of_the_averaged_teacher_trains(host: str, start: Start, tmp_path: Path) -> None:
    module: Any = start(host, *ABSORBING[host])
    assert isinstance(module, TextStudent)
    assert module.engine is not None
    teacher: Any = module.engine.teacher
    teacher = teacher.backbone.state_dict()
    assert all(torch.equal(teacher[n], 2 * v) for n, v in state().items())
    process = module.process
    assert isinstance(process, Absorbing)
    assert (process.num_tokens, process.mask, process.schedule) == (7, MASK, LogLinear(eps=1e-3))
    trainer = stand_in.trainer(tmp_path / "run", max_steps=1, limit_val_batches=0)
    trainer.fit(module, stand_in.loader())
    assert trainer.callback_metrics["trainer/loss"].isfinite()


def samples(host: str, module: Any) -> Tensor:
    """As the host's own evaluation asks for them."""
    if host == "sdtt":
        return module.to(torch.device("cpu")).sample(n_samples=4, num_steps=3)
    if host == "duo":
        return module.generate_samples(num_samples=4, num_steps=3)
    return module._sample(num_steps=3)


@pytest.mark.parametrize("host", HOSTS)
def test_a_plain_teacher_is_evaluated_by_our_sampler(host: str, start: Start) -> None:
    module = start(host, *EVALUATE[host])
    own = module.backbone.state_dict()
    assert all(torch.equal(own[n], 2 * v) for n, v in state().items())
    x = samples(host, module)
    assert x.shape == (4, D)
    assert (x != MASK).all()
    assert torch.equal(x, samples(host, start(host, *EVALUATE[host])))


@pytest.mark.parametrize("host", ["mdlm", "duo"])
def test_the_weights_themselves_where_the_host_says_so(host: str, start: Start) -> None:
    module = start(host, *EVALUATE[host], "eval.disable_ema=true")
    assert torch.equal(module.backbone.vocab_embed.embedding, state()["vocab_embed.embedding"])


@pytest.mark.parametrize("host", ["mdlm", "duo"])
def test_semi_autoregressive_texts_go_by_the_hosts_entry_point(host: str, start: Start) -> None:
    module = start(host, *EVALUATE[host])
    draw = module.sample_subs_guidance if host == "mdlm" else module._semi_ar_sampler
    calls, texts, lengths = draw(n_samples=2, stride_length=2, num_strides=3, dt=1 / 3)
    assert calls == 3 * 4
    assert len(texts) == 4
    assert lengths.shape == (2,)


def test_duo_takes_what_the_process_needs(start: Start) -> None:
    masked = start("duo", "algo.diffusion=absorbing")
    mixed = start("duo", "algo.diffusion=uniform", "noise.type=cosine")
    evaluate = ["mode=sample_eval", "eval.checkpoint_path=TEACHER"]
    evaluated = [start("duo", *evaluate, f"algo.name={name}") for name in ("duo", "duo_base")]
    assert isinstance(masked, DuoMDLM)
    assert not masked.time_conditioned
    for module in (mixed, *evaluated):
        assert isinstance(module, DuoBase)
        assert isinstance(module.process, Uniform)
        assert module.time_conditioned
    assert mixed.process.schedule == DuoCosine(eps=1e-3)


def test_what_duo_reads_in_the_same_group_is_not_of_our_method(start: Start) -> None:
    hosts = [f"algo.{key}=x" for key in ("backbone", "T", "loss_type")]
    module = start("duo", "algo.diffusion=absorbing", *hosts)
    assert module.plan.distillation.algo == {"name": "di4c", "latents": 2}
    with pytest.raises(UserError, match="unknown algorithm 'di4d'"):
        start("duo", "algo.method=di4d", install_only=True)


@pytest.mark.parametrize("host", HOSTS)
def test_the_jobs_of_a_multirun_do_not_pile_up(host: str, start: Start) -> None:
    first, second = start(host, *EVALUATE[host]), start(host, *EVALUATE[host])
    assert len(type(first).__mro__) == len(type(second).__mro__)
    assert type(first) is not type(second)


def test_sdtt_keeps_what_a_projection_and_the_ends_say(start: Start) -> None:
    module = start("sdtt", *EVALUATE["sdtt"])

    def project(x: Tensor) -> Tensor:
        x[:, 2] = 3
        return x

    x = module.sample(4, 3, project_fn=project, add_bos=True, add_eos=True)
    assert (x[:, [0, 2, 5]] == torch.tensor([0, 3, 5])).all()
    assert module.load_state_dict({"nothing": 1}) is None
    module.load_ema_from_checkpoint({})


@pytest.mark.parametrize(("steps", "named"), [("null", 9), ("2", 2)])
def test_sdtts_files_of_samples_are_named_by_our_sampler(
    steps: str, named: int, start: Start
) -> None:
    own = "parameterization.sampling"
    theirs = {
        f"{own}.{kind}.{key}={value}"
        for kind in ("uncond", "cond_prefix")
        for key, value in {
            "run": True,
            "from_ema": True,
            "num_steps": 9,
            "sampler": "ancestral",
        }.items()
    }
    ours = ["sampler.name=di4c", f"sampler.steps={steps}"]
    module = start("sdtt", *EVALUATE["sdtt"], *sorted(theirs), *ours)
    for kind in ("uncond", "cond_prefix"):
        found = module.config.parameterization.sampling[kind]
        assert (found.sampler, found.num_steps) == ("di4c", named)
    assert module.sample(2, found.num_steps, sampler=found.sampler).shape == (2, D)


@pytest.mark.parametrize(
    ("host", "overrides", "message"),
    [
        ("mdlm", ["parameterization=ar"], "parameterization=ar backbone=dit: only masked"),
        ("mdlm", ["backbone=dimamba"], "backbone=dimamba: use backbone=dit"),
        ("mdlm", ["noise.type=cosine"], "noise=cosine"),
        ("mdlm", ["time_conditioning=true", "T=1000"], "time_conditioning needs T=0"),
        ("mdlm", ["algo=di4c"], "did not find the algo group"),
        ("mdlm", ["teacher=null"], "add teacher="),
        ("mdlm", ["mode=sample_eval"], "there is nothing to evaluate"),
        ("sdtt", ["parameterization.name=ar"], "parameterization=ar: only masked"),
        ("sdtt", ["model.type=hf"], "model.type=hf: only DiT"),
        ("sdtt", ["mode=eval", "checkpointing.resume_ckpt_path=/no.ckpt"], "/no.ckpt"),
        ("duo", [], "add algo.diffusion=absorbing"),
        ("duo", ["algo.diffusion=gaussian"], "there are absorbing, uniform"),
    ],
)
def test_what_has_no_student_is_one_line(
    host: str, overrides: list[str], message: str, start: Start
) -> None:
    with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
        start(host, *overrides, install_only=True)
