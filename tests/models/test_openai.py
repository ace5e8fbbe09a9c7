"""A server's numbers are the table's, or there are none: alignment, faults and secrets.

Reliability checks 1, 8, 10, 19 and 20 for models that answer over HTTP.
"""

from __future__ import annotations

import itertools
import logging
import math
import traceback
import warnings

import numpy as np
import pytest

import nll
from nll import BadInput, BadModel, BadText, Fields, Rejected
from nll.models import Retry, availability, capabilities, from_openai
from nll.testing import FaultyServer, bigram_table, characters

TABLE = bigram_table()
TEXTS = ["hello, world.", "a", "the end!", "a man, a plan, a canal", "hello, again"]
FAST = Retry(attempts=5, base=0.001)
KINDS = {
    "echo": {},
    "hosted": {"top": 5, "reads_only": False},
    "vllm": {"prompt_logprobs": True},
    "vllm without echo": {"prompt_logprobs": True, "echo": False},
    "zero is endless": {"endless": True},
    "with a bos": {"prompt_logprobs": True, "bos": True},
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "NLL_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def truth(text: str, before: str = "") -> np.ndarray:
    ids = characters(before[-1:] + text)
    logp = [TABLE[a, b] for a, b in itertools.pairwise(ids)]
    return np.array(logp if before else [math.nan, *logp])


@pytest.mark.parametrize("kind", KINDS)
def test_check_01_every_log_prob_is_the_tables(kind: str) -> None:
    with FaultyServer(**KINDS[kind]) as server:
        model = from_openai(server.url, retry=FAST)
        assert isinstance(model, nll.models.LanguageModel)
        bos = "\x02" if kind == "with a bos" else ""
        pair = ("the question is ", "why?")
        *plain, completion = model.trace([*TEXTS, pair], fields=Fields(top_k=5))
        for text, trace in zip(TEXTS, plain, strict=True):
            expected = truth(text, bos)
            np.testing.assert_allclose(trace.logp, expected, atol=1e-6, rtol=1e-6)
            assert trace.text == text
            assert (trace.provenance.bos is None) == (not bos)
            assert trace.spans.tolist() == [[i, i + 1] for i in range(len(text))]
            shifted = np.roll(trace.logp, 1)[2:] - expected[2:]
            assert len(text) < 4 or np.abs(shifted).max() > 1, "one late would be far off"
        assert completion.prompt_tokens == len(pair[0])
        assert np.isnan(completion.logp[: len(pair[0])]).all()
        np.testing.assert_allclose(
            completion.completion.logp, truth("why?", pair[0]), atol=1e-6, rtol=1e-6
        )
        assert completion.completion.text == "why?"


@pytest.mark.parametrize("endless", [False, True])
def test_a_server_that_takes_no_new_token_for_no_end_is_asked_for_one(endless: bool) -> None:
    with FaultyServer(endless=endless) as server:
        model = from_openai(server.url, retry=FAST)
        list(model.trace(TEXTS))
        first = next(b for b in server.asked if b.get("max_tokens") == 0)
        assert first["stop"], "or it would write up to the end of its context"
        assert {b["max_tokens"] for b in server.asked[-len(TEXTS) :]} == {int(endless)}


def test_a_server_whose_echo_is_late_still_writes_answers_but_reads_nothing() -> None:
    with FaultyServer(echo_late=True) as server:
        model = from_openai(server.url, retry=FAST)
        with pytest.raises(BadModel, match=r"can generate, but not score.*late"):
            list(model.trace(TEXTS))
        assert not capabilities(model).texts
        (found,) = model.generate(["the "], max_new_tokens=5)
        np.testing.assert_allclose(found[0].logp, truth(found[0].text, "the "), atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 9.0])
