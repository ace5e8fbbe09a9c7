"""Score tables: columns, reasons, planning errors, streaming."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll._bundle import Bundle, Samples
from nll._declare import requests
from nll._table import fields_for, score_batches, score_schema
from nll.testing import trace_from_logits, traces
from nll.trace import Fields, Trace

LOGITS = np.random.default_rng(3).normal(size=(8, 30)) * 4
TRACE = trace_from_logits(LOGITS, range(8), top_k=15, id="a")
EMPTY = trace_from_logits(np.empty((0, 30)), [], top_k=15, id="b")


def reasons(table, row=0):
    line = table["undefined"][row].as_py()
    return json.loads(line) if line else {}


def test_one_row_per_text_one_column_per_score():
    table = nll.score([TRACE, EMPTY], ["min_k_prob", "lrr", "min_k_prob(k=0.5)"])
    assert table.column_names == [
        "id", "tokens", "min_k_prob", "lrr", "min_k_prob(k=0.5)", "undefined",
    ]  # fmt: skip
    assert table["id"].to_pylist() == ["a", "b"]
    assert table["tokens"].to_pylist() == [8, 0]
    assert table.schema.field("tokens").type == pa.int32()
    assert table["min_k_prob(k=0.5)"][0].as_py() == nll.scores.min_k_prob(TRACE, k=0.5)
    assert math.isnan(table["lrr"][1].as_py())
    assert table["lrr"].null_count == 0
    assert table["undefined"][0].as_py() is None
    assert reasons(table, 1) == dict.fromkeys(
        ("min_k_prob", "lrr", "min_k_prob(k=0.5)"), "no token was scored"
    )
    assert len(table.to_pandas()) == 2


def test_a_trace_a_name_and_a_function_will_do():
    by_name = nll.score(TRACE, "lrr")
    assert by_name.equals(nll.score([TRACE], [nll.scores.lrr]))
    assert by_name.equals(nll.score(iter([TRACE]), nll.scores.lrr))


def test_scores_of_tokens_and_words_are_lists():
    table = nll.score([TRACE, EMPTY], ["surprisal", "word_surprisal(base='bits')"])
    assert table.schema.field("surprisal").type == pa.list_(pa.float64())
    np.testing.assert_array_equal(table["surprisal"][0].as_py(), TRACE.nll)
    np.testing.assert_allclose(
        table["word_surprisal(base='bits')"][0].as_py(), TRACE.nll / np.log(2)
    )
    assert table["surprisal"][1].as_py() == []
    assert set(reasons(table, 1)) == {"surprisal", "word_surprisal(base='bits')"}


def test_unscored_tokens_are_nan_in_lists_and_not_null():
    logits = LOGITS.copy()
    logits[0] = np.nan
    column = nll.score(trace_from_logits(logits, range(8)), "surprisal")["surprisal"][0]
    assert math.isnan(column.as_py()[0])
    assert column.values.null_count == 0


def test_metadata_explains_each_column():
    schema = nll.score([TRACE], ["min_k_prob(k=0.5)", "surprisal"]).schema
    told = json.loads(schema.field("min_k_prob(k=0.5)").metadata[b"nll"])
    declared = nll.declarations()["min_k_prob"]
    assert told == {
        "name": "min_k_prob",
        "parameters": {"k": 0.5},
        "higher_means": "member",
        "unit": "nats",
        "range": [None, 0.0],
        "paper": "2310.16789",
        "question": "membership",
        "summary": declared.summary,
        "shape": "text",
    }
    assert json.loads(schema.field("surprisal").metadata[b"nll"])["shape"] == "token"


def test_all_is_every_text_score_that_one_plain_trace_gives():
    table = nll.score([TRACE], "all")
    names = set(table.column_names) - {"id", "tokens", "undefined"}
    alone = {
        n
        for n, d in nll.declarations().items()
        if d.shape == "text" and d.takes == ("trace",) and not d.required
    }
    experimental = {n for n, d in nll.declarations().items() if d.experimental}
    assert "instability_strength" in alone & experimental
    assert names == alone - experimental - {"binoculars"}
    assert {"mean_nll", "lrr"} <= names - set(reasons(table))
    assert "not decoded greedily" in reasons(table)["g_nll"]
    assert table.column_names[2:4] == ["mean_nll", "perplexity"]
    order = [nll.declarations()[n].question for n in table.column_names[4:-1]]
    assert list(dict.fromkeys(order)) == ["uncertainty", "membership", "machine_text", "ood",
                                          "selection"]  # fmt: skip


def test_all_leaves_undefined_what_a_trace_cannot_give():
    bare = Trace(logp=[-1.0, -2.0], text="ab")
    table = nll.score([bare], "all")
    assert table["mean_nll"][0].as_py() == 1.5
    told = reasons(table)
    assert "entropy" in told["mean_entropy"]
    assert "kl_uniform=True" in told["self_certainty"]
    assert "top_k" in told["top_k_negentropy"]
    with pytest.raises(nll.MissingField, match="mean_entropy"):
        nll.score([bare], ["all", "mean_entropy"])


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("mean_entropy", "score 'mean_entropy'.*entropy"),
        ("self_certainty", "kl_uniform=True"),
        ("top_k_negentropy", "top_k"),
        ("surprisal(temperature=2.5)", r"betas"),
        ("word_surprisal(boundary='corrected')", "boundary=True"),
        ("fast_detect_gpt(reference=True)", "entropy"),
    ],
)
def test_a_named_score_without_its_field_stops_before_the_first_row(spec, match):
    bare = Trace(logp=[-1.0, -2.0], spans=[[0, 1], [1, 2]], text="ab")
    with pytest.raises(nll.MissingField, match=match):
        next(score_batches([bare], requests(spec)))
    if not spec.startswith("word"):
        empty = Trace(logp=[], text="")
        with pytest.raises(nll.MissingField, match=match):
            next(score_batches([empty], requests(spec)))


def test_a_later_trace_without_the_field_is_a_reason_not_the_end():
    later = dataclasses.replace(TRACE, entropy=None)
    table = nll.score([TRACE, later, TRACE], "mean_entropy")
    assert np.isnan(table["mean_entropy"].to_numpy()).tolist() == [False, True, False]
    assert "no entropy" in reasons(table, 1)["mean_entropy"]


def test_a_row_that_a_score_refuses_is_a_reason():
    crossing = trace_from_logits(LOGITS[:2], [0, 1], text="a b c", spans=[[0, 3], [3, 5]])
    for rows in ([TRACE, crossing], [crossing, TRACE]):
        table = nll.score(rows, ["word_surprisal", "mean_nll"])
        at = [r is crossing for r in rows].index(True)
        assert table["word_surprisal"][at].as_py() == []
        assert "spans two words" in reasons(table, at)["word_surprisal"]
        assert not np.isnan(table["mean_nll"].to_numpy()).any()


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("min_k_prob(k=7)", r"score 'min_k_prob\(k=7\)'.*share"),
        ("surprisal(temperature=0)", "temperature"),
        ("renyi_entropy(order=-1)", "order"),
        ("surprisal(base='bans')", "base"),
        ("gltr_fraction(cut=0)", "cut"),
        ("top_k_negentropy(k=1)", "k is"),
        ("top_k_negentropy(k=1e999)", "k is"),
        ("top_k_negentropy(reduce='max')", "reduce"),
        ("word_surprisal(boundary='x')", "boundary"),
        ("surp(max_entropy=1e999-1e999)", "cannot read"),
    ],
)
def test_impossible_options_are_told_before_any_trace_is_read(spec, match):
    with pytest.raises(nll.BadInput, match=match):
        score_schema(requests(spec))
    with pytest.raises(nll.BadInput, match=match):
        nll.score([], spec)


def test_every_declared_score_passes_its_option_check():
    frequent = partial(nll.scores.dc_pdd, token_freq=np.full(30, 1 / 30))
    wanted = requests([frequent, *(n for n, d in nll.declarations().items() if not d.required)])
    assert len(score_schema(wanted)) == len(wanted) + 3


def test_no_traces_make_an_empty_table_with_the_columns():
    table = nll.score([], ["lrr"])
    assert table.num_rows == 0
    assert table.column_names == ["id", "tokens", "lrr", "undefined"]


def test_fields_are_the_union_of_what_scores_need():
    assert fields_for(requests(["mean_nll", "lrr"])) == Fields()
    two = requests(["top_k_negentropy", "self_certainty"])
    assert fields_for(two) == Fields(top_k=15, kl_uniform=True)
    assert fields_for(requests("all")) | fields_for(two) == fields_for(requests("all"))
    many = requests(["surprisal(temperature=2)", "renyi_entropy", "probability_margin"])
    assert fields_for(many) == Fields(top_k=2, betas=(0.5, 2.0))


def test_batches_stream():
    read = []

    def source():
        for i in range(7):
            read.append(i)
            yield dataclasses.replace(TRACE, id=str(i))

    batches = score_batches(source(), requests("lrr"), batch_size=3)
    assert not read
    assert next(batches).num_rows == 3
    assert len(read) == 3
    assert [b.num_rows for b in batches] == [3, 1]


def test_a_plain_nan_of_an_outside_score_still_gets_a_reason(monkeypatch):
    from nll import _declare

    monkeypatch.setattr(_declare, "_registry", dict(_declare._registry))

    @nll.declare_score(
        higher_means="x", reads=("logp",), unit="1", range=(0, 1), paper="none", question="test"
    )
    def careless(trace: Trace) -> float:
        """Always nan."""
        return math.nan

    table = nll.score([TRACE], careless)
    assert "without a reason" in reasons(table)["careless"]


def test_an_outside_score_that_fails_on_one_text_does_not_end_the_run(monkeypatch):
    from nll import _declare

    monkeypatch.setattr(_declare, "_registry", dict(_declare._registry))

    @nll.declare_score(
        higher_means="x", reads=("logp",), unit="1", range=(-9, 0), paper="none", question="test"
    )
    def fragile(trace: Trace) -> float:
        """Smallest log-probability, of texts that have one."""
        return float(trace.values("logp").min())

    table = nll.score([EMPTY, TRACE], fragile)
    assert reasons(table, 0)["fragile"].startswith("ValueError: zero-size array")
    assert table["fragile"][1].as_py() == TRACE.logp.min()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(traces(top_k=8), max_size=5), size=st.integers(1, 3))
def test_every_nan_has_a_reason_and_batches_change_nothing(rows, size):
    wanted = requests(["all", "fast_detect_gpt(reference=True)", "binoculars"])
    batches = score_batches(rows, wanted, size)
    table = pa.Table.from_batches(batches, schema=score_schema(wanted))
    assert table.equals(nll.score(rows, wanted)) or table.num_rows
    for row, values in enumerate(table.to_pylist()):
        told = reasons(table, row)
        undefined = {r.label for r in wanted if math.isnan(values[r.label])}
        assert set(told) == undefined
        assert all(told.values())
        for request in wanted:
            np.testing.assert_array_equal(values[request.label], request(rows[row]))


LOWER = dataclasses.replace(TRACE, logp=TRACE.logp * 2)


def test_a_bundle_gives_each_score_what_it_takes():
    bundle = Bundle(trace=TRACE, reference=LOWER, lower=LOWER, perturbed=(LOWER, TRACE))
    wanted = ["mean_nll", "reference_score", "likelihood_ratio(normalise=True)", "lowercase_score",
              "perturbation_discrepancy"]  # fmt: skip
    table = nll.score(bundle, wanted)
    assert table["id"].to_pylist() == ["a"]
    assert table["tokens"].to_pylist() == [8]
    values = table.to_pylist()[0]
    mean = TRACE.logp.mean()
    assert values["mean_nll"] == pytest.approx(-mean)
    assert values["reference_score"] == pytest.approx(-mean)
    assert values["likelihood_ratio(normalise=True)"] == pytest.approx(-mean)
    assert values["lowercase_score"] == pytest.approx(2)
    assert values["perturbation_discrepancy"] == pytest.approx(1)
    assert values["undefined"] is None
    assert table.equals(nll.score([bundle], wanted))


def test_traces_and_bundles_may_stand_in_one_table():
    table = nll.score([TRACE, Bundle(trace=TRACE)], "mean_nll")
    assert table["mean_nll"][0] == table["mean_nll"][1]


def test_samples_alone_have_no_tokens_of_a_text():
    table = nll.score([Bundle(samples=Samples([TRACE], id="q")), Bundle(trace=TRACE)], ["all"])
    assert table["id"].to_pylist() == ["q", "a"]
    assert table["tokens"].to_pylist() == [None, 8]
    assert "there is no 'trace'" in reasons(table)["mean_nll"]


def test_a_named_score_without_its_traces_stops_before_the_first_row():
    for row in (TRACE, Bundle(trace=TRACE)):
        with pytest.raises(nll.MissingField, match=r"'reference_score'.*'reference'.*nll\.gather"):
            nll.score(row, "reference_score")
    bare = Bundle(trace=TRACE, perturbed=[dataclasses.replace(TRACE, rank=None)])
    with pytest.raises(nll.MissingField, match=r"npr.*rank"):
        nll.score(bare, "npr")


def test_what_one_text_could_not_give_is_its_reason():
    short = Bundle(trace=TRACE, missing={"perturbed": "the text has 3 words"})
    whole = Bundle(trace=TRACE, perturbed=(LOWER,))
    for rows in ([short, whole], [whole, short]):
        table = nll.score(rows, ["perturbation_discrepancy", "mean_nll"])
        at = rows.index(short)
        assert "3 words" in reasons(table, at)["perturbation_discrepancy"]
        assert reasons(table, 1 - at) == {}


def test_options_that_are_tables_stand_in_the_metadata_by_kind():
    frequent = partial(nll.scores.dc_pdd, token_freq=np.full(30, 1 / 30), cap=0.5)
    field = nll.score(TRACE, frequent).schema.field("dc_pdd")
    told = json.loads(field.metadata[b"nll"])["parameters"]
    assert told == {"token_freq": "<ndarray>", "cap": 0.5}
