"""Examples, prompts and padding out of files, by a tokenizer of single letters."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.data import texts
from di4c_plugin.data.texts import encode_prompts, read_prompts, read_texts
from di4c_plugin.errors import UserError

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}.{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


class Letters:
    """ids of letters from 5; the end is 3."""

    eos_token_id = 3
    chat_template: str | None = TEMPLATE

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(c) - ord("a") + 5 if c.isalpha() else 31 for c in text]

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        from jinja2 import Template

        options.pop("tokenize")
        return str(Template(self.chat_template or "").render(messages=messages, **options))


def ids(text: str) -> list[int]:
    return Letters().encode(text, add_special_tokens=False)


ROWS: list[dict[str, Any]] = [
    {"prompt": "ab", "response": "cde"},
    {"text": "hello"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]},
    {"prompt": "abcdefghijkl", "completion": "z"},  # no room for an answer
    {"text": "abcdefghijklm"},
]
WANTED = [
    (ids("ab"), [*ids("cde"), 3]),
    ([], [*ids("hello"), 3]),
    (ids("uhi.a"), ids("yo.")),
    ([], ids("abcdefghij")),
]


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_long_example_among_many_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are padded to it: 100k tokens among 10^4 rows are 8 GB."""
    monkeypatch.setattr(texts, "PADDING", 100)
    rows = write(tmp_path / "a.jsonl", [{"text": "abc"}] * 10 + [{"text": "a" * 19}])
    message = r"longest of 11 .* has 20 tokens, .* more than 100: say host.length=.*DI4C_LIMITS=off"
    with pytest.raises(UserError, match=message):
        read_texts(rows, Letters(), 50, pad=0)
    assert read_texts(rows, Letters(), 14, pad=0).x_0.shape == (11, 14)  # exactly 100 of padding
    with pytest.raises(UserError, match="has 15 tokens"):
        read_texts(rows, Letters(), 15, pad=0)
    monkeypatch.setenv("DI4C_LIMITS", "off")
    data = read_texts(rows, Letters(), 50, pad=0)
    assert data.lengths is not None
    assert data.lengths.tolist() == [4] * 10 + [20]
    assert data.x_0[0].tolist() == [*ids("abc"), 3] + [0] * 16
    assert data.x_0[10].tolist() == [*ids("a" * 19), 3]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_rows_become_prompts_and_answers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {key: None for row in ROWS for key in row}
    data = read_texts(write(tmp_path / name, [columns | row for row in ROWS]), Letters(), 10, pad=0)
    assert data.given is not None
    assert data.lengths is not None
    assert data.x_0.shape == (4, 10)
    for row, (prompt, answer) in enumerate(WANTED):
        whole = [*prompt, *answer]
        assert data.lengths[row] == len(whole)
        assert data.x_0[row].tolist() == whole + [0] * (10 - len(whole))
        counted = [i for i in range(10) if not data.given[row, i]]
        assert counted == list(range(len(prompt), len(whole)))
    told = capsys.readouterr().err
    assert "1 of 5 examples lose their end" in told
    assert "1 of 5 examples have no answer" in told


def test_the_kind_of_a_file_is_told_by_its_name_in_any_case(tmp_path: Path) -> None:
    data = read_texts(write(tmp_path / "A.JSONL", ROWS[:2]), Letters(), 10, pad=1)
    assert data.x_0[1, :6].tolist() == [*ids("hello"), 3]
    (tmp_path / "P.Json").write_text('"a prompt"')
    assert read_prompts(tmp_path / "P.Json") == ["a prompt"]


def test_a_byte_order_mark_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd", encoding="utf-8-sig")
    assert read_prompts(tmp_path / "a.txt") == ["abcd"]
    assert read_texts(tmp_path / "a.txt", Letters(), 4).x_0.tolist() == [ids("abcd")]
    (tmp_path / "a.jsonl").write_text('"ab"', encoding="utf-8-sig")
    assert read_prompts(tmp_path / "a.jsonl") == ["ab"]


