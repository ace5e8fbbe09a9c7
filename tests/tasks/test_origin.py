"""Membership and machine text as tasks: values are those of the scores, evidence of the metrics."""

from __future__ import annotations

import numpy as np
import pytest

import nll
import nll.testing
from nll import metrics, scores
from nll.tasks import detect_machine_text, membership, ood_detect
from nll.trace import Fields

MODEL = nll.testing.table_model()
OTHER = nll.testing.table_model(nll.testing.bigram_table(seed=5))


def drawn(n: int, model=MODEL, length: int = 80) -> list[str]:
    """Texts that the model wrote, at temperature 1."""
    found = model.generate(["a"] * n, max_new_tokens=length, temperature=1.0, seed=3)
    return ["a" + row[0].scored_text for row in found]


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[int]]:
    own, foreign = drawn(12), drawn(12, OTHER)
    keep = [t for t in own if len(t) > 5][:8] + [t for t in foreign if len(t) > 5][:8]
    half = len([t for t in own if len(t) > 5][:8])
    return keep, [1] * half + [0] * (len(keep) - half)


def test_membership_is_the_scores_and_their_evidence(texts) -> None:
    held, labels = texts
    found = membership(held, labels, model=MODEL, reference=OTHER, k=0.3)
    traces = list(MODEL.trace(held, fields=Fields()))
    assert found.scores["min_k_prob"] == pytest.approx(
        [scores.min_k_prob(t, k=0.3) for t in traces]
    )
    other = list(OTHER.trace(held, fields=Fields()))
    want = [scores.reference_score(a, b) for a, b in zip(traces, other, strict=True)]
    assert found.scores["reference_score"] == pytest.approx(want)
    at = {e.name: e for e in found.evidence}
    assert at["loss_score"].auroc.value == metrics.auroc(labels, found.scores["loss_score"])
    assert at["reference_score"].auroc.value > 0.9, "each text was drawn from one of the two"
    assert [e.baseline for e in found.evidence[-2:]] == [True, True]
    assert at["bag of words"].auroc == metrics.blind_baseline(held, labels).auroc
    known = [e.auroc.value for e in found.evidence[:-2] if not np.isnan(e.auroc.value)]
    assert known == sorted(known, reverse=True)
    assert "no value proves" in found.limits


def test_machine_text_with_a_second_model_and_perturbations(texts) -> None:
    held, labels = texts
    plain = detect_machine_text(held, labels, model=MODEL)
    assert not {"binoculars", "npr"} & set(plain.scores)
    assert plain.scores["lrr"] == pytest.approx(
        [scores.lrr(t) for t in MODEL.trace(held, fields=Fields())]
    )
    both = detect_machine_text(held, labels, model=MODEL, reference=OTHER)
    traces = list(MODEL.trace(held, fields=Fields(), reference=OTHER))
    assert both.scores["binoculars"] == pytest.approx([scores.binoculars(t) for t in traces])
    at = {e.name: e.auroc.value for e in both.evidence}
    lower = metrics.auroc(labels, -both.scores["binoculars"])
    assert at["binoculars"] == lower > 0.8, "lower means machine"
    words = [" ".join(["some words of a text"] * 6), " ".join(["and another text here"] * 6)]
    filler = scores.unigram_filler(MODEL.trace(words, fields=Fields()))
    changed = detect_machine_text(words, model=MODEL, filler=filler, perturbations=3)
    assert np.isfinite(changed.scores["npr"]).all()
    assert np.isfinite(changed.scores["perturbation_discrepancy"]).all()
    assert changed.evidence == []


