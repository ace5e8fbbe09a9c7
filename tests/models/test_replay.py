"""Recorded answers are given back bit for bit, and nothing else is answered (check 10)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import nll
from nll import BadInput, BadModel, BadText, Fields, MissingField, Rejected, Text
from nll.models import Recorder, Retry, availability, from_openai
from nll.models._record import trace_from_json, trace_to_json
from nll.testing import FaultyServer, table_model, traces
from nll.trace import Trace, same

TEXTS = ["hello, world.", "a", ("the question is ", "why?"), "the end!"]
FULL = Fields(top_k=3, betas=(0.5, 2.0), boundary=True, kl_uniform=True, hidden=True)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(traces())
def test_a_trace_goes_through_json_bit_for_bit(trace: Trace) -> None:
    line = json.dumps(trace_to_json(trace), allow_nan=False)
    again = trace_from_json(json.loads(line))
    for name in ("logp", "entropy", "rank", "top_logp", "lse_at", "boundary", "cross_var", "spans"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name), err_msg=name)
        assert getattr(again, name).dtype == getattr(trace, name).dtype
        assert getattr(again, name).shape == getattr(trace, name).shape
    assert (again.text, again.betas, again.vocab) == (trace.text, trace.betas, dict(trace.vocab))
    assert again.provenance == trace.provenance


def record(path: Path, texts=TEXTS, fields=FULL) -> list[Trace]:
    with Recorder(table_model(), path) as model:
        return list(model.trace(texts, fields=fields))


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    recorded = record(tmp_path / "a.jsonl")
    model = nll.load(f"replay:{tmp_path / 'a.jsonl'}")
    for old, new in zip(recorded, model.trace(reversed(TEXTS), fields=FULL), strict=False):
        assert old.provenance.model == new.provenance.model
    for old, new in zip(recorded, model.trace(TEXTS, fields=FULL), strict=True):
        assert same(old, new)
    said = availability(model, ["fast_detect_gpt", "self_certainty", "top_k_entropy(k=3)", "lrr"])
    assert set(said.values()) == {"exact"}
    by_id = next(model.trace([Text("a", id="mine")]))
    assert by_id.id == "mine"


def test_a_text_that_was_not_recorded_raises(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    model = nll.load(f"replay:{tmp_path / 'a.jsonl'}")
    with pytest.raises(BadText, match=r"text 1: a.jsonl has no answer to 'other'") as caught:
        list(model.trace(["a", "other"]))
    assert caught.value.reason == "not_recorded"
    with pytest.raises(BadText):
        list(model.trace(["the question is why?"]))
    rejected: list[Rejected] = []
    found = list(model.trace(["x", "a", "", 7], on_reject=rejected.append))
    assert [t.text for t in found] == ["a"]
    assert [(r.index, r.reason) for r in rejected] == [
        (0, "not_recorded"), (2, "empty"), (3, "not_a_string"),
    ]  # fmt: skip


def test_answers_are_recorded_with_their_settings(tmp_path: Path) -> None:
    path, asked = tmp_path / "a.jsonl", {"n": 2, "temperature": 1.0, "max_new_tokens": 5}
    with Recorder(table_model(), path) as recorder:
        drawn = list(recorder.generate(["say, ", "go, "], seed=3, **asked))
        (greedy,) = recorder.generate(["say, "], max_new_tokens=5)
    model = nll.load(f"replay:{path}")
    again = list(model.generate(["say, ", "go, "], seed=3, **asked))
    for old, new in zip(drawn, again, strict=True):
        assert all(same(a, b) for a, b in zip(old, new, strict=True))
    (found,) = model.generate(["say, "], max_new_tokens=5)
    assert same(found[0], greedy[0])
    for other in ({"seed": 4}, {"seed": 3, "temperature": 0.5}):
        with pytest.raises(BadText, match="as it is asked"):
            list(model.generate(["say, "], **{**asked, **other}))


def test_scores_of_samples_can_be_replayed(tmp_path: Path) -> None:
    path, prompts = tmp_path / "a.jsonl", ["say, ", "go, "]
    options = {"n_samples": 3, "max_new_tokens": 4}
    with Recorder(table_model(), path) as recorder:
        first = nll.score(nll.gather(recorder, prompts, ["predictive_entropy"], **options),
                          ["predictive_entropy"])  # fmt: skip
    again = nll.gather(nll.load(f"replay:{path}"), prompts, ["predictive_entropy"], **options)
    assert nll.score(again, ["predictive_entropy"]).equals(first)


def test_a_recording_says_what_it_does_not_hold(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", fields=Fields())
    model = nll.load(f"replay:{tmp_path / 'a.jsonl'}")
    assert availability(model, ["mean_entropy", "probability_margin"]) == {
        "mean_entropy": "exact", "probability_margin": "impossible",
    }  # fmt: skip
    for fields in (Fields(boundary=True), Fields(betas=(0.5,)), Fields(hidden=True)):
        with pytest.raises(MissingField):
            list(model.trace(["a"], fields=fields))
    with pytest.raises(BadModel):
        model.trace(["a"], reference=model)
    with pytest.raises(BadInput, match="stride"):
        model.trace(["a"], stride=4)
    with pytest.raises(BadInput, match="the recording has its own"):
        nll.load(f"replay:{tmp_path / 'a.jsonl'}", dtype="float16")


def test_a_file_grows_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record(path, ["a"])
    with path.open("ab") as file:
        file.write(b'{"nll": 1, "ask"')
    record(path, ["b"])
    assert [t.text for t in nll.load(f"replay:{path}").trace(["b", "a"])] == ["b", "a"]
    with pytest.raises(BadInput, match="recorder is closed"):
        next(Recorder(table_model(), path).trace(["a"]))


def test_rejected_texts_do_not_shift_the_recording(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.jsonl", ["", "ab", None, "cd", "\ud800", "ef"]
    with Recorder(table_model(), path) as recorder:
        found = list(recorder.trace(texts, on_reject=lambda _: None))
    model = nll.load(f"replay:{path}")
    for old, new in zip(found, model.trace(["ab", "cd", "ef"]), strict=True):
        assert same(old, new)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "holds no recorded answers"),
        ("not json\n", ":1: no whole JSON"),
        ("[1]\n", ":1: not a recorded answer"),
        ('{"nll": 1}\n', ":1: not a recorded answer"),
        ('{"nll": 99, "ask": {}, "traces": []}\n', "newer nll"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(nll.BadFile, match=match):
        nll.load(f"replay:{tmp_path / 'x.jsonl'}")


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(nll.BadFile, match="no such file"):
        nll.load("replay:none.jsonl")


@pytest.mark.parametrize("vllm", [False, True])
def test_check_10_bodies_that_a_server_sent_can_be_replayed(tmp_path: Path, vllm: bool) -> None:
    """Request and response as anyone may have logged them."""
    server = FaultyServer(prompt_logprobs=vllm)
    lines = []
    for text in ("hello, world.", "the question is why?"):
        body = {"model": "table", "prompt": text, "max_tokens": 1, "logprobs": 5, "temperature": 0}
        body |= {"prompt_logprobs": 5} if vllm else {"echo": True}
        lines.append(json.dumps({"request": body, "response": server.answer(body, False)}))
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    model = nll.load(f"replay:{tmp_path / 'log.jsonl'}")
    texts = ["hello, world.", ("the question is ", "why?")]
    with FaultyServer(prompt_logprobs=vllm) as live:
        expected = from_openai(live.url, retry=Retry(base=0.01)).trace(texts)
        for a, b in zip(expected, model.trace(texts), strict=True):
            np.testing.assert_array_equal(a.logp, b.logp)
            np.testing.assert_array_equal(a.spans, b.spans)
            assert a.prompt_tokens == b.prompt_tokens


def test_check_15_the_identity_is_the_files_content(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", ["a"])
    record(tmp_path / "b.jsonl", ["a"])
    one, two = (nll.load(f"replay:{tmp_path / name}").identity for name in ("a.jsonl", "b.jsonl"))
    assert one == two
    record(tmp_path / "b.jsonl", ["b"])
    assert nll.load(f"replay:{tmp_path / 'b.jsonl'}").identity != one