def test_answers_that_should_be_greedy_and_are_not_are_told(penalty: float) -> None:
    with FaultyServer(repeats=penalty) as server:
        model = from_openai(server.url, retry=FAST)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            list(model.generate(["the cat and the hat "] * 3, max_new_tokens=12))
        said = [str(w.message) for w in told if "likeliest token" in str(w.message)]
        assert len(said) == (penalty > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_exact_or_unknown(kind: str) -> None:
    with FaultyServer(**KINDS[kind]) as server:
        model = from_openai(server.url, retry=FAST)
        text = TEXTS[3]
        trace = next(model.trace([text], fields=Fields(top_k=3)))
        ids = characters(text)
        exact = [1 + int((TABLE[a] > TABLE[a, b]).sum()) for a, b in itertools.pairwise(ids)]
        for held, right in zip(trace.rank[1:], exact, strict=True):
            assert held in (right, -1)
        if "vllm" in kind:
            assert (trace.rank[1:] == exact).all()
            assert trace.ids.tolist() == ids
        else:
            assert all(h == r for h, r in zip(trace.rank[1:], exact, strict=True) if r <= 5)
        best = np.argsort(-TABLE[ids[0]])[:3]
        np.testing.assert_allclose(trace.top_logp[1], TABLE[ids[0]][best], rtol=1e-6)
        shown = [trace.vocab[int(i)] for i in trace.top_ids[1]]
        assert shown == [("\x03\x02" + nll.testing.ALPHABET[2:])[i] for i in best]


def test_what_a_server_cannot_tell_is_absent_and_never_faked() -> None:
    with FaultyServer() as server:
        model = from_openai(server.url, retry=FAST)
        trace = next(model.trace([TEXTS[0]]))
        for name in ("entropy", "varentropy", "ids", "lse_at", "boundary", "kl_uniform", "hidden"):
            assert getattr(trace, name) is None
        held = capabilities(model)
        assert "entropy" in held.bounded
        assert held.exact == {"logp", "spans", "top_logp"}
        said = availability(model, ["mean_nll", "lrr", "mean_entropy", "fast_detect_gpt"])
        assert list(said.values()) == ["exact", "bounded", "bounded", "impossible"]


@pytest.mark.parametrize("kind", [*KINDS, "only answers", "chat"])
def test_answers_hold_the_models_own_numbers(kind: str) -> None:
    more = {"only answers": {"echo": False}, "chat": {"completions": False}}
    with FaultyServer(**(KINDS | more)[kind]) as server:
        model = from_openai(server.url, retry=FAST)
        (found,) = model.generate(
            ["say it: "], max_new_tokens=6, n=3, temperature=1.0, seed=4, greedy=True
        )
        assert len(found) == 4
        assert [t.provenance.decoding for t in found] == ["greedy"] + ["sampled"] * 3
        for trace in found:
            np.testing.assert_allclose(
                trace.completion.logp, truth(trace.scored_text, " "), atol=1e-6, rtol=1e-6
            )
            assert len(trace.scored_text) == 6
            assert trace.provenance.finish_reason == "length"
        assert (found[0].completion.rank == 1).all()
        assert nll.scores.g_nll(found[0].completion) == pytest.approx(
            -truth(found[0].scored_text, " ").sum(), rel=1e-6
        )


def test_a_server_that_only_writes_says_so_before_any_text() -> None:
    with FaultyServer(completions=False) as server:
        model = from_openai(server.url, retry=FAST)
        with pytest.raises(BadModel, match="gives log-probs only of what it writes itself"):
            model.trace(["a text"])
        assert not capabilities(model).texts


@pytest.mark.parametrize("kind", [{}, {"completions": False}])
def test_check_01_numbers_after_temperature_are_refused(kind: dict) -> None:
    with FaultyServer(tempered=True, **kind) as server:
        model = from_openai(server.url, retry=FAST)
        assert len(list(model.generate(["x "], temperature=1.0, max_new_tokens=3))) == 1
        with pytest.raises(BadModel, match="after temperature"):
            list(model.generate(["x "], temperature=0.5, max_new_tokens=3))
    with FaultyServer(**kind) as server:
        model = from_openai(server.url, retry=FAST)
        ((trace,),) = model.generate(["x "], temperature=0.5, max_new_tokens=3)
        expected = truth(trace.scored_text, " ")
        np.testing.assert_allclose(trace.completion.logp, expected, rtol=1e-6)


def test_conversations_are_continued_by_chat() -> None:
    with FaultyServer() as server:
        model = from_openai(server.url, retry=FAST)
        ((trace,),) = model.generate([[{"role": "user", "content": "hi "}]], max_new_tokens=4)
        np.testing.assert_allclose(trace.logp, truth(trace.text, " "), rtol=1e-6)
        assert trace.provenance.kind == "chat"


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("late", "one token late"),
        ("values_late", "one token late"),
        ("base10", "base 10"),
        ("zeros", "0 for every log-prob"),
        ("positive", "above 0"),
        ("null", "no log-prob for some tokens"),
        ("no_logprobs", "no log-probabilities"),
        ("fewer", "25 tokens came with 24"),
        ("truncated", "no whole JSON"),
        ("not_json", "no whole JSON"),
        ("duplicated", "a choice twice"),
        ("wrong_model", "asked for the model 'table', and 'another' answered"),
        ("reset", "the connection broke"),
        ("500", "the server answered 500"),
        ("401", r"refuses the key \(401\)"),
        ("404", "answers 404"),
    ],
)
def test_check_19_the_probe_finds_servers_that_lie(fault: str, match: str) -> None:
    with FaultyServer(always=fault) as server:
        model = from_openai(server.url, retry=FAST)
        with pytest.raises(BadModel, match=match) as caught:
            model.trace(["a text"])
        assert "\n" not in str(caught.value)
        assert "a text" not in server.seen, "no text was paid for"


