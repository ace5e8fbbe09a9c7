"""`nll score`, `trace` and `report` with scores of several traces, live, stored and resumed."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

import nll
from nll.runs import _run
from nll.testing import table_model
from nll.trace import Text

MODEL = ("-m", "testing:bigram")
TEXTS = [f"Text number {i} about cats and dogs and what they do all day long." for i in range(6)]
SPECS = ["predictive_entropy", "semantic_entropy", "lowercase_score", "mean_nll"]
ASK = [part for spec in SPECS for part in ("--score", spec)]
SHORT = ("--n-samples", 3, "--max-new-tokens", 4)


@pytest.fixture
def texts(tmp_path):
    rows = [{"id": f"t{i}", "text": t} for i, t in enumerate(TEXTS)]
    rows.insert(2, {"id": "empty", "text": ""})
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_score_gives_what_the_library_gives(nll_real, texts, tmp_path) -> None:
    ran = nll_real("score", texts, *MODEL, *ASK, *SHORT, "-o", "o.parquet")
    assert (ran.code, ran.out) == (1, "")
    assert "6 texts scored, 1 rejected" in ran.err
    given = [Text(t, id=f"t{i}") for i, t in enumerate(TEXTS)]
    bundles = nll.gather(table_model(), given, SPECS, n_samples=3, max_new_tokens=4)
    assert pq.read_table(tmp_path / "o.parquet").equals(nll.score(bundles, SPECS))
    shown = nll_real("score", texts, *MODEL, *ASK, *SHORT)
    assert shown.code == 1
    assert len(shown.out.splitlines()) == 7


def test_options_of_sampling_reach_the_model(nll_real, texts, tmp_path) -> None:
    def values(*options):
        assert nll_real("score", texts, *MODEL, *ASK, *options, "-o", "o.parquet").code == 1
        return pq.read_table(tmp_path / "o.parquet")["predictive_entropy"].to_pylist()

    plain = values(*SHORT)
    assert values(*SHORT) == plain
    for options in (
        ("--n-samples", 4, "--max-new-tokens", 4),
        ("--n-samples", 3, "--max-new-tokens", 5),
        (*SHORT, "--seed", 1),
        (*SHORT, "--temperature", 0.5),
    ):
        assert values(*options) != plain


def test_stored_bundles_give_further_scores_without_a_model(
    nll_real, texts, tmp_path, monkeypatch
) -> None:
    ask = ("--score", "predictive_entropy", "--score", "lowercase_score")
    assert nll_real("trace", texts, *MODEL, *ask, *SHORT, "-o", "t.parquet").code == 1
    assert nll_real("score", texts, *MODEL, *ASK, *SHORT, "-o", "live.parquet").code == 1
    stored = list(nll.read_bundles(tmp_path / "t.parquet"))
    assert [b.id for b in stored] == [f"t{i}" for i in range(6)]
    assert {len(b.samples.drawn) for b in stored if b.samples} == {3}
    assert {b.trace.top_ids.shape[1] for b in stored if b.trace} == {10}
    monkeypatch.setattr(nll.models, "load", None)
    assert nll_real("score", "t.parquet", *ASK, "-o", "stored.parquet").code == 0
    live, again = (pq.read_table(tmp_path / f"{n}.parquet") for n in ("live", "stored"))
    assert again.equals(live)
    assert nll_real("score", "t.parquet", "--score", "all").code == 0
    assert nll_real("report", "t.parquet", "-o", "r.html").code == 0
    assert ">t5<" in (tmp_path / "r.html").read_text(encoding="utf-8")
    lacking = nll_real("score", "t.parquet", "--score", "npr")
    assert (lacking.code, lacking.out) == (2, "")
    assert "perturbed" in lacking.err


def test_an_interrupted_run_with_samples_ends_with_the_same_bytes(
    nll_real, texts, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(_run.run, "__kwdefaults__", {**_run.run.__kwdefaults__, "shard_rows": 2})
    for command, suffix in (("score", ASK), ("trace", ASK)):
        args = (command, texts, *MODEL, *suffix, *SHORT)
        whole, cut = (tmp_path / f"{command}-{n}.parquet" for n in ("whole", "cut"))
        assert nll_real(*args, "-o", whole).code == 1
        finish = _run.finish_shard
        done = []

        def fail(folder, number, *rest, finish=finish, done=done):
            if number == 2:
                raise OSError(28, "No space left on device")
            done.append(number)
            return finish(folder, number, *rest)

        monkeypatch.setattr(_run, "finish_shard", fail)
        assert nll_real(*args, "-o", cut).code == 1
        assert done == [0, 1]
        assert not cut.exists()
        monkeypatch.setattr(_run, "finish_shard", finish)
        ran = nll_real(*args, "-o", cut)
        assert "4 texts were done before and are reused" in ran.err
        assert whole.read_bytes() == cut.read_bytes()


def test_shards_draw_by_different_numbers(nll_real, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_run.run, "__kwdefaults__", {**_run.run.__kwdefaults__, "shard_rows": 1})
    rows = [{"id": str(i), "text": "The same question"} for i in range(3)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = ("score", "in.jsonl", *MODEL, "--score", "predictive_entropy", *SHORT)
    assert nll_real(*args, "-o", "o.parquet").code == 0
    values = pq.read_table(tmp_path / "o.parquet")["predictive_entropy"].to_pylist()
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("score", "options", "told"),
    [
        ("npr", (), "--perturb spans"),
        ("neighbourhood_score", (), "--neighbours words"),
        ("reference_score", (), "--reference"),
        ("npr", ("--perturb", "t5"), "spans and words, not 't5'"),
        ("predictive_entropy", ("--temperature", "0"), "--temperature must be above 0"),
        ("predictive_entropy", ("--n-samples", "0"), "--n-samples"),
    ],
)
def test_what_is_lacking_is_told_before_a_model_is_opened(
    nll_real, texts, monkeypatch, score, options, told
) -> None:
    monkeypatch.setattr(nll.models, "load", None)
    ran = nll_real("score", texts, "--score", score, *options)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert told in ran.err


def test_variants_and_a_second_model(nll_real, texts, tmp_path) -> None:
    ways = ("--perturb", "spans", "--neighbours", "words", "--copies", 4)
    specs = ["npr", "perturbation_discrepancy", "neighbourhood_score", "reference_score"]
    ask = [part for spec in specs for part in ("--score", spec)]
    two = ("--reference", "testing:bigram")
    assert nll_real("trace", texts, *MODEL, *two, *ways, *ask, "-o", "t.parquet").code == 1
    bundles = list(nll.read_bundles(tmp_path / "t.parquet"))
    assert {(len(b.perturbed), len(b.neighbours)) for b in bundles} == {(4, 4)}
    assert nll_real("score", texts, *MODEL, *two, *ways, *ask, "-o", "o.parquet").code == 1
    assert pq.read_table(tmp_path / "o.parquet").equals(nll.score(bundles, specs))
    assert set(pq.read_table(tmp_path / "o.parquet")["reference_score"].to_pylist()) == {0.0}
