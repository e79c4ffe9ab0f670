from pathlib import Path

import pytest

from tests.evaluation.tiny_lm import write_lm


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small causal language model and its tokenizer."""
    return write_lm(tmp_path_factory.mktemp("lm"))
