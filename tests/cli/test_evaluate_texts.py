"""`di4c evaluate` on texts: files and models, at equal entropy, resumed and repeated."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin.api import load_teacher, sample
from di4c_plugin.cli.main import main
from di4c_plugin.cli.repeat import changes
from di4c_plugin.evaluation import shards
from di4c_plugin.evaluation.frontier import interpolated
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.plugins import names_of
from tests.evaluation.tiny_lm import texts, write_lm, write_tokenizer

SIZES = {"hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 1}
LETTERS = "abcdefghijklmnop"  # with the end of text, the digits' 17 tokens


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside two small models of 64 tokens of 17, a scorer of them, and texts."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("A", "B")):
        torch.manual_seed(seed)
        BUILTIN().new_teacher({"name": "absorbing"}, **SIZES).save(name)
    write_lm(Path("lm"), letters=LETTERS, context=64)
    lines = [json.dumps({"text": text}) for text in texts(30, 0)]
    Path("theirs.jsonl").write_text("\n".join(lines))
    x = torch.randint(17, (30, 64), generator=torch.Generator().manual_seed(0))
    np.save("real.npy", x.numpy())


def evaluate(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The report of an evaluation, without figures of time and memory."""
    assert main(["evaluate", *arguments, "--json", "report.json", "--overwrite"]) == code
    report: dict[str, Any] = json.loads(Path("report.json").read_text())
    return report


def values(report: dict[str, Any]) -> list[dict[str, float]]:
    return [{k: f["value"] for k, f in p["figures"].items()} for p in report["points"]]


SMALL = ["--steps", "1,3", "--samples", "30", "--batch-size", "12", "--metric", "gen_ppl,entropy"]
SWEPT = [*SMALL, "--scorer", "lm", "--temperatures", ".1,2", "--seeds", "2"]


def test_a_file_of_texts_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate("theirs.jsonl", "--metric", "gen_ppl,entropy,distinct_n", "--scorer", "lm")
    head, row = capsys.readouterr().out.splitlines()[-2:]
    assert head.startswith("gen_ppl\tentropy\tdistinct_1")
    assert head.count("\t") == row.count("\t")
    (point,) = report["points"]
    assert (point["n"], point["steps"], point["seed"]) == (30, None, None)
    assert report["notes"]["scored"] == "texts tokenised anew"
    assert report["sources"][0]["kind"] == "samples"