def test_a_late_server_without_alternatives_is_found_by_writing_and_reading() -> None:
    from nll.models._probe import _compare
    from nll.models._remote_payload import Piece

    right = [Piece(s, v) for s, v in (("a", -1.0), ("b", -3.0), ("c", -0.2))]
    _compare("s", right, [-3.0, -0.2])
    late = [Piece(s, v) for s, v in (("a", -9.0), ("b", -1.0), ("c", -3.0))]
    with pytest.raises(BadModel, match="one token late"):
        _compare("s", late, [-3.0, -0.2])
    with pytest.raises(BadModel, match="other log-probs than it writes"):
        _compare("s", right, [-0.0, -0.0])


PASSING = ["reset", "truncated", "429", "429:0.01", "429:date:0", "500", "502", "503", "408", "409",
           "not_json", "wrong_model", "no_logprobs", "fewer", "null", "duplicated", "other_text",
           "positive"]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_check_19_a_fault_that_passes_costs_nothing(fault: str) -> None:
    with FaultyServer(faults={TEXTS[2]: [fault]}) as server:
        model = from_openai(server.url, retry=FAST)
        traces = list(model.trace(TEXTS))
        assert [t.text for t in traces] == TEXTS
        for text, trace in zip(TEXTS, traces, strict=True):
            np.testing.assert_allclose(trace.logp, truth(text), rtol=1e-6)
        assert [server.answered[t] for t in TEXTS] == [1] * 5, "asked again only what failed"
        assert server.seen[TEXTS[2]] == 2


@pytest.mark.parametrize(
    ("fault", "reason", "tries"),
    [
        ("500", "unavailable", 5),
        ("429:0", "unavailable", 5),
        ("reset", "unavailable", 5),
        ("truncated", "bad_json", 3),
        ("fewer", "misaligned", 3),
        ("null", "missing_logprob", 3),
        ("duplicated", "duplicated", 3),
        ("wrong_model", "wrong_model", 3),
        ("other_text", "misaligned", 3),
        ("400", "refused", 1),
    ],
)
def test_check_19_a_fault_that_stays_sets_its_row_aside(
    fault: str, reason: str, tries: int
) -> None:
    texts = [nll.Text(t, id=f"r{i}") for i, t in enumerate(TEXTS)]
    with FaultyServer(faults={TEXTS[2]: [fault] * 99}) as server:
        model = from_openai(server.url, retry=FAST)
        rejected: list[Rejected] = []
        traces = list(model.trace(texts, on_reject=rejected.append))
        assert [(r.index, r.id, r.reason) for r in rejected] == [(2, "r2", reason)]
        assert [t.id for t in traces] == ["r0", "r1", "r3", "r4"]
        for trace in traces:
            np.testing.assert_allclose(trace.logp, truth(trace.text), rtol=1e-6)
        assert server.seen[TEXTS[2]] == tries
        with pytest.raises(BadText, match=r"^text 2: ") as caught:
            list(model.trace(texts))
        assert caught.value.reason == reason


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_check_19_what_cannot_pass_is_tried_once_and_ends_the_run(status: str) -> None:
    with FaultyServer(faults={TEXTS[2]: [status] * 9}) as server:
        model = from_openai(server.url, retry=FAST)
        with pytest.raises(BadModel, match=status):
            list(model.trace(TEXTS, on_reject=lambda _: None))
        assert server.seen[TEXTS[2]] == 1


def test_check_19_a_wrong_key_is_tried_exactly_once() -> None:
    with FaultyServer(token="right") as server:
        with pytest.raises(BadModel, match="set NLL_API_KEY"):
            from_openai(server.url, "table", retry=FAST).trace(["x"])
        assert len(server.asked) == 1


def test_check_19_waits_are_within_the_policy() -> None:
    slept: list[float] = []
    retry = Retry(attempts=5, base=0.01, sleep=slept.append)
    with FaultyServer(faults={"abc": ["500"] * 9}) as server:
        model = from_openai(server.url, retry=retry)
        assert model.source.reads
        slept.clear()
        list(model.trace(["abc"], on_reject=lambda _: None))
    assert len(slept) == 4
    for n, wait in enumerate(slept):
        assert 0.5 * 0.01 * 2**n <= wait <= 0.01 * 2**n


