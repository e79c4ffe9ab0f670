"""Files that version 0.1.0 wrote, before a model file told its role, load and draw as they did.

`files/` holds a teacher and two students with random weights, and what that version drew from them.
"""

import json
from pathlib import Path

import pytest

from di4c_plugin import load_student, load_teacher, sample
from di4c_plugin.errors import UserError

FILES = Path(__file__).parent / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_older_file_is_what_it_was(name: str, tmp_path: Path) -> None:
    file, expected = FILES / f"{name}.safetensors", EXPECTED[name]
    model = load_teacher(file)
    assert model.latent == expected["latent"]
    assert model.role == ("teacher" if name == "teacher" else "student")
    assert sample(model, 3, steps=2, seed=5).tolist() == expected["x"]
    model.save(tmp_path / "again.safetensors")
    again = load_teacher(tmp_path / "again.safetensors")
    assert (again.role, again.latent) == (model.role, model.latent)
    if name == "teacher":
        with pytest.raises(UserError, match="is a teacher, not a student"):
            load_student(file)
    else:
        assert load_student(file).is_student