def test_tokens_and_their_texts_have_one_gen_ppl() -> None:
    """With the model's tokenizer texts are tokenised anew; this one gives the same tokens."""
    plain = evaluate("A", *SMALL, "--scorer", "lm")
    anew = evaluate("A", *SMALL, "--scorer", "lm", "--tokenizer", "lm")
    for one, other in zip(values(plain), values(anew), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert plain["notes"]["scored"] == "tokens as they were drawn"
    assert anew["notes"]["scored"] == "texts tokenised anew"


def test_two_models_at_one_entropy(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    report = evaluate("A", "B", *SWEPT, "--at-entropy", "2.4", "--plot", "frontier.png")
    assert len(report["points"]) == 2 * 2 * 2 * 2
    assert len(report["rows"]) == 2 * 2 * 2
    assert Path("frontier.png").read_bytes().startswith(b"\x89PNG")
    entry = next(v for v in report["at_entropy"]["values"] if (v["model"], v["steps"]) == ("B", 3))
    logs = {}
    for model in "AB":
        for seed in (0, 1):
            line = [
                (p["figures"]["entropy"]["value"], math.log(p["figures"]["gen_ppl"]["value"]))
                for p in report["points"]
                if (p["model"], p["steps"], p["seed"]) == (model, 3, seed)
            ]
            logs[model, seed] = interpolated(line, 2.4)
    assert None not in logs.values()
    own = [logs["B", 0], logs["B", 1]]
    assert entry["figure"]["value"] == pytest.approx(math.exp(sum(own) / 2))  # type: ignore[arg-type]
    paired = [logs["B", k] - logs["A", k] for k in (0, 1)]  # type: ignore[operator]
    assert entry["difference"]["value"] == pytest.approx(sum(paired) / 2)
    assert entry["difference"]["error"] == pytest.approx(abs(paired[0] - paired[1]) / 2)
    out = capsys.readouterr().out
    assert "# at entropy 2.4; differences from A by seed, of gen_ppl as log ratio" in out


def test_the_readme_documents_metrics_and_report(repository: Path) -> None:
    text = (repository / "di4c_plugin/evaluation/README.md").read_text()
    metrics, report = text.split("## The report")
    assert set(names_of("metric")) <= set(re.findall(r"`(\w+)`", metrics))
    documented = set(re.findall(r"`(\w+)`", report))
    whole = evaluate("A", "theirs.jsonl", *SWEPT, "--tokenizer", "lm", "--at-entropy", "2.4")
    keys = {*whole, *whole["at_entropy"], *whole["at_entropy"]["values"][0]}
    keys |= {k for source in whole["sources"] for k in source} | {*whole["reference"]}
    keys |= {*whole["points"][-1], *whole["points"][-1]["cost"]}

    assert keys - {"value", "error"} <= documented


def test_models_are_compared_with_the_first_in_more_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ["--metric", "gen_ppl,entropy", "--scorer", "lm", "--samples", "30", "--steps", "1,2"]
    own += ["--temperatures", ".1,1,9", "--seeds", "2", "--at-entropy", "own"]
    report = evaluate("A", "B", *own)
    assert "at_entropy" not in report
    points = {
        (p["model"], p["steps"], p["swept"], p["seed"]): p["figures"] for p in report["points"]
    }
    entry = next(e for e in report["at_own_entropy"] if e["steps"] == 1)
    assert (entry["model"], entry["column"]) == ("B", "gen_ppl")
    assert entry["differences"]["4"] is None
    expected = []
    for seed in (0, 1):
        of = points["B", 1, 1.0, seed]
        curve = [points["A", 2, T, seed] for T in (0.1, 1.0, 9.0)]
        line = [(f["entropy"]["value"], math.log(f["gen_ppl"]["value"])) for f in curve]
        reference = interpolated(line, of["entropy"]["value"])
        assert reference is not None
        expected.append(math.log(of["gen_ppl"]["value"]) - reference)
    assert entry["differences"]["2"]["value"] == pytest.approx(sum(expected) / 2)
    assert "\n# minus A at the model's own entropy, by seed, of gen_" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more",
    [
        ["A", *SWEPT],
        ["A", "B", *SMALL, "--scorer", "lm"],
        ["A", "B", *SWEPT],
        ["A", "theirs.jsonl", *SWEPT, "--tokenizer", "lm", "--temperatures", ".5,1"],
    ],
)
def test_own_entropies_need_two_models_and_temperature_1(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *more, "--at-entropy", "own"]) == 2
    assert "name two models, and --temperatures with 1 among them" in capsys.readouterr().err


