import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.images.program import SamplerFlags, pair_of, refuse_flags, take_flags

MASKGIT, HALTON, TAULDR = (
    lookup("program", n).own_samplers for n in ("maskgit", "halton_maskgit", "tauldr")
)


def test_our_flags_are_taken_out_and_the_others_keep_their_order() -> None:
    text = (
        "--step 4 --sampler di4c --seed -1 --student=a.safetensors --sampler-option latents=fixed"
    )
    rest, flags = take_flags([*text.split(), "--sampler-option", "guidance=2.5", "--x=y"], MASKGIT)
    assert rest == ["--step", "4", "--seed", "-1", "--x=y"]
    options = {"latents": "fixed", "guidance": 2.5}
    assert flags == SamplerFlags("di4c", "a.safetensors", options)


@pytest.mark.parametrize("host", [MASKGIT, HALTON, TAULDR])
def test_without_our_flags_nothing_happens(host: dict[str, str]) -> None:
    arguments = ["cifar10", "--step", "4", "--top-k", "-1"]
    assert take_flags(arguments, host) == (arguments, None)


def test_a_student_or_options_alone_mean_our_sampler() -> None:
    assert take_flags(["cifar10", "--student", "s.pt"], TAULDR) == (
        ["cifar10"],
        SamplerFlags("ancestral", "s.pt"),
    )
    assert take_flags(["--sampler-option", "steps=4"], TAULDR)[1] == SamplerFlags(
        options={"steps": 4}
    )


def test_numbers_are_read_as_di4c_train_reads_them() -> None:
    values = {".5": 0.5, "-.5e-1": -0.05, "1e-3": 1e-3, "3": 3, "[1, 2]": [1, 2], "true": True}
    for text, value in (values | {"fixed": "fixed", "a.npz": "a.npz", ".": "."}).items():
        assert pair_of(f"x={text}", "--option") == ("x", value)


def test_haltons_own_names_stay_its_own() -> None:
    for name, ours in (("halton", "halton"), ("confidence", "maskgit")):
        own = ["--sampler", name, "--step", "4"]
        assert take_flags(own, HALTON) == (own, None)
        rest, flags = take_flags([*own, "--student", "s"], HALTON)
        assert (rest, flags) == (["--step", "4", "--sampler", name], SamplerFlags(ours, "s"))
        assert take_flags(own, MASKGIT)[1] == SamplerFlags(name)
    assert take_flags(["--sampler", "di4c"], HALTON) == ([], SamplerFlags("di4c"))


def test_a_hydra_host_says_how_it_is_done_there() -> None:
    refuse_flags("mdlm", ["algo=di4c", "--cfg", "job"])
    with pytest.raises(UserError, match=r"mdlm is configured by Hydra: write sampler=halton"):
        refuse_flags("mdlm", ["--sampler", "halton"])
    with pytest.raises(UserError, match=r"write sampler=ancestral"):
        refuse_flags("mdlm", ["--student", "x"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sampler"], "--sampler takes a value"),
        (["--student", "--step", "4"], "--student takes a value"),
        (["--sampler-option", "guidance"], "--sampler-option takes NAME=VALUE, not 'guidance'"),
    ],
)
def test_mistakes(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        take_flags(arguments, MASKGIT)
