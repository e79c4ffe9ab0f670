"""The Inception network of FID and IS, that of torch-fidelity, with weights from a file.

torch-fidelity (the extra `images`) has the network of the original FID converted to PyTorch, with
its TensorFlow resizing to 299x299. It would unpickle any file of weights; here the file is read as
tensors only.
"""

import hashlib
import io
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.errors import UserError, reason
from di4c_plugin.evaluation.progress import tracked

MODULE = "torch_fidelity.feature_extractor_inceptionv3"
FEATURES = ("2048", "logits_unbiased")
RESIZING = "299x299 (torch-fidelity: bilinear, as in TensorFlow 1)"
BATCH = 64


class Inception:
    """Features of pictures.

    Attributes:
        fingerprint: SHA-256 of the file of weights, hexadecimal.
    """

    def __init__(self, weights: Path | None = None, device: str | torch.device = "cpu") -> None:
        """Load the network.

        Args:
            weights: a file of a state dict; None: the one that torch-fidelity has downloaded.
            device: where to compute.

        Raises:
            UserError: if torch-fidelity or the weights are missing, or the weights do not fit.
        """
        library = _library()
        path = weights or _kept(library)
        if not path.is_file():
            raise UserError(
                f"the weights of Inception are missing: there is no {path}; they are at "
                f"{library.URL_INCEPTION_V3} (--inception names the file)"
            )
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
        self._network = _network(library, path).to(device)
        self._device = device

    def features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features (B, 2048) and logits without bias (B, 1008) of (B, C, H, W).

        Pictures are uint8; grey ones (C = 1) are repeated to three channels.
        """
        parts = [self._part(part) for part in pictures.split(BATCH)]
        pooled, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        return pooled, logits

    def _part(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        colour = pictures.expand(-1, 3, -1, -1).to(self._device)
        with torch.no_grad():
            pooled, logits = self._network(colour)
        return pooled.cpu(), logits.cpu()

    def all_features(self, batches: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield `features` of each batch."""
        return (self.features(pictures) for pictures in tracked(batches, "batches of pictures"))


def _library() -> Any:
    try:
        return import_module(MODULE)
    except UserError:
        raise
    except Exception as error:  # a torchvision that does not go with torch raises anything
        raise UserError(
            "fid, kid and precision_recall need torch-fidelity and torchvision: "
            f"pip install 'di4c_plugin[images]' ({reason(error)})"
        ) from error


def _kept(library: Any) -> Path:
    """Return the path of the file that torch-fidelity downloads."""
    name = str(library.URL_INCEPTION_V3).rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _network(library: Any, path: Path) -> nn.Module:
    """Return the network in eval mode with weights from `path`, of which nothing is executed."""
    buffer = io.BytesIO()
    torch.save(_state_dict(path), buffer)
    buffer.seek(0)
    try:
        network: nn.Module = library.FeatureExtractorInceptionV3(
            "inception-v3-compat", list(FEATURES), feature_extractor_weights_path=buffer
        )
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"the weights in {path} are not of Inception: {problem}") from error
    return network.eval()


def _state_dict(path: Path) -> dict[str, Tensor]:
    content = load_inert(path)
    if not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no weights by name")
    return content