def test_an_entropy_that_no_temperature_reaches(capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate("A", *SWEPT, "--at-entropy", "1e-3")
    assert {v["figure"] is None for v in report["at_entropy"]["values"]} == {True}
    assert "not reached by 2 seeds (" in capsys.readouterr().out


def test_a_report_knows_the_tokens_of_its_tokenizer() -> None:
    ask = ["theirs.jsonl", "--metric", "entropy", "--tokenizer", "lm"]
    first = evaluate(*ask)
    assert re.fullmatch(r"lm, 17 tokens, sha256 [0-9a-f]{16}", first["notes"]["tokenizer"])
    write_tokenizer(Path("lm"), LETTERS[::-1])
    (said,) = changes(first, evaluate(*ask))
    assert said.startswith("notes tokenizer was lm, 17 tokens, sha256 ")


def test_the_entropy_of_the_reference_is_taken() -> None:
    report = evaluate("A", *SWEPT, "--at-entropy", "data", "--reference", "real.npy")
    from di4c_plugin.evaluation.entropy import sample_entropy

    expected = sample_entropy(torch.from_numpy(np.load("real.npy")))
    assert report["at_entropy"]["entropy"] == pytest.approx(expected)


def test_a_killed_evaluation_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate("A", *SWEPT)
    draws = 0

    def broken(*args: Any) -> Any:
        nonlocal draws
        draws += 1
        if draws == 5:
            raise KeyboardInterrupt
        return measured(*args)

    measured = shards.measured
    monkeypatch.setattr(shards, "measured", broken)
    assert main(["evaluate", "A", *SWEPT, "--shards", "kept"]) == 130
    assert len([*Path("kept").rglob("*.npz")]) == 4
    assert values(evaluate("A", *SWEPT, "--shards", "kept")) == values(whole)
    assert draws == 5 + (2 * 2 * 2 * 3 - 4)
    assert values(evaluate("A", *SWEPT, "--shards", "kept")) == values(whole)
    assert draws == 5 + (2 * 2 * 2 * 3 - 4)


def test_shards_of_another_model_are_not_taken() -> None:
    evaluate("A", *SMALL, "--scorer", "lm", "--shards", "kept")
    Path("A").write_bytes(Path("B").read_bytes())
    again = evaluate("A", *SMALL, "--scorer", "lm", "--shards", "kept")
    assert values(again) == values(evaluate("B", *SMALL, "--scorer", "lm"))


def test_shards_with_another_teacher_of_the_sampler_are_not_taken() -> None:
    hybrid = [*SMALL, "--scorer", "lm", "--sampler", "hybrid", "--teacher", "T", "--steps", "3"]
    hybrid += ["--teacher-steps", "2"]
    Path("T").write_bytes(Path("A").read_bytes())
    first = evaluate("A", *hybrid, "--shards", "kept")
    Path("T").write_bytes(Path("B").read_bytes())
    again = evaluate("A", *hybrid, "--shards", "kept")
    assert values(again) == values(evaluate("A", *hybrid)) != values(first)
    assert first["sources"][0]["partners"] != again["sources"][0]["partners"]
    (said,) = changes(first, again)
    assert said.startswith("fingerprint of teacher of A was ")


@pytest.mark.parametrize("metric", ["gen_ppl", "bits", "gradient_moment"])
def test_real_tokens_need_not_have_the_last_one_of_the_vocabulary(metric: str) -> None:
    np.save("real.npy", np.load("real.npy") % 15)
    metrics = ["--metric", metric, "--reference", "real.npy", "--scorer", "lm"]
    report = evaluate("A", "real.npy", *SMALL, *metrics, "--steps", "1")
    assert len(report["points"]) == 2


def test_a_damaged_shard_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("A", *SMALL, "--scorer", "lm", "--shards", "kept")
    file = min(Path("kept").rglob("*.npz"))
    file.write_bytes(file.read_bytes()[:100])
    assert main(["evaluate", "A", *SMALL, "--scorer", "lm", "--shards", "kept"]) == 2
    assert "no readable shard of samples" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_what_one_gives() -> None:
    one = evaluate("A", *SMALL, "--scorer", "lm")
    two = evaluate("A", *SMALL, "--scorer", "lm", "--processes", "2")
    assert values(one) == values(two)


def test_a_report_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate("A", "theirs.jsonl", *SMALL, "--scorer", "lm", "--tokenizer", "lm")
    Path("report.json").rename("first.json")
    capsys.readouterr()
    assert values(evaluate("--repeat", "first.json")) == values(report)
    assert capsys.readouterr().out.splitlines()[-1] == "# 6 equal"
    # A model that is another one, and figures that are near but not equal.
    Path("A").write_bytes(Path("B").read_bytes())
    assert main(["evaluate", "--repeat", "first.json"]) == 1
    out = capsys.readouterr().out
    assert "# fingerprint of A was " in out
    assert " differs, " in out.splitlines()[-1]


STRANGE: list[dict[str, Any]] = [
    *({"host_option": 5}, {"host_option": [["a"]]}, {"models": "A"}, {"steps": [1.5]}),
    *({"seed": 1.5}, {"device": 5}, {"metric": [{}]}, {"labels": [1]}, {"scorer": {}}),
    *({"option": [["x"]]}, {"sweep": 5}, {"batch_size": None}),
]
STRANGE_POINTS: list[dict[str, Any]] = [{"steps": {}}, {"swept": "x"}, {"seed": [1]}, {"n": None}]


def test_a_report_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate("A", *SMALL, "--scorer", "lm")
    mutations: list[dict[str, Any]] = [
        report | {"format": 2},
        report | {"points": [1]},
        report | {"arguments": {"steps": 4}},
        report | {"arguments": report["arguments"] | {"models": 3}},
        report | {"arguments": report["arguments"] | {"samples": "many"}},
        report | {"arguments": report["arguments"] | {"unheard": 1}},
        *(report | {"arguments": report["arguments"] | values} for values in STRANGE),
        *(report | {"points": [report["points"][0] | values]} for values in STRANGE_POINTS),
        # What a command writes and starts, no file may say.
        report | {"arguments": report["arguments"] | {"json": "precious", "overwrite": True}},
        report | {"arguments": report["arguments"] | {"plot": "precious.png"}},
        report | {"arguments": report["arguments"] | {"shards": "precious"}},
        report | {"arguments": report["arguments"] | {"processes": 99}},
        report | {"arguments": report["arguments"] | {"run": "x"}},
        report | {"arguments": report["arguments"] | {"host_option": ["root"]}},
    ]
    Path("precious").write_text("precious")
    capsys.readouterr()
    for mutation in mutations:
        Path("bad.json").write_text(json.dumps(mutation))
        assert main(["evaluate", "--repeat", "bad.json"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("di4c: error: bad.json "), err
        assert Path("precious").read_text() == "precious"
        assert err.count("\n") == 1
    assert "root=…: type it again" in err
    assert not Path("precious.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("A --metric gen_ppl --scorer other", "the samples are of 17 tokens and scorer other has "),
        ("theirs.jsonl", "theirs.jsonl holds texts: name what makes tokens of them, --tokenizer "),
        ("A --metric gen_ppl --scorer A", "A is no causal language model that can be read: "),
        ("A --metric entropy --tokenizer other", "tokenizer other has 9 tokens, and the samples "),
        ("A --metric mauve --scorer lm --reference real.npy", "mauve takes at least 20 texts, not"),
        ("nowhere.npy", "no such file: nowhere.npy"),
        ("real.npy --metric fd", "metric fd is of a model's samples, and not of files"),
        (
            "A --metric gen_ppl --scorer lm --after-end no",
            "--after-end takes hosts, keep, cut, not",
        ),
        ("A --metric bits --reference real.npy --ngram-order 30", "n-grams of 17 tokens cannot be"),
        ("A --metric bits --reference real.npy --ngram-order 999999999", "n-grams of 17 tokens"),
        (
            "real.npy --metric bits --tokenizer bytes --reference t.txt",
            "t.txt is running text, cut",
        ),
    ],
)
def test_mistakes_give_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lm(Path("other"), letters="abcdefgh")
    Path("t.txt").write_text("some text")
    capsys.readouterr()
    assert main(["evaluate", *arguments.split(), "--samples", "10", "--steps", "1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"di4c: error: {message}"), err
    assert err.count("\n") == 1


def test_what_is_said_twice_is_measured_once() -> None:
    """Equal points would count as seeds, with a standard error of 0."""
    report = evaluate(
        "A", *SMALL[2:], "--metric", "entropy", "--steps", "1,1", "--temperatures=1,1"
    )
    assert len(report["points"]) == len(report["rows"]) == 1


def test_extreme_temperatures_draw_the_most_likely_or_anything() -> None:
    from di4c_plugin.evaluation.temperature import tempered

    x = torch.full((1, 64), 17)
    model = load_teacher("A")
    log_p = model.denoiser(x, torch.ones(1, dtype=torch.float64))[0]
    for temperature in (1e-30, 1e-300, 1e-320):
        drawn = sample(tempered(model, temperature), 2, steps=1)
        assert torch.equal(drawn, log_p.argmax(-1).expand(2, -1))
    drawn = sample(tempered(model, 1e300), 200, steps=1, prefix=[3])
    assert set(drawn[:, 0].tolist()) == {3}
    assert len(drawn[:, 1].unique()) == 17


def test_temperature_tempers_every_prediction() -> None:
    """At one step of a masked model every token is drawn from p^(1/T) of the same prediction."""
    x = torch.full((1, 64), 17)
    model = load_teacher("A")
    log_p = model.denoiser(x, torch.ones(1, dtype=torch.float64))[0, :, :17]
    expected = (log_p / 0.5).softmax(-1).mean(0)
    from di4c_plugin.evaluation.temperature import tempered

    drawn = sample(tempered(model, 0.5), 2000, steps=1)
    found = torch.bincount(drawn.flatten(), minlength=17) / drawn.numel()
    assert (found - expected).abs().max() < 0.01