def test_plain_text_is_cut_into_blocks(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("abcdefghij")
    data = read_texts(file, Letters(), 4)
    assert data.x_0.tolist() == [ids("abcd"), ids("efgh")]
    assert data.given is None


def test_prompts_of_a_file(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    file = write(tmp_path / "a.jsonl", ["ab", {"prompt": "c"}, {"messages": chat}])
    assert encode_prompts(Letters(), read_prompts(file)) == [ids("ab"), ids("c"), ids("uhi.a")]
    (tmp_path / "a.txt").write_text("ab\n\nc d\n")
    assert read_prompts(tmp_path / "a.txt") == ["ab", "c d"]
    (tmp_path / "a.txt").write_text("a\u2028b\n\x0cc\n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.txt") == ["a\u2028b", "\x0cc"]
    with pytest.raises(UserError, match="holds half a character: "):
        encode_prompts(Letters(), ["a\udc80"])


ASSISTANT = {"role": "assistant", "content": "yo"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([7], "row 1 of .* is 7, with no fields"),
        ([{"text": "a"}, {"words": "a"}], "row 2 .* has words: it needs messages"),
        ([{"text": 5}], "text is 5, no text"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "no answer of the assistant"),
        ([{"messages": "hello"}], "no answer of the assistant"),
        ([], "holds no examples"),
        ([{"prompt": "a" * 12, "response": "b"}], "holds no examples"),
        ([{"text": "a"}, {"text": "abc"}], "say host.pad="),
    ],
)
def test_mistakes_end_in_one_line(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_texts(write(tmp_path / "a.jsonl", rows), Letters(), 10)


def test_what_is_no_json_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(UserError, match="line 2 of .* is no JSON"):
        read_texts(file, Letters(), 10, pad=0)


@pytest.mark.parametrize("name", ["lines.jsonl", "table.parquet", "plain.txt", "lines.JSON"])
def test_what_is_no_file_is_no_data_set_either(name: str, tmp_path: Path) -> None:
    """Nobody is asked for it, and a pipe is not waited for."""
    path = tmp_path / name
    with pytest.raises(UserError, match=f"^no such file: {path}$"):
        read_texts(path, None, 4)
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"^{path} is no regular file$"):
        read_texts(path, None, 4)
    with pytest.raises(UserError, match=f"^{path} cannot be read.*it is no regular file$"):
        read_prompts(path)


def test_a_damaged_table_ends_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match="cannot be read"):
        read_texts(file, Letters(), 10, pad=0)


def test_chats_need_a_template_that_begins_with_the_prompt(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "a"}, ASSISTANT]}]
    )
    tokenizer = Letters()
    for template, message in (
        (None, "no chat template"),
        ("{{ 'abc'[messages | length] }}", "begin"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(UserError, match=message):
            read_texts(file, tokenizer, 10, pad=0)


def test_what_is_given_is_neither_corrupted_nor_counted() -> None:
    """Di4C's and the teacher's losses do not change with the prediction of what is given."""
    from di4c_plugin.algorithms.base import Batch, Update
    from di4c_plugin.algorithms.denoising import Denoising
    from di4c_plugin.algorithms.di4c import Di4C
    from di4c_plugin.algorithms.dmmd import DMMD
    from di4c_plugin.diffusion import Absorbing

    process = Absorbing(7, mask=6)
    given = torch.tensor([[True, True, False, False, False], [True, False, False, False, True]])
    x_0 = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 0]])
    seen: list[torch.Tensor] = []

    class Net(torch.nn.Module):
        latent_shape: tuple[int, ...] | None = None

        def __init__(self, bias: float) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(
                torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
            )
            self.bias = bias

        def forward(self, x: Any, t: Any, *, cond: Any = None, latent: Any = None) -> torch.Tensor:
            seen.append(x)
            rows = len(x) if latent is None else len(latent)
            x, where = x.repeat(rows // len(x), 1), given[:count].repeat(rows // count, 1)
            logits = self.table.expand(rows, -1, -1)
            logits = torch.where(where[..., None], logits * self.bias, logits)
            if latent is not None:
                logits = logits * (1 + latent[:, :1, None])
            return torch.log_softmax(process.restrict(logits), -1)

    for share, count in ((0.0, 2), (1.0, 1)):
        losses = []
        for bias in (1.0, -3.0):
            student, teacher = Net(bias), Net(bias)
            student.latent_shape = (1,)
            networks: Any = {"student": student, "teacher": teacher}
            seen.clear()
            method = Di4C(process, latents=2, prior_share=share, loss="naive")
            update = Update(torch.Generator().manual_seed(1))
            losses.append(method.losses(Batch(x_0, None, given), networks, update).total)
            for x in seen:
                times = len(x) // count
                assert (x == x_0[:count].repeat(times, 1))[given[:count].repeat(times, 1)].all()
        assert losses[0] == losses[1]
    count = 2
    for renoise in ("posterior", "step", "forward"):
        losses = []
        for bias in (1.0, -3.0):
            student = Net(bias)
            student.latent_shape = (1,)
            networks = {"student": student, "auxiliary": Net(bias), "teacher": Net(bias)}
            seen.clear()
            update = Update(torch.Generator().manual_seed(1))
            dmmd = DMMD(process, renoise=renoise, together=True)
            losses.append(dmmd.losses(Batch(x_0, None, given), networks, update).total)
            for x in seen:
                assert (x == x_0)[given].all()
        assert losses[0] == losses[1]
    losses = []
    for bias in (1.0, -3.0):
        update = Update(torch.Generator().manual_seed(1))
        nets: Any = {"student": Net(bias)}
        losses.append(Denoising(process).losses(Batch(x_0, None, given), nets, update).total)
    assert losses[0] == losses[1]
