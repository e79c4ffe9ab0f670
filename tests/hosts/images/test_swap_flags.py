from pathlib import Path

import pytest

from di4c_plugin.checkouts import host_named
from di4c_plugin.errors import UserError
from di4c_plugin.programs.images.swap_flags import Flags, take_flags

MASKGIT, HALTON, TAULDR = (host_named(n) for n in ("maskgit", "halton_maskgit", "tauldr"))


def test_our_flags_are_taken_out_and_the_others_keep_their_order() -> None:
    text = (
        "--step 4 --sampler di4c --seed -1 --student=a.safetensors --sampler-option latents=fixed"
    )
    rest, flags = take_flags(MASKGIT, [*text.split(), "--sampler-option", "guidance=2.5", "--x=y"])
    assert rest == ["--step", "4", "--seed", "-1", "--x=y"]
    options = {"latents": "fixed", "guidance": 2.5}
    assert flags == Flags("di4c", "a.safetensors", options)


@pytest.mark.parametrize("host", [MASKGIT, HALTON, TAULDR])
def test_without_our_flags_nothing_happens(host: object) -> None:
    arguments = ["cifar10", "--step", "4", "--top-k", "-1"]
    assert take_flags(host, arguments) == (arguments, None)  # type: ignore[arg-type]


def test_a_student_or_options_alone_mean_our_sampler() -> None:
    assert take_flags(TAULDR, ["cifar10", "--student", "s.pt"]) == (
        ["cifar10"],
        Flags("ancestral", "s.pt"),
    )
    assert take_flags(TAULDR, ["--sampler-option", "steps=4"])[1] == Flags(options={"steps": 4})


def test_haltons_own_names_stay_its_own() -> None:
    for name, ours in (("halton", "halton"), ("confidence", "maskgit")):
        own = ["--sampler", name, "--step", "4"]
        assert take_flags(HALTON, own) == (own, None)
        rest, flags = take_flags(HALTON, [*own, "--student", "s"])
        assert (rest, flags) == (["--step", "4", "--sampler", name], Flags(ours, "s"))
        assert take_flags(MASKGIT, own)[1] == Flags(name)
    assert take_flags(HALTON, ["--sampler", "di4c"]) == ([], Flags("di4c"))


def test_a_hydra_host_says_how_it_is_done_there() -> None:
    mdlm = host_named("mdlm")
    assert take_flags(mdlm, ["algo=di4c", "--cfg", "job"]) == (["algo=di4c", "--cfg", "job"], None)
    with pytest.raises(UserError, match=r"mdlm is configured by Hydra: write sampler=halton"):
        take_flags(mdlm, ["--sampler", "halton"])
    with pytest.raises(UserError, match=r"write sampler=ancestral"):
        take_flags(mdlm, ["--student", str(Path("x"))])


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
        take_flags(MASKGIT, arguments)
