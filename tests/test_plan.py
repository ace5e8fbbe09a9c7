"""The planner: everything that scores take, each model run once per text, nothing more."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

import nll
from nll import _declare
from nll._declare import requests
from nll._table import score_batches
from nll.scores import perturb_spans
from nll.testing import bigram_table, table_model
from nll.trace import Fields, Text, Trace

MODEL = table_model()
OTHER = table_model(bigram_table(seed=5))
LONG = "The quick brown fox jumps over the lazy dog and then it sleeps under an old tree."
TEXTS = [LONG, Text("Cats are Nice", id="b"), ("A prompt, ", "An Answer to it")]


class Watched:
    """A model that notes what it was asked."""

    def __init__(self, model):
        self.model, self.traced, self.calls, self.generated = model, [], [], []

    def trace(self, texts, **options):
        self.calls.append(options)

        def noted():
            for text in texts:
                self.traced.append(text)
                yield text

        return self.model.trace(noted(), **options)

    def generate(self, prompts, **options):
        prompts = list(prompts)
        self.generated.append((prompts, options))
        return self.model.generate(prompts, **options)


def upper(text):
    return [text.upper(), text[::-1]]


def swap(masked):
    return [m.replace("<extra_id_", "x").replace(">", "") for m in masked]


@pytest.fixture
def sampling(monkeypatch):
    """A score of samples, declared by an outsider."""
    monkeypatch.setattr(_declare, "_registry", dict(nll.declarations()))

    @nll.declare_score(
        higher_means="x", reads=("logp",), unit="1", range=(0, 99), paper="none", question="test"
    )
    def distinct(samples: nll.Samples) -> float:
        """How many different answers were drawn."""
        return float(len(set(samples.answers)))

    return distinct


def test_each_role_is_the_trace_that_it_would_be_alone():
    specs = ["mean_nll", "lowercase_score", "reference_score", "neighbourhood_score", "npr"]
    bundles = list(nll.gather(
        MODEL, TEXTS, specs, reference=OTHER, neighbours=upper, perturb=lambda t: [t + "!", t * 2]
    ))  # fmt: skip
    assert [b.id for b in bundles] == [None, "b", None]
    for bundle, text in zip(bundles, map(Text.of, TEXTS), strict=True):

        def alone(model, new, text=text):
            given = Text(new, prompt=text.prompt)
            return next(model.trace([given], fields=Fields()))

        own = text.text
        pairs = [
            (bundle.trace, alone(MODEL, own)),
            (bundle.reference, alone(OTHER, own)),
            (bundle.lower, alone(MODEL, own.lower())),
            *zip(bundle.neighbours, [alone(MODEL, n) for n in upper(own)], strict=True),
            *zip(bundle.perturbed, [alone(MODEL, p) for p in (own + "!", own * 2)], strict=True),
        ]
        for got, want in pairs:
            assert got.text == want.text
            assert got.prompt_tokens == want.prompt_tokens
            np.testing.assert_allclose(got.logp, want.logp, atol=1e-5)
        assert dict(bundle.missing) == {}


def test_scores_of_gathered_bundles_are_the_functions_values():
    specs = ["all", "lowercase_score", "likelihood_ratio(normalise=True)", "binoculars"]
    bundles = list(nll.gather(MODEL, TEXTS, specs, reference=OTHER))
    table = nll.score(bundles, specs)
    assert table.num_rows == 3
    for request in requests(specs):
        np.testing.assert_array_equal(
            table[request.label].to_numpy(), [request(b) for b in bundles]
        )
    assert np.isfinite(table["likelihood_ratio(normalise=True)"].to_numpy()).all()
    assert np.isfinite(table["binoculars"].to_numpy()).all()


def test_each_model_runs_once_per_text_and_only_where_asked():
    first, second = Watched(MODEL), Watched(OTHER)
    specs = ["min_k_prob", "lowercase_score", "neighbourhood_score", "reference_score", "lrr"]
    assert len(list(nll.gather(first, TEXTS, specs, reference=second, neighbours=upper))) == 3
    assert len(first.calls) == len(second.calls) == 1
    assert len(first.traced) == 3 * (1 + 1 + 2)
    assert [t.text for t in second.traced] == [Text.of(t).text for t in TEXTS]
    assert not first.generated
    plain, idle = Watched(MODEL), Watched(OTHER)
    list(nll.gather(plain, TEXTS, "mean_nll", reference=idle, neighbours=upper, perturb=upper))
    assert len(plain.traced) == 3
    assert not idle.calls


def test_an_answer_is_read_again_without_its_prompt_by_the_same_model():
    """Pointwise mutual information compares two readings by one model, not two models."""
    texts = [("What jumps? ", "the fox"), Text("no prompt")]
    (first, second) = nll.gather(MODEL, texts, "pmi")
    answer, alone = first.trace, next(iter(MODEL.trace(["the fox"])))
    gain = answer.logp[-6:] - alone.logp[-6:]  # the first letter has no value of its own
    assert nll.scores.pointwise_mutual_information(first.trace, first.alone) == pytest.approx(
        float(gain.sum()), abs=1e-5
    )
    assert second.alone is None
    table = nll.score([first, second], "pmi")
    assert "no prompt" in table["undefined"][1].as_py()


def test_fields_are_what_each_models_scores_read():
    first, second = Watched(MODEL), Watched(OTHER)
    specs = ["probability_margin", "surprisal(temperature=2)", "reference_score"]
    list(nll.gather(first, TEXTS, specs, reference=second))
    assert first.calls[0]["fields"] == Fields(top_k=2, betas=(0.5,))
    assert second.calls[0]["fields"] == Fields()


def test_variants_share_what_they_have_in_common(monkeypatch):
    model = table_model()
    seen = []
    real = model.network.states

    def states(batch, index):
        seen.append(int(batch.used.sum()))
        return real(batch, index)

    monkeypatch.setattr(model.network, "states", states)
    text = "ab" * 60
    list(
        nll.gather(
            model, [text], "neighbourhood_score", neighbours=lambda t: [t[:-1] + c for c in "xyz"]
        )
    )
    assert sum(seen) == 120 + 3


@pytest.mark.parametrize("spec", ["binoculars", "fast_detect_gpt(reference=True)"])
def test_cross_moments_do_not_run_the_second_model_on_variants(spec):
    first = Watched(MODEL)
    bundles = list(nll.gather(first, TEXTS, [spec, "npr"], reference=OTHER, perturb=upper))
    assert [c.get("reference") for c in first.calls] == [OTHER, None]
    for bundle in bundles:
        assert bundle.trace.cross_mean is not None
        assert bundle.reference is None
        assert len(bundle.perturbed) == 2
        assert all(p.cross_mean is None for p in bundle.perturbed)
    assert np.isfinite(nll.score(bundles, spec)[spec].to_numpy()).all()


def test_what_a_text_cannot_give_is_told_and_the_run_goes_on():
    perturb = partial(perturb_spans, filler=swap, n=2)
    short, long = nll.gather(MODEL, ["a b", LONG + " " + LONG], "npr", perturb=perturb)
    assert "2 words" in short.missing["perturbed"]
    assert short.perturbed == ()
    assert len(long.perturbed) == 2
    assert not long.missing


def test_variants_that_cannot_be_traced_are_left_out():
    some = {"x": ["", "y"], "z": [""], "w": []}
    bundles = list(nll.gather(MODEL, list(some), "neighbourhood_score", neighbours=some.get))
    assert [len(b.neighbours) for b in bundles] == [1, 0, 0]
    assert "empty" in bundles[1].missing["neighbours"]
    assert "no such text" in bundles[2].missing["neighbours"]


def test_rejected_texts_keep_their_places():
    rejected = []
    texts = ["one", None, "", "two", 7, "\ud800", "three", ""]
    bundles = list(nll.gather(
        MODEL, texts, ["lowercase_score", "reference_score"], reference=OTHER,
        on_reject=rejected.append,
    ))  # fmt: skip
    assert [b.trace.text for b in bundles] == ["one", "two", "three"]
    assert [b.reference.text for b in bundles] == ["one", "two", "three"]
    told = {r.index: r.reason for r in rejected}
    assert told == {
        1: "null", 2: "empty", 4: "not_a_string", 5: "surrogates", 7: "empty"
    }  # fmt: skip
    for at, bad in ((1, None), (1, "")):
        with pytest.raises(nll.BadText, match=f"text {at}:"):
            list(nll.gather(MODEL, ["one", bad], "lowercase_score"))


def test_bundles_stream():
    read = itertools.count()

    def source():
        while True:
            number = next(read)
            yield "abcdefghij"[number % 10] + f" {number} " + LONG

    bundles = nll.gather(MODEL, source(), ["lowercase_score", "reference_score"], reference=OTHER)
    assert next(read) == 0
    first = list(itertools.islice(bundles, 5))
    assert [int(b.trace.text.split()[1]) for b in first] == [1, 2, 3, 4, 5]
    assert next(read) < 300
    wanted = requests("lowercase_score")
    assert next(score_batches(bundles, wanted, 3)).num_rows == 3


def test_samples_come_with_the_greedy_answer_and_clusters(sampling):
    model = Watched(MODEL)
    options = {"n_samples": 4, "max_new_tokens": 5, "seed": 3}
    prompts = [Text("ab", id="q"), ("cd", "never generated")]
    bundles = list(nll.gather(model, prompts, sampling, cluster=lambda a: [0] * len(a), **options))
    assert not model.calls
    ((asked, how),) = model.generated  # one generation: a prompt is read once for all its answers
    assert asked == ["ab", "cd"]
    assert how["greedy"]
    assert how["n"] == 4
    for bundle in bundles:
        assert bundle.trace is None
        assert len(bundle.samples.drawn) == 4
        assert bundle.samples.greedy.provenance.decoding == "greedy"
        assert bundle.samples.clusters == [0] * 4
    assert [b.id for b in bundles] == ["q", None]
    again = list(nll.gather(MODEL, prompts, sampling, **options))
    assert [b.samples.answers for b in again] == [b.samples.answers for b in bundles]
    assert not again[0].samples.clusters
    assert again[0].samples.answers != again[1].samples.answers
    table = nll.score(bundles, sampling)
    assert table["distinct"].to_pylist() == [len(set(b.samples.answers)) for b in bundles]


def test_samples_and_the_texts_own_trace_go_together(sampling):
    (bundle,) = nll.gather(
        MODEL, [("ab", "cd")], [sampling, "mean_nll"], n_samples=2, max_new_tokens=3
    )
    assert bundle.trace.scored_text == "cd"
    assert all(t.text.startswith("ab") for t in bundle.samples.drawn)


def test_answers_are_those_of_the_model_alone(sampling):
    options = {"max_new_tokens": 6, "seed": 9}
    texts = ["ab", ("a longer prompt ", "x"), "c"]
    bundles = nll.gather(MODEL, texts, [sampling], n_samples=3, temperature=0.7, **options)
    prompts = ["ab", "a longer prompt ", "c"]
    greedy = MODEL.generate(prompts, max_new_tokens=6)
    drawn = MODEL.generate(prompts, n=3, temperature=0.7, **options)
    for bundle, (one,), many in zip(bundles, greedy, drawn, strict=True):
        assert bundle.samples.greedy.text == one.text
        np.testing.assert_allclose(bundle.samples.greedy.logp, one.logp, atol=2e-5)
        assert [t.text for t in bundle.samples.drawn] == [t.text for t in many]
        for mine, other in zip(bundle.samples.drawn, many, strict=True):
            np.testing.assert_allclose(mine.logp, other.logp, atol=2e-5)


def test_texts_that_cannot_be_traced_keep_the_others_answers(sampling):
    rejected = []
    bundles = list(nll.gather(
        MODEL, ["ab", ("cd", ""), ("ef", "g")], [sampling, "mean_nll"], n_samples=2,
        max_new_tokens=3, on_reject=rejected.append,
    ))  # fmt: skip
    assert [r.index for r in rejected] == [1]
    assert [b.samples.greedy.text[:2] for b in bundles] == ["ab", "ef"]


def test_a_prompt_that_leaves_no_room_is_told(sampling):
    small = table_model(context=16)
    long, short = nll.gather(small, ["a" * 14, "a"], sampling, n_samples=2, max_new_tokens=4)
    assert "exceeds the context" in long.missing["samples"]
    assert len(short.samples.drawn) == 2
    table = nll.score([long, short], sampling)
    assert "exceeds the context" in table["undefined"][0].as_py()


def test_chats_vary_in_their_last_answer_only():
    from nll._plan import _read, _replaced

    chat = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "Yes"}]
    text, prompt = _read(chat, True)
    assert prompt == chat[:1]
    varied = _replaced(text, "no")
    assert [m["content"] for m in varied.messages] == ["Q?", "no"]
    assert _read(chat[:1], False)[1] == chat[:1]
    with pytest.raises(nll.BadText, match="assistant"):
        _read(chat[:1], True)


@pytest.mark.parametrize(
    ("specs", "options", "match"),
    [
        ("reference_score", {}, "'reference_score' needs reference; pass reference=model"),
        ("binoculars", {}, "reference=model"),
        ("fast_detect_gpt(reference=True)", {}, "reference=model"),
        ("neighbourhood_score", {}, "neighbours=function"),
        ("npr", {}, "perturb=function"),
        ("mean_nll", {"n_samples": 0}, "n_samples"),
        ("mean_nll", {"temperature": 0}, "temperature"),
        ("nope", {}, "unknown score"),
    ],
)
def test_what_is_not_given_is_told_before_anything_runs(specs, options, match):
    with pytest.raises(nll.BadInput, match=match):
        nll.gather(MODEL, iter([]), specs, **options)


def test_one_string_or_one_neighbour_is_a_mistake():
    with pytest.raises(nll.BadInput, match="several texts"):
        nll.gather(MODEL, "a text", "mean_nll")
    with pytest.raises(nll.BadInput, match="list of texts"):
        list(nll.gather(MODEL, ["a"], "npr", perturb=str.upper))


def test_no_texts_give_no_bundles():
    assert list(nll.gather(MODEL, [], ["mean_nll", "lowercase_score"])) == []
    assert isinstance(next(nll.gather(MODEL, ["a"], "mean_nll")).trace, Trace)


def test_more_fields_than_the_scores_need_are_kept_on_request():
    specs = ["mean_nll", "lowercase_score", "predictive_entropy"]
    options = {"n_samples": 2, "max_new_tokens": 3}
    (bundle,) = nll.gather(MODEL, [LONG], specs, fields=Fields(top_k=4, betas=(0.5,)), **options)
    for trace in (bundle.trace, bundle.lower, bundle.samples.greedy, *bundle.samples.drawn):
        assert trace.top_ids.shape[1] == 4
        assert trace.betas == (0.5,)
    (least,) = nll.gather(MODEL, [LONG], specs, **options)
    assert least.trace.top_ids is None
