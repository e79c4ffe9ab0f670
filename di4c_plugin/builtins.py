"""The built-ins, registered through the public hooks.

Imports stay inside the hooks, so that looking up a sampler loads no host.
"""

from collections.abc import Mapping

from di4c_plugin.hookspecs import hookimpl


@hookimpl
def di4c_hosts() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.hosts import builtin, duo, halton, hf, maskgit, mdlm, sdtt, tauldr

    hosts = (builtin, maskgit, halton, tauldr, mdlm, sdtt, duo, hf)
    values = {module.HOST.name: module.HOST for module in hosts}
    return values | {"halton": halton.HOST}  # as users call it


@hookimpl
def di4c_algorithms() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.algorithms.denoising import Denoising
    from di4c_plugin.algorithms.di4c import Di4C
    from di4c_plugin.algorithms.dmmd import DMMD
    from di4c_plugin.algorithms.dmmd_kin import DIMO, IDLM
    from di4c_plugin.algorithms.rsmmd import RSMMD
    from di4c_plugin.algorithms.sdtt import DCD, SDTT

    return {
        "dcd": DCD,
        "denoising": Denoising,
        "di4c": Di4C,
        "dimo": DIMO,
        "dmmd": DMMD,
        "idlm": IDLM,
        "rsmmd": RSMMD,
        "sdtt": SDTT,
    }


@hookimpl
def di4c_samplers() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.samplers import ancestral, blocks, halton, hybrid, maskgit, tau_leaping

    # Di4C's sampler is ancestral sampling with λ anew at every step; the analytic sampler of SEDD
    # and MDLM has, for masked diffusion, the law of the ancestral one.
    return {
        "ancestral": ancestral,
        "analytic": ancestral,
        "blocks": blocks,
        "di4c": ancestral.having(latents="fresh"),
        "halton": halton,
        "hybrid": hybrid,
        "maskgit": maskgit,
        "tau_leaping": tau_leaping,
    }


@hookimpl
def di4c_latents() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.families.unet_latent import UNetLatent
    from di4c_plugin.networks.latent import LATENTS

    return LATENTS | {"unet": UNetLatent}


@hookimpl
def di4c_teacher_sources() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.hosts.builtin import load_builtin
    from di4c_plugin.hosts.sources import load_file

    return {"builtin": load_builtin, "file": load_file}


@hookimpl
def di4c_programs() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.programs import duo, halton_maskgit, maskgit, mdlm, sdtt, tauldr

    programs = (mdlm, sdtt, duo, maskgit, halton_maskgit, tauldr)
    return {module.PROGRAM.name: module.PROGRAM for module in programs}


@hookimpl
def di4c_metrics() -> Mapping[str, object]:
    """See `di4c_plugin.hookspecs`."""
    from di4c_plugin.evaluation.bits import Bits
    from di4c_plugin.evaluation.coverage import Coverage
    from di4c_plugin.evaluation.entropy import Entropy
    from di4c_plugin.evaluation.fid import FID
    from di4c_plugin.evaluation.fidelity import KID, PrecisionRecall
    from di4c_plugin.evaluation.frechet import frechet_distance
    from di4c_plugin.evaluation.gen_ppl import GenPPL
    from di4c_plugin.evaluation.gradient_moment import GradientMoment
    from di4c_plugin.evaluation.mauve import Mauve
    from di4c_plugin.evaluation.variety import DistinctN, SelfBLEU

    return {
        "bits": Bits,
        "coverage": Coverage,
        "distinct_n": DistinctN,
        "entropy": Entropy,
        "fd": frechet_distance,
        "fid": FID,
        "gen_ppl": GenPPL,
        "gradient_moment": GradientMoment,
        "kid": KID,
        "mauve": Mauve,
        "precision_recall": PrecisionRecall,
        "self_bleu": SelfBLEU,
    }
