"""A third-party distribution without any YAML, as an install leaves it."""

from pathlib import Path

PLUGIN = '''
from di4c_plugin.hookspecs import hookimpl

@hookimpl
def di4c_algorithms():
    from di4c_plugin.algorithms.denoising import Denoising
    from di4c_plugin.algorithms.di4c import Di4C

    class Naive(Di4C):
        """Di4C, said shortly."""

        def __init__(
            self, process, *, latents: int = 2, strength: float = 1.0, extra: int | None = None
        ):
            super().__init__(process, latents=latents)
            self.strength = strength

    return {"naive": Naive}

@hookimpl
def di4c_latents():
    from di4c_plugin.networks.latent import AdaLNLatent

    class Shift(AdaLNLatent):
        """A scale and a shift."""

        def __init__(self, sizes, *, features: int = 8, wave: float = 0.1):
            super().__init__(sizes, dim=1, features=features, std=wave)

    return {"shift": Shift}

@hookimpl
def di4c_samplers():
    from di4c_plugin.samplers import ancestral

    def lazy(denoiser, x, times, *, process, generator, cond=None, callback=None, pace: int = 1):
        return ancestral(denoiser, x, times, process=process, generator=generator, cond=cond)

    return {"lazy": lazy}

@hookimpl
def di4c_hosts():
    from di4c_plugin.hosts import Host
    from di4c_plugin.hosts.builtin import FAMILY, Digits

    class Shaded(Digits):
        def __init__(self, *, shade: float = 0.5):
            pass

    return {"shaded": Host("shaded", FAMILY, Shaded)}
'''


def install(folder: Path, name: str = "plain", source: str = PLUGIN) -> Path:
    """Write a plugin to a folder that is then put on the path; return the folder."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[di4c_plugin]\n{name} = {name}_module\n")
    (folder / f"{name}_module.py").write_text(source)
    return folder
