"""Lightning's strategy for sharded networks, with our own checkpoints.

`ModelParallelStrategy` starts the processes and makes the mesh; its own checkpoints hold pickles
and are not replaced atomically.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, empty
from torch.optim import Optimizer

from di4c_plugin.training import shards
from di4c_plugin.training.checkpoint import CheckpointFiles
from di4c_plugin.training.checkpoint_file import read_checkpoint


class ShardedStrategy(ModelParallelStrategy):
    """Runs a `TrainingModule` that shards its networks in `configure_model`.

    Args:
        devices: the number of processes.
        files: the one that writes last.ckpt.
    """

    def __init__(self, devices: int, files: CheckpointFiles) -> None:
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1)
        self.files = files

    @property
    def mesh(self) -> DeviceMesh:
        """The one-dimensional mesh of all processes."""
        return self.device_mesh["data_parallel"]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the sharded weights."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the sharded state of an optimiser."""
        return dict(getattr(optimizer, "_optimizer", optimizer).state_dict())

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write the shards, then the file that names them."""
        path = Path(filepath)
        plain, sharded = shards.split(checkpoint)
        plain[shards.KEY] = shards.write(sharded, path.parent, checkpoint["global_step"])
        if self.is_global_zero:
            self.files.save_checkpoint(plain, path)
            kept = {plain[shards.KEY]["folder"]}
            if self.files.previous is not None and self.files.previous.exists():
                before = read_checkpoint(self.files.previous, with_shards=False)
                kept.add(before[shards.KEY]["folder"])
            shards.clear(path.parent, kept)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load weights and optimiser, and return the checkpoint."""
        path = Path(checkpoint_path)
        plain = read_checkpoint(path, with_shards=self.is_global_zero)
        folder = shards.folder_of(plain.pop(shards.KEY), path.parent)
        checkpoint: dict[str, Any] = shards.joined(plain, folder, self._empty)
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"])
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
        return checkpoint

    def _empty(self, shape: list[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor sharded by rows, as parameters are."""
        tensor: Tensor = empty(*shape, dtype=dtype, device_mesh=self.mesh, placements=[Shard(0)])
        return tensor
