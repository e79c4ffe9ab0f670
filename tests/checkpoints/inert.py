import io
from typing import Any

from di4c_plugin.checkpoints.pickles import InertUnpickler


def loads_inert(data: bytes) -> Any:
    """The content of a plain pickle, foreign objects as stubs."""
    return InertUnpickler(io.BytesIO(data)).load()
