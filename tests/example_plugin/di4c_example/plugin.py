"""What the entry point names: the hooks of this plugin."""

from collections.abc import Mapping, Sequence

from di4c_plugin.hookspecs import hookimpl


@hookimpl
def di4c_algorithms() -> Mapping[str, object]:
    """Add `marginal` and `mutual`."""
    from di4c_example.marginal import Marginal
    from di4c_example.mutual import Mutual

    return {"marginal": Marginal, "mutual": Mutual}


@hookimpl
def di4c_samplers() -> Mapping[str, object]:
    """Add `confidence`."""
    from di4c_example.confidence import confidence

    return {"confidence": confidence}


@hookimpl
def di4c_latents() -> Mapping[str, object]:
    """Add `shift`."""
    from di4c_example.shift import Shift

    return {"shift": Shift}


@hookimpl
def di4c_metrics() -> Mapping[str, object]:
    """Add `unequal`."""
    from di4c_example.unequal import unequal

    return {"unequal": unequal}


@hookimpl
def di4c_hosts() -> Mapping[str, object]:
    """Add `two_bits`."""
    from di4c_example.two_bits import HOST

    return {HOST.name: HOST}


@hookimpl
def di4c_programs() -> Mapping[str, object]:
    """Let us enter the toy's own program, and another that has Hydra."""
    from di4c_example import letters, program

    return {"letters": letters.PROGRAM, "two_bits": program.PROGRAM}


@hookimpl
def di4c_config_paths() -> Sequence[str]:
    """Let `di4c train algo=marginal host=two_bits` find their configs."""
    return ["pkg://di4c_example.configs"]
