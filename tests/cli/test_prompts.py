"""What counts as drawn after a prompt."""

import pytest
import torch

from di4c_plugin.cli.prompts import drawn_tokens

END = 9


@pytest.mark.parametrize(("eos", "count"), [(None, 8), (END, 1 + 4), (7, 3 + 2)])
def test_tokens_count_to_the_end_of_their_text(eos: int | None, count: int) -> None:
    """Neither an end within a prompt, nor the filling behind one, nor padding."""
    prompts = [[END, 7], [END]]
    x = torch.tensor([[END, 7, END, END, 7, END], [END, 3, 7, 5, END, 0]])
    assert drawn_tokens(x, prompts, eos) == count
    assert drawn_tokens(x[:1], prompts[:1], None) == 4


def test_one_prompt_is_of_all_samples() -> None:
    x = torch.tensor([[1, END, END], [1, 2, END], [1, 2, 3]])
    assert drawn_tokens(x, [[1]], END) == 1 + 2 + 2
    assert drawn_tokens(x, [[1]], None) == 6
