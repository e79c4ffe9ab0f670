import json

import pytest
import torch

from di4c_plugin.bench.machine import machine, versions


def test_machine_and_versions_are_plain_values() -> None:
    told = machine("cpu", None)
    assert told["threads"] == torch.get_num_threads()
    assert machine("cpu", 7)["threads"] == 7
    assert told["cpu"]
    assert told["memory_mb"] > 100
    assert told["gpu"] is None
    assert versions()["torch"] == torch.__version__
    assert json.loads(json.dumps([told, versions()])) == [told, versions()]


@pytest.mark.gpu
def test_the_accelerator_has_a_name() -> None:
    assert machine("cuda", None)["gpu"] == torch.cuda.get_device_name()
