"""Our samplers with tauLDR's interface."""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin.diffusion import time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.families.tauldr import TauLDRSizes
from di4c_plugin.families.unet_latent import let_latent_in
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.images.sampler import host_generator
from di4c_plugin.programs.tauldr.sampler import TauLDRSampler, averaged, register
from di4c_plugin.samplers import tau_leaping
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_maskgit import as_weights
from tests.stand_ins.images.small_tauldr import NETS, SIZES, S
from tests.stand_ins.images.trainers import GaussianModel, hooks_of, student_of


def config(**sampler: Any) -> Any:
    own = {"name": "TauLeaping", "num_steps": 3, "min_t": 0.01, "initial_dist": "gaussian"}
    return SimpleNamespace(sampler=SimpleNamespace(**(own | sampler)))


@pytest.fixture
def model(root: Root) -> Any:
    return GaussianModel(root("tauldr"))


def test_results_are_the_hosts_and_its_model_stays_as_it_was(model: Any, root: Root) -> None:
    hooks, training = hooks_of(model), model.training
    x, states, guesses = TauLDRSampler(config(), root=root("tauldr")).sample(model, 5, 2)
    assert (x.shape, states.shape, guesses.shape) == ((5, 48), (2, 5, 48), (2, 5, 48))
    for array in (x, states, guesses):
        assert array.dtype.kind == "i"
        assert (array.min() >= 0, array.max() < S) == (True, True)
    assert (model.training, hooks_of(model)) == (training, hooks)
    assert model.net.training


@pytest.mark.parametrize("name", ["TauLeaping", "PCTauLeaping"])
def test_samples_are_those_of_our_sampler_with_the_hosts_config(
    model: Any, root: Root, name: str
) -> None:
    place = root("tauldr")
    model.eval()
    correctors = {
        "num_corrector_steps": 2,
        "corrector_step_size_multiplier": 0.5,
        "corrector_entry_time": 0.6,
    }
    cfg = config(name=name, min_t=0.02, initial_dist="uniform", **correctors)
    torch.manual_seed(4)
    found, _, _ = TauLDRSampler(cfg, SamplerFlags("tau_leaping"), root=place).sample(model, 5, 1)
    denoiser = NETS.at(place).restore(as_weights(model.net), SIZES)
    torch.manual_seed(4)
    corrected = {"corrector_steps": 2, "corrector_size": 0.5, "corrector_entry": 0.6}
    expected = tau_leaping(
        denoiser,
        torch.randint(S, (5, 48)),
        time_grid(3),
        process=denoiser.process,
        generator=host_generator(torch.device("cpu")),
        min_time=0.02,
        **(corrected if name == "PCTauLeaping" else {}),  # type: ignore[arg-type]
    )
    assert np.array_equal(found, expected.numpy())


def test_averages_are_taken_in_either_mode(model: Any, root: Root) -> None:
    with torch.no_grad():
        for mean in model.shadow_params:
            mean.mul_(0.5)
    training = averaged(model)
    assert torch.equal(training["input_conv.weight"], model.net.input_conv.weight * 0.5)

    def drawn() -> Any:
        torch.manual_seed(0)
        return TauLDRSampler(config(), root=root("tauldr")).sample(model, 5, 1)[0]

    before = drawn()
    model.eval()
    assert torch.equal(averaged(model)["input_conv.weight"], training["input_conv.weight"])
    assert np.array_equal(before, drawn())


@pytest.mark.parametrize("steps", [1, 4])
def test_student_by_config_and_hybrid(model: Any, root: Root, steps: int) -> None:
    place = root("tauldr")
    student = student_of(NETS, model.net, SIZES, place)
    cfg = config(method="hybrid", options={"teacher_steps": 1, "last": "draw"}, num_steps=steps)
    x, _, _ = TauLDRSampler(cfg, student=student, root=place).sample(model, 3, 1)
    assert x.shape == (3, 48)


def test_a_model_that_has_a_latent_is_a_student_itself(model: Any, root: Root) -> None:
    let_latent_in(model.net, {"name": "unet", "std": 1.0})
    model.init_ema()
    sampler = TauLDRSampler(config(), root=root("tauldr"))
    sampler.sample(model, 3, 1)
    (denoiser,) = sampler.shared._made.values()
    assert denoiser.latent_shape == (1,)


def test_mistakes(model: Any, root: Root) -> None:
    place = root("tauldr")
    with pytest.raises(UserError, match="initial_dist is gaussian or uniform, not 'poisson'"):
        TauLDRSampler(config(initial_dist="poisson"), root=place).sample(model, 2, 1)
    with pytest.raises(UserError, match="unknown sampler 'TauLeaping'"):
        TauLDRSampler(config(method="TauLeaping"), root=place)
    with pytest.raises(UserError, match="is for masked diffusion, not for the process 'gaussian'"):
        TauLDRSampler(config(method="halton"), root=place).sample(model, 2, 1)
    other = student_of(NETS, model.net, TauLDRSizes(SIZES.layout, (3, 4, 4)), place)
    with pytest.raises(UserError, match="the student has 256 states, and this program 17"):
        TauLDRSampler(config(), student=other, root=place).sample(model, 2, 1)
    del model.rate_sigma
    with pytest.raises(
        UserError, match="U-Net with Gaussian rates, not for GaussianModel: .*rate_"
    ):
        TauLDRSampler(config(), root=place).sample(model, 2, 1)


def registry() -> Any:
    """As the host's module `sampling_utils`."""
    module: Any = ModuleType("lib.sampling.sampling_utils")
    module.known = {}
    module.register_sampler = lambda kind: module.known.setdefault(kind.__name__, kind)
    module.get_sampler = lambda cfg: module.known[cfg.sampler.name](cfg)
    return module


def test_it_is_registered_by_its_name(model: Any, root: Root) -> None:
    place, module = root("tauldr"), registry()
    register(module, None, place)
    assert list(module.known) == ["Di4C"]
    sampler = module.get_sampler(config(name="Di4C", options={"steps": 2}))
    assert sampler.sample(model, 2, 3)[1].shape == (2, 2, 48)  # there are but two states
    with pytest.raises(KeyError):
        module.get_sampler(config())
    register(module, SamplerFlags("tau_leaping"), place)
    assert module.get_sampler(config()).name == "tau_leaping"
