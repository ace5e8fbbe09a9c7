"""`nll uncertainty`, `membership`, `detect`, `ood` on an exact model: what they compute and say."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nll
from nll.cli._questions import _of_empty_answers
from nll.testing import bigram_table, table_model
from nll.trace import Text

MODEL = ("-m", "testing:bigram")
RATIO = "likelihood_ratio(finetuned='trace')"
WORDS = "the quick brown fox jumps over lazy dog and then sleeps under an old tree"


def write(path, rows) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def labelled(tmp_path):
    """Texts of words (member, human, right) and of rare letters, of about the same length."""
    draw = random.Random(0)
    rows = []
    for i in range(24):
        words = [draw.choice(WORDS.split()) for _ in range(16)]
        if i % 2:
            words = ["".join(draw.choice("xqzjkv") for _ in w) for w in words]
        rows.append({"id": f"t{i}", "text": " ".join(words), "label": 1 - i % 2,
                     "who": ["human", "ai"][i % 2], "kind": ["seen", "unseen"][i % 2],
                     "correct": i % 2 == 0})  # fmt: skip
    write(tmp_path / "texts.jsonl", rows)
    return rows


def test_each_question_has_its_scores_and_says_its_limits(nll_real, labelled, tmp_path) -> None:
    expected = {
        "membership": ("min_k_plus_plus", "no proof that a text was trained on"),
        "detect": ("fast_detect_gpt", "never proof that a person used a machine"),
        "ood": ("negative_likelihood", "nothing of right or wrong; without --reference"),
        "uncertainty": ("perplexity", "a model can be sure and wrong"),
    }
    for command, (score, limit) in expected.items():
        extra = ["--max-new-tokens", 4] if command == "uncertainty" else []
        ran = nll_real(command, "texts.jsonl", *MODEL, *extra, "-o", f"{command}.parquet")
        assert ran.code == 0, ran.err
        assert ran.out.split()[:2] == ["id", "tokens"]
        assert ran.err.startswith(f"nll: 24 texts scored; wrote {command}.parquet\nnll: by ")
        assert limit in ran.err
        assert "--fit FILE" in ran.err
        table = pq.read_table(tmp_path / f"{command}.parquet")
        assert score in table.column_names
        assert table["id"].to_pylist() == [r["id"] for r in labelled]


def test_scores_are_those_of_the_library(nll_real, labelled, tmp_path) -> None:
    assert nll_real("membership", "texts.jsonl", *MODEL, "-o", "m.parquet").code == 0
    table = pq.read_table(tmp_path / "m.parquet")
    names = [n for n in table.column_names if n not in ("id", "tokens", "undefined")]
    texts = [Text(r["text"], id=r["id"]) for r in labelled]
    assert table.equals(nll.score(nll.gather(table_model(), texts, names), names))


def test_what_is_there_brings_more_scores(nll_real, labelled, tmp_path) -> None:
    two = ("--reference", "testing:bigram")
    cases = [
        (("membership", "--neighbours", "words", "--copies", 2), {"neighbourhood_score"}),
        (("membership", *two), {"reference_score"}),
        (("detect", "--perturb", "spans", "--copies", 2), {"npr", "perturbation_discrepancy"}),
        (("detect", *two), {"binoculars", "fast_detect_gpt(reference=True)"}),
        (("ood", *two), {RATIO, "likelihood_ratio(finetuned='trace', normalise=True)"}),
    ]
    for (command, *options), more in cases:
        assert nll_real(command, "texts.jsonl", *MODEL, "-o", "plain.parquet").code == 0
        ran = nll_real(command, "texts.jsonl", *MODEL, *options, "-o", "more.parquet")
        assert ran.code == 0, ran.err
        assert "without --reference" not in ran.err or "--reference" not in options
        plain, table = (pq.read_table(tmp_path / f"{n}.parquet") for n in ("plain", "more"))
        assert set(table.column_names) - set(plain.column_names) == more
        assert (
            table.select(plain.column_names)
            .drop_columns(["undefined"])
            .equals(plain.drop_columns(["undefined"]))
        )


def test_a_text_that_the_tuned_model_knows_better_than_its_base_is_not_foreign(
    nll_real, labelled, tmp_path, monkeypatch
) -> None:
    """The model asked about is the tuned one, --reference the one before tuning."""
    tuned, base = table_model(), table_model(np.zeros_like(bigram_table()))
    monkeypatch.setattr(nll.models, "load", lambda name, **_: {"t": tuned, "b": base}[name])
    ran = nll_real("ood", "texts.jsonl", "-m", "t", "--reference", "b", "-o", "o.parquet")
    assert ran.code == 0, ran.err
    texts = [r["text"] for r in labelled]
    sums = [[nll.scores.sequence_nll(t) for t in m.trace(texts)] for m in (tuned, base)]
    found = pq.read_table(tmp_path / "o.parquet")[RATIO].to_pylist()
    np.testing.assert_allclose(found, np.subtract(*sums), rtol=1e-6)
    assert np.mean(found[1::2]) > np.mean(found[::2]) + 10  # rare letters are foreign


def auroc(out: str, name: str) -> float:
    """The AUROC of a score in the table of the evaluation."""
    row = next(line.split() for line in reversed(out.splitlines()) if line.startswith(name))
    return next(float(cell) for cell in row if cell.count(".") == 1 and cell[0] in "01")


def test_labels_count_from_whichever_side_they_speak(nll_real, labelled) -> None:
    told = [
        auroc(nll_real("membership", "texts.jsonl", *MODEL, *label).out, "min_k_prob")
        for label in (
            ("--label", "label"),
            ("--label", "kind"),
            ("--label", "kind", "--positive", "seen"),
            ("--label", "kind", "--positive", "unseen"),
        )
    ]
    assert told == [told[0]] * 4
    machine = nll_real("detect", "texts.jsonl", *MODEL, "--label", "who")
    human = nll_real("detect", "texts.jsonl", *MODEL, "--label", "who", "--positive", "human")
    assert auroc(machine.out, "lrr") == auroc(human.out, "lrr")
    flipped = nll_real("detect", "texts.jsonl", *MODEL, "--label", "label")
    assert auroc(machine.out, "log_likelihood") == pytest.approx(
        1 - auroc(flipped.out, "log_likelihood"), abs=2e-3
    )
    assert "words alone reach 1.00 without any model" in machine.err


def test_a_column_called_correct_means_that_ones_are_not_uncertain(nll_real, tmp_path) -> None:
    rows = [
        {"id": str(i), "prompt": "What? ", "completion": word, "correct": good}
        for i, (word, good) in enumerate([("the fox", 1), ("then", 1), ("zqx", 0), ("xjqz", 0)])
    ]
    write(tmp_path / "in.jsonl", rows)
    ran = nll_real("uncertainty", "in.jsonl", *MODEL, "--label", "correct", "-o", "o.parquet")
    assert ran.code == 0, ran.err
    names = pq.read_table(tmp_path / "o.parquet").column_names
    assert {"sequence_nll", "pointwise_mutual_information"} <= set(names)
    assert not {"g_nll", "answer", "cocoa"} & set(names)
    values = pq.read_table(tmp_path / "o.parquet")["perplexity"].to_pylist()
    wins = sum(bad > good for bad in values[2:] for good in values[:2]) / 4
    assert auroc(ran.out, "perplexity") == pytest.approx(wins, abs=1e-3)


def test_questions_are_answered_greedily_and_by_draws(nll_real, tmp_path) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    write(
        tmp_path / "in.jsonl",
        [{"id": "a", "question": "What is it?"}, {"id": "b", "question": "And now?"}],
    )
    args = ("uncertainty", "in.jsonl", *MODEL, "--n-samples", 3, "--max-new-tokens", 5)
    ran = nll_real(*args, "-o", "o.parquet")
    assert ran.code == 0, ran.err
    table = pq.read_table(tmp_path / "o.parquet")
    model = table_model()
    prompts = ["What is it?", "And now?"]
    greedy = [next(iter(model.generate([p], max_new_tokens=5)))[0] for p in prompts]
    assert table["answer"].to_pylist() == [t.scored_text.strip() for t in greedy]
    assert table["tokens"].to_pylist() == [t.n_scored for t in greedy]
    assert table["g_nll"].to_pylist() == nll.score(greedy, "g_nll")["g_nll"].to_pylist()
    specs = ["semantic_entropy", "cocoa"]
    drawn = nll.gather(model, prompts, specs, n_samples=3, max_new_tokens=5)
    assert table.select(specs).equals(nll.score(drawn, specs).select(specs))
    assert not {"semantic_entropy", "cocoa"} & set(
        nll_real(*args[:4], "--max-new-tokens", 5).out.split()
    )
    write(tmp_path / "chat.jsonl", [{"messages": chat}])
    no_template = nll_real("uncertainty", "chat.jsonl", *MODEL)
    assert no_template.code == 2
    write(tmp_path / "in.jsonl", [{"prompt": "What? ", "completion": "the", "id": "g"}])
    own = nll_real("uncertainty", "in.jsonl", *MODEL, "--own", "--max-new-tokens", 5)
    assert "answer" in own.out.split("\n")[0]
    assert "answer" not in nll_real("uncertainty", "in.jsonl", *MODEL).out.split("\n")[0]


def test_threshold_of_ones_own_texts(nll_real, labelled, tmp_path) -> None:
    fit = ("--fit", "texts.jsonl", "--fpr", "0.25")
    ran = nll_real("membership", "texts.jsonl", *MODEL, *fit, "-o", "m.parquet")
    assert ran.code == 0, ran.err
    table = pq.read_table(tmp_path / "m.parquet")
    values = dict(zip(table["id"].to_pylist(), table["min_k_plus_plus"].to_pylist(), strict=True))
    negatives = sorted(values[r["id"]] for r in labelled if not r["label"])
    cut = negatives[-4]
    flags = dict(zip(table["id"].to_pylist(), table["flagged"].to_pylist(), strict=True))
    assert flags == {i: v > cut for i, v in values.items()}
    assert f"nll: {sum(flags.values())} of 24 texts look seen in training by" in ran.err
    assert "25.0% of the 12 negatives" in ran.err
    assert "no value means yes or no" not in ran.err
    assert ran.out.split()[:4] == ["id", "tokens", "flagged", "min_k_plus_plus"]
    few = nll_real("membership", "texts.jsonl", *MODEL, "--fit", "texts.jsonl", "--fpr", "0.01")
    assert "too few to show a rate of 1.0%" in few.err
    write(tmp_path / "other.jsonl", [r for r in labelled if r["label"]])
    moved = nll_real("membership", "other.jsonl", *MODEL, "--label", "label", *fit)
    assert moved.code == 2
    assert "two values" in moved.err
    moved = nll_real("ood", "other.jsonl", *MODEL, *fit)
    assert "do not look like the 12 that the threshold was fitted on" in moved.err


def test_empty_answers_are_told() -> None:
    told = _of_empty_answers(pa.table({"answer": ["", "Paris", None]}))
    assert told.startswith("2 of 3 answers are empty")
    assert _of_empty_answers(pa.table({"answer": ["Paris"]})) == ""
    assert _of_empty_answers(pa.table({"id": ["a"]})) == ""


def test_stored_traces_answer_without_a_model(nll_real, labelled, tmp_path, monkeypatch) -> None:
    ask = ("--score", "predictive_entropy", "--score", "lowercase_score")
    short = ("--n-samples", 2, "--max-new-tokens", 3)
    assert nll_real("trace", "texts.jsonl", *MODEL, *ask, *short, "-o", "t.parquet").code == 0
    assert nll_real("membership", "texts.jsonl", *MODEL, "-o", "live.parquet").code == 0
    monkeypatch.setattr(nll.models, "load", None)
    ran = nll_real("membership", "t.parquet", "-o", "stored.parquet")
    assert ran.code == 0, ran.err
    live, stored = (pq.read_table(tmp_path / f"{n}.parquet") for n in ("live", "stored"))
    assert stored.equals(live)
    ran = nll_real("uncertainty", "t.parquet")
    assert {"sequence_nll", "semantic_entropy"} <= set(ran.out.split("\n")[0].split())
    for option in ("--label", "--fit"):
        refused = nll_real("ood", "t.parquet", option, "texts.jsonl")
        assert (refused.code, refused.out) == (2, "")
        assert "nll eval" in refused.err
    refused = nll_real("ood", "t.parquet", "--engine", "ray", "-o", "o.parquet")
    assert (refused.code, "which need no model; leave out --engine ray" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("membership", "texts.jsonl", "--label", "nothing"), "no column 'nothing'"),
        (("membership", "texts.jsonl", "--label", "id"), "two values"),
        (("membership", "texts.jsonl", "--label", "kind", "--positive", "x"), "--positive x"),
        (("membership", "texts.jsonl", "--neighbours", "t5"), "spans and words, not 't5'"),
        (("detect", "texts.jsonl", "--fit", "texts.jsonl", "--fpr", "1"), "share from 0"),
        (("detect", "texts.jsonl", "-o", "texts.jsonl"), "also an input"),
        (("uncertainty", "texts.jsonl", "--temperature", "0"), "temperature"),
        (("ood", "nothing.jsonl"), "nothing.jsonl"),
        (("ood", "texts.jsonl", "--engine", "ray"), "name it with -o"),
        (("ood", "texts.jsonl", "--engine", "slurm"), "local or ray, not 'slurm'"),
        (("ood", "texts.jsonl", "--workers", "2"), "go with --engine ray"),
    ],
)
def test_wrong_uses_are_one_line(nll_real, labelled, args, told) -> None:
    ran = nll_real(*args, *MODEL)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert told in ran.err


@pytest.mark.parametrize("command", ["uncertainty", "membership", "detect", "ood"])
def test_help_shows_an_example_and_only_what_has_an_effect(nll_real, command) -> None:
    ran = nll_real(command, "--help")
    assert ran.code == 0
    assert f"Example: nll {command} " in ran.out
    shown = {option for option in ran.out.split() if option.startswith("--")}
    assert {"--label", "--fit", "--fpr", "--stride", "--bos"} <= shown
    assert ("--reference" in shown) == (command != "uncertainty")
    assert {"--engine", "--address", "--workers", "--worker-cpus", "--worker-gpus"} <= shown
    assert "--top-k" not in shown
    assert ("--n-samples" in shown) == (command == "uncertainty")
    assert ("--perturb" in shown) == (command == "detect")
    assert ("--neighbours" in shown) == (command == "membership")