@pytest.mark.parametrize(("fault", "least"), [("429:0.3", 0.3), ("429:date:1", 0.9)])
def test_check_19_retry_after_is_obeyed(fault: str, least: float) -> None:
    import time

    with FaultyServer(faults={"abc": [fault]}) as server:
        model = from_openai(server.url, retry=Retry(base=0.001))
        assert model.source.reads
        begun = time.monotonic()
        assert len(list(model.trace(["abc"]))) == 1
        assert least <= time.monotonic() - begun < least + 2


def test_check_19_a_storm_of_429_loses_nothing() -> None:
    texts = [f"row {'abcdefghij'[i % 10]}{'abcdefghij'[i // 10]}" for i in range(60)]
    storm = {t: ["429:0.01", "429"][: 1 + i % 2] for i, t in enumerate(texts)}
    with FaultyServer(faults=storm) as server:
        model = from_openai(server.url, concurrency=8, retry=FAST)
        assert [t.text for t in model.trace(texts)] == texts
        assert [server.answered[t] for t in texts] == [1] * 60


def test_check_19_a_slow_first_byte_is_waited_for_or_tried_again() -> None:
    with FaultyServer(faults={"abc": ["slow:0.4"]}) as server:
        patient = from_openai(server.url, retry=FAST, timeout=5)
        assert len(list(patient.trace(["abc"]))) == 1
        assert server.seen["abc"] == 1
    with FaultyServer(faults={"abc": ["slow:1"]}) as server:
        hasty = from_openai(server.url, retry=FAST, timeout=0.5)
        assert len(list(hasty.trace(["abc"]))) == 1
        assert server.seen["abc"] == 2


def test_a_server_that_is_gone_ends_the_run() -> None:
    texts = [f"x{i}" for i in range(60)]
    with FaultyServer(faults={t: ["reset"] * 9 for t in texts}) as server:
        model = from_openai(server.url, retry=Retry(attempts=2, base=0.001))
        rejected: list[Rejected] = []
        with pytest.raises(BadModel, match="no longer answers"):
            list(model.trace(texts, on_reject=rejected.append))
        assert len(rejected) == 19


def test_requests_overlap_within_the_limit_and_answers_keep_their_order() -> None:
    texts = [f"text {'abcdefghijklmnopqrst'[i]}" for i in range(20)]
    slow = {t: [f"slow:{0.05 * (i % 3)}"] for i, t in enumerate(texts)}
    with FaultyServer(faults=slow, delay=0.01) as server:
        model = from_openai(server.url, concurrency=4, retry=FAST)
        assert [t.text for t in model.trace(texts)] == texts
        assert 2 <= server.most_at_once <= 4


def test_a_run_that_is_left_early_asks_for_no_more() -> None:
    texts = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    with FaultyServer(delay=0.01) as server:
        model = from_openai(server.url, concurrency=2, retry=FAST)
        stream = model.trace(texts)
        next(stream)
        stream.close()
        assert sum(server.seen[t] for t in texts) <= 10


def test_texts_that_no_server_can_read_are_told_as_by_a_local_model() -> None:
    bad = ["fine", "", None, 7, "\ud800", ("prompt", ""), [{"role": "assistant", "content": "x"}]]
    with FaultyServer() as server:
        model = from_openai(server.url, retry=FAST)
        rejected: list[Rejected] = []
        assert [t.text for t in model.trace(bad, on_reject=rejected.append)] == ["fine"]
        assert [(r.index, r.reason) for r in rejected] == [
            (1, "empty"), (2, "null"), (3, "not_a_string"), (4, "surrogates"), (5, "empty"),
            (6, "chat"),
        ]  # fmt: skip


def test_options_that_only_a_local_model_obeys_are_refused() -> None:
    with FaultyServer() as server:
        for option in ({"dtype": "float16"}, {"device": "cuda"}, {"bos": "bos"}, {"revision": "x"}):
            with pytest.raises(BadInput, match="is for local models"):
                nll.load(server.url, **option)
        model = nll.load(server.url)
        for call in ({"stride": 3}, {"fields": Fields(boundary=True)}):
            with pytest.raises(BadInput, match="local model"):
                model.trace(["x"], **call)
        with pytest.raises(BadModel, match="reference"):
            model.trace(["x"], reference=model)


