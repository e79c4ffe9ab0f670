"""`metrics=text` inside the real MDLM, Duo and SDTT: our figures beside those of their own code."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stand_ins.real import LENGTH, Done, Lab, run, script_of, together

pytestmark = [pytest.mark.host, pytest.mark.slow]

MEASURE = ["sampler=ancestral", "metrics=text"]


def evaluate(lab: Lab, host: str, out: Path, *overrides: str) -> Done:
    teacher = lab.teacher({"duo": "duo_base"}.get(host, host))
    own = {"duo": ["algo=duo_base"]}.get(host, [])
    common = [*MEASURE, f"metrics.json={out}/report.json", "sampling.num_sample_batches=3"]
    source = f"eval.checkpoint_path={teacher}"
    return lab.run(host, "mode=sample_eval", source, *own, *common, *overrides, out=out)


def figures(out: Path) -> dict[str, Any]:
    (point,) = json.loads((out / "report.json").read_text())["points"]
    return {k: f["value"] for k, f in point["figures"].items()} | {"n": point["n"]}


def perplexity(done: Done) -> float:
    """What MDLM prints."""
    (found,) = re.findall(r"Generative perplexity: tensor\(([\d.]+)", done.out)
    return float(found)


def test_mdlm_and_duo_say_the_same_where_batches_are_full(lab: Lab, tmp_path: Path) -> None:
    """And where they are not, the hosts leave texts out: one of each four here."""
    uneven = "eval.perplexity_batch_size=3"
    mdlm, cut, _, _ = together(
        lambda: evaluate(lab, "mdlm", tmp_path / "mdlm"),
        lambda: evaluate(lab, "mdlm", tmp_path / "cut", uneven),
        lambda: evaluate(lab, "duo", tmp_path / "duo"),
        lambda: evaluate(lab, "duo", tmp_path / "duo_cut", uneven),
    )
    ours = figures(tmp_path / "mdlm")
    assert ours["n"] == 12
    assert ours["gen_ppl"] == pytest.approx(perplexity(mdlm), rel=1e-4)
    assert figures(tmp_path / "cut") == ours
    assert perplexity(cut) != pytest.approx(ours["gen_ppl"], rel=1e-3)
    assert len(mdlm.reports) == 3
    line = r"di4c: 12 samples, 4 steps: gen_ppl [\d.]+ ±[\d.]+, entropy .*; 4 network calls and "
    assert re.search(line, mdlm.err)

    samples = {
        k: json.loads((tmp_path / k / "samples.json").read_text()) for k in ("duo", "duo_cut")
    }
    ours = figures(tmp_path / "duo")
    assert ours["gen_ppl"] == pytest.approx(samples["duo"]["generative_ppl"], rel=1e-4)
    assert ours["entropy"] == pytest.approx(samples["duo"]["entropy"], rel=1e-4)
    assert figures(tmp_path / "duo_cut") == ours
    assert samples["duo_cut"]["generative_ppl"] != pytest.approx(ours["gen_ppl"], rel=1e-3)


@pytest.mark.parametrize("host", ["mdlm", "duo"])
def test_the_command_repeats_a_report_of_a_host(host: str, lab: Lab, tmp_path: Path) -> None:
    """The networks are the host's and ours: the same samples, figures to rounding."""
    evaluate(lab, host, tmp_path, f"metrics.reference={lab.text}/held_out.txt")
    command = [script_of("di4c"), "evaluate", "--repeat", "report.json"]
    done = run(command, tmp_path, {"PYTHONPATH": lab.paths({})})
    assert done.code == 0, done.out + done.err
    verdicts = [line.split("\t")[-1] for line in done.out.splitlines()[-3:-1]]
    assert set(verdicts) <= {"equal", "agrees"}
    before, now = (
        [float(line.split("\t")[k]) for line in done.out.splitlines()[-3:-1]] for k in (5, 6)
    )
    assert now == pytest.approx(before, rel=1e-4)
    assert " was " not in done.out


def test_an_evaluation_that_was_cut_short_goes_on(lab: Lab, tmp_path: Path) -> None:
    """The first batch was kept: it is not drawn again, and all is as in one go."""
    kept = f"metrics.shards={tmp_path}/kept"
    evaluate(lab, "mdlm", tmp_path / "first", kept, "sampling.num_sample_batches=1")
    (shard,) = (tmp_path / "kept").rglob("*.npz")
    written = shard.stat().st_mtime_ns
    together(
        lambda: evaluate(lab, "mdlm", tmp_path / "rest", kept),
        lambda: evaluate(lab, "mdlm", tmp_path / "whole"),
    )
    assert shard.stat().st_mtime_ns == written
    assert len([*(tmp_path / "kept").rglob("*.npz")]) == 3
    assert figures(tmp_path / "rest") == figures(tmp_path / "whole")