def test_foreign_texts_are_told_by_the_ratio_and_a_threshold_of_familiar_ones() -> None:
    own, other = [t for t in drawn(14) if len(t) > 20], [t for t in drawn(14, OTHER) if len(t) > 20]
    held, labels = own[:6] + other[:6], [0] * 6 + [1] * 6
    found = ood_detect(held, labels, model=MODEL, reference=OTHER, familiar=own[6:], fpr=0.2)
    tuned, before = (list(m.trace(held, fields=Fields())) for m in (MODEL, OTHER))
    sums = [[t.logp[1:].sum(dtype=float) for t in traces] for traces in (before, tuned)]
    np.testing.assert_allclose(found.scores["likelihood_ratio"], np.subtract(*sums), rtol=1e-5)
    tokens = np.array([len(t) - 1 for t in held])
    np.testing.assert_allclose(
        found.scores["likelihood_ratio(normalise=True)"], np.subtract(*sums) / tokens, rtol=1e-5
    )
    np.testing.assert_allclose(found.scores["negative_likelihood"], -np.array(sums[1]), rtol=1e-5)
    at = {e.name: e for e in found.evidence}
    assert at["likelihood_ratio"].auroc.value == 1.0, "each text was drawn from one of the two"
    assert at["likelihood_ratio"].fpr_at_tpr_95 == 0.0
    assert found.threshold is not None
    assert found.threshold.flags(found.scores["likelihood_ratio"][6:]).all()
    same = ood_detect(held, labels, model=MODEL, reference=MODEL)
    assert (same.scores["likelihood_ratio"] == 0).all()
    assert {e.name: e for e in same.evidence}["likelihood_ratio"].auroc.value == 0.5
    assert same.threshold is None


def test_evidence_is_that_of_the_metrics(texts) -> None:
    held, labels = texts
    found = membership(held, labels, model=MODEL)
    s = found.scores["zlib_score"]
    (row,) = [e for e in found.evidence if e.name == "zlib_score"]
    assert row.tpr_5.value == row.tpr_at_fpr_5 == metrics.tpr_at_fpr(labels, s, 0.05)
    assert row.tpr_1.value == metrics.tpr_at_fpr(labels, s, 0.01)
    assert 0 <= row.tpr_5.low <= row.tpr_5.value <= row.tpr_5.high <= 1
    assert row.aupr == metrics.aupr(labels, s)
    assert row.aupr_other == metrics.aupr(1 - np.array(labels), -s)
    assert row.fpr_at_tpr_95 == metrics.fpr_at_tpr(labels, s)
    words = found.evidence[-1]
    assert words.tpr_5.value == metrics.blind_baseline(held, labels).tpr_at_fpr_5


def test_a_score_that_is_undefined_for_every_text_is_no_end() -> None:
    found = membership(["a", "b", "c", "d"], [1, 0, 1, 0], model=MODEL)
    (row,) = [e for e in found.evidence if e.name == "loss_score"]
    assert row.n == 0
    assert row.auroc.value != row.auroc.value


def test_the_same_texts_give_the_same_result(texts) -> None:
    held, labels = texts
    first, again = (membership(held, labels, model=MODEL, seed=4) for _ in range(2))
    assert first.evidence == again.evidence
    reversed_ = membership(held[::-1], labels[::-1], model=MODEL, seed=4)
    for name, values in first.scores.items():
        np.testing.assert_allclose(reversed_.scores[name][::-1], values, atol=1e-6)


def test_the_embedded_model_is_the_default(texts, monkeypatch) -> None:
    monkeypatch.setattr(nll.models, "load", lambda: MODEL)
    assert membership(texts[0]).evidence == []
    assert detect_machine_text(texts[0]).evidence == []


@pytest.mark.parametrize("task", [membership, detect_machine_text])
def test_wrong_uses(task) -> None:
    with pytest.raises(nll.BadInput, match="several texts"):
        task("one text", model=MODEL)
    with pytest.raises(nll.BadInput, match="several texts"):
        task([], model=MODEL)
    with pytest.raises(nll.BadInput, match="as many labels"):
        task(["a b", "c d"], [1], model=MODEL)
    with pytest.raises(nll.BadInput, match="0 or 1"):
        task(["a b", "c d"], [1, 2], model=MODEL)