def test_names_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer() as server:
        assert nll.load(server.url).identity["model"] == "table"
        assert nll.load(server.url + "#table").identity["model"] == "table"
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        trace = next(nll.load("openai:table").trace(["ab"]))
        assert trace.provenance.backend == "openai"
        with pytest.raises(BadModel, match="answers 404"):
            nll.load("openai:other").trace(["ab"])
    for wrong in ("http://", "ftp://x/v1"):
        with pytest.raises((BadInput, BadModel)):
            from_openai(wrong)
    with pytest.raises(BadInput, match="name the model"):
        nll.load("openai:")
    with pytest.raises(BadModel, match="connection broke or was refused"):
        from_openai("http://127.0.0.1:9/v1", retry=FAST)


def test_the_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    from nll.models._openai_client import key_for

    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert key_for("http://127.0.0.1:8000/v1") == "theirs"
    assert key_for("https://api.openai.com/v1") == "theirs"
    assert key_for("https://elsewhere.example/v1") is None
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    assert key_for("https://elsewhere.example/v1") == "theirs"
    assert key_for("https://api.openai.com/v1") is None
    monkeypatch.setenv("NLL_API_KEY", "ours")
    assert key_for("https://anywhere.example/v1") == "ours"


SECRET = "planted-7f3a9c-key"


def test_another_process_opens_what_is_known_of_a_server_without_asking_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pickle

    with FaultyServer(token=SECRET) as server:
        monkeypatch.setenv("NLL_API_KEY", SECRET)
        model = from_openai(server.url, retry=FAST, concurrency=3, timeout=7.0)
        unasked = pickle.dumps(model.reopener())
        (trace,) = model.trace(["hello"])
        sent, asked = pickle.dumps(model.reopener()), len(server.asked)
        assert SECRET.encode() not in sent
        again = pickle.loads(sent)()
        assert (again.name, again.concurrency, again.source) == ("table", 3, model.source)
        assert again.identity == model.identity
        assert np.array_equal(next(iter(again.trace(["hello"]))).logp, trace.logp, equal_nan=True)
        assert len(server.asked) == asked + 1
        assert pickle.loads(unasked)().source == model.source
        assert len(server.asked) > asked + 2, "what was not known is asked"
        monkeypatch.setenv("NLL_API_KEY", "another")
        with pytest.raises(BadModel, match="refuses the key"):
            list(pickle.loads(sent)().trace(["hello"]))


def test_check_20_the_key_is_in_no_error_log_trace_or_identity(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NLL_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with FaultyServer(token=SECRET, faults={"abc": ["500"] * 9, "abd": ["400"]}) as server:
        model = from_openai(server.url, retry=FAST)
        traces = list(model.trace(["ab", "abc", "abd"], on_reject=lambda r: said.append(str(r))))
        said += [repr(model), str(model.identity), repr(model.provenance), repr(traces)]
        said += [repr(vars(model)["_caller"])]
    with FaultyServer(token="another") as server:
        try:
            from_openai(server.url, "table", retry=FAST).trace(["x"])
        except BadModel:
            said.append(traceback.format_exc())
    for url in (f"http://user:{SECRET}@127.0.0.1:1/v1", f"http://127.0.0.1:1/v1?key={SECRET}"):
        try:
            nll.load(url)
        except BadInput:
            said.append(traceback.format_exc())
    assert len(said) == 10
    everything = "\n".join([*said, caplog.text])
    assert "Traceback" in everything
    assert SECRET not in everything


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(nll.MissingExtra, match=r"nll\[api\]"):
        from_openai("http://127.0.0.1:1/v1", "m")


@pytest.mark.parametrize(
    ("options", "match"),
    [({"concurrency": 0}, "above 0"), ({"timeout": 0}, "above 0")],
)
def test_impossible_settings_are_refused(options: dict, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        from_openai("http://127.0.0.1:1/v1", "m", **options)


def test_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLL_CONCURRENCY", "3")
    assert from_openai("http://127.0.0.1:1/v1", "m").concurrency == 3
    monkeypatch.setenv("NLL_CONCURRENCY", "many")
    with pytest.raises(BadInput, match="NLL_CONCURRENCY must be a number"):
        from_openai("http://127.0.0.1:1/v1", "m")


def test_continuations_and_options() -> None:
    with FaultyServer() as server:
        model = from_openai(server.url, retry=FAST)
        found = model.options("counting: ", ["one", "two"])
        np.testing.assert_allclose(found, [truth(w, " ").sum() for w in ("one", "two")], rtol=1e-6)
        assert [t.scored_text for t in model.continuations("x ", ["a", "b"])] == ["a", "b"]