def test_long_texts_are_measured_whole(lab: Lab, tmp_path: Path) -> None:
    strided = ["sampling.semi_ar=true", "sampling.stride_length=4", "sampling.num_strides=2"]
    reference = f"metrics.reference={lab.text}/held_out.txt"
    names = "metrics.names=[entropy,bits,distinct_n]"
    evaluate(lab, "mdlm", tmp_path / "out", *strided, names, reference)
    report = json.loads((tmp_path / "out/report.json").read_text())
    (point,) = report["points"]
    assert point["n"] == 12
    assert point["cost"]["network_calls"] == 3 * 4
    assert {"entropy", "bits", "distinct_1"} <= point["figures"].keys()
    assert report["reference"]["name"] == f"{lab.text}/held_out.txt"


def sample(lab: Lab, out: Path, *overrides: str) -> Done:
    numbers = {"run": "true", "num_samples": 4, "batch_size": 2, "num_steps": 4, "seq_len": LENGTH}
    own = [f"parameterization.sampling.uncond.{key}={value}" for key, value in numbers.items()]
    source = f"checkpointing.resume_ckpt_path={lab.teacher('sdtt')}"
    scorer = f"eval.ppl_with_ar.model={lab.text}/gpt2"
    report = f"metrics.json={out}/report.json"
    return lab.run(
        "sdtt", "mode=sample", source, scorer, *own, *MEASURE, report, *overrides, out=out
    )


def test_sdtt_says_the_same_of_tokens_in_one_and_in_two_processes(lab: Lab, tmp_path: Path) -> None:
    """Its own evaluation scores tokens as they were drawn, and counts all of them."""
    as_there = ["metrics.tokenizer=null", "metrics.after_end=keep"]
    one, two = tmp_path / "one", tmp_path / "two"
    sample(lab, one, *as_there)
    sample(lab, two, *as_there, "trainer.devices=2")
    (first,), (second,) = ([*(out / "samples").rglob("*.npz")] for out in (one, two))
    drawn = [np.load(file, allow_pickle=True)["samples"] for file in (first, second)]
    assert len({tuple(row) for row in drawn[0].tolist()}) == 4
    assert (drawn[0] == drawn[1]).all()
    assert figures(one) == figures(two)
    scorer = f"eval.ppl_with_ar.model={lab.text}/gpt2"
    lab.run("sdtt", "mode=eval", scorer, out=one)
    (file,) = one.rglob("*.csv")
    (row,) = csv.DictReader(file.open())
    assert figures(one)["gen_ppl"] == pytest.approx(float(row["ar_ppl"]), rel=1e-4)


def test_mistakes_are_one_line_before_anything_is_drawn(lab: Lab, tmp_path: Path) -> None:
    def mistake(out: str, *overrides: str) -> Done:
        source = f"eval.checkpoint_path={lab.teacher('mdlm')}"
        given = ["mode=sample_eval", source, *overrides]
        return lab.run("mdlm", *given, out=tmp_path / out, code=2)

    unknown, missing, alone, training = together(
        lambda: mistake("0", *MEASURE, "metrics.names=[gen_pl]"),
        lambda: mistake("1", *MEASURE, "metrics.names=[bits]"),
        lambda: mistake("2", "metrics=text"),
        lambda: mistake("3", *MEASURE, "mode=train", "algo=di4c", "teacher=x"),
    )
    for done, start in (
        (unknown, "unknown metric 'gen_pl'"),
        (missing, "bits compares with real text: metrics.reference FILE"),
        (alone, "metrics=… measures what our samplers draw: add sampler=…"),
        (training, "metrics=… is for evaluation"),
    ):
        (line,) = done.errors
        assert line.startswith(start)
        assert not done.reports
        assert "Traceback" not in done.err


def test_the_command_measures_a_checkpoint_of_characters(lab: Lab, tmp_path: Path) -> None:
    files = {"--scorer": "gpt2", "--tokenizer": "tokenizer", "--reference": "held_out.txt"}
    own = [each for flag, name in files.items() for each in (flag, f"{lab.text}/{name}")]
    own += [
        "--steps",
        "2",
        "--samples",
        "8",
        "--metric",
        "gen_ppl,entropy,bits",
        "--json",
        "r.json",
    ]
    command = [script_of("di4c"), "evaluate", str(lab.teacher("duo_base")), *own]
    done = run(command, tmp_path, {"PYTHONPATH": lab.paths({})})
    assert done.code == 0, done.err
    (point,) = json.loads((tmp_path / "r.json").read_text())["points"]
    found = {name: figure["value"] for name, figure in point["figures"].items()}
    assert 0 < found["entropy"] < 3
    assert found["gen_ppl"] > 1
    assert found["bits"] > 0
