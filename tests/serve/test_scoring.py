"""`/v1/score` and `/v1/trace` say what the library says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

import nll
from nll._declare import requests
from nll._table import fields_for
from tests.serve.conftest import Client

TEXTS = ["the cat sat.", "a", "who is it? it is i."]


def test_all_scores_are_the_librarys(server: Client) -> None:
    found = server.post("/v1/score", {"texts": TEXTS})
    assert found.status == 200, found.body
    fields = fields_for(requests("all"))
    traces = list(nll.load("testing:bigram").trace(TEXTS, fields=fields))
    table = nll.score(traces, "all").to_pylist()
    assert len(found.json["data"]) == len(TEXTS)
    for row, wanted in zip(found.json["data"], table, strict=True):
        assert row["tokens"] == wanted["tokens"]
        assert set(row["scores"]) == set(wanted) - {"id", "tokens", "undefined"}
        reasons = json.loads(wanted["undefined"] or "{}")
        assert row["undefined"] == reasons
        for name, value in row["scores"].items():
            if math.isnan(wanted[name]):
                assert value is None
                assert reasons[name]
            elif math.isinf(wanted[name]):
                assert value == ("Infinity" if wanted[name] > 0 else "-Infinity")
            else:
                assert value == pytest.approx(wanted[name], rel=1e-4, abs=1e-4), name


def test_pairs_ids_and_rows_that_cannot_be_scored(server: Client) -> None:
    texts = [
        {"prompt": "the ", "completion": "cat", "id": "x"},
        {"text": "", "id": "y"},
        {"text": "sat", "id": "z"},
        {"messages": [{"role": "user", "content": "a"}]},
    ]
    found = server.post("/v1/score", {"texts": texts, "scores": ["mean_nll", "min_k_prob(k=0.5)"]})
    pair, empty, plain, chat = found.json["data"]
    (trace,) = nll.load("testing:bigram").trace([("the ", "cat")])
    assert pair["scores"]["mean_nll"] == pytest.approx(-trace.values("logp").mean(), abs=1e-5)
    assert (pair["id"], pair["tokens"], pair["rejected"]) == ("x", 3, None)
    assert empty["rejected"]["reason"] == "empty"
    assert plain["id"] == "z"
    assert chat["rejected"]["reason"] == "bad_chat"


def test_a_trace_is_the_librarys_with_null_for_nan(server: Client) -> None:
    body = {"texts": TEXTS, "top_k": 3, "betas": [0.5], "boundary": True}
    found = server.post("/v1/trace", body)
    fields = nll.Fields(top_k=3, betas=(0.5,), boundary=True)
    for row, trace in zip(
        found.json["data"], nll.load("testing:bigram").trace(TEXTS, fields=fields), strict=True
    ):
        assert row["text"] == trace.text
        assert "".join(row["tokens"]) == trace.text
        assert row["ids"] == trace.ids.tolist()
        assert row["logp"][0] is None
        assert row["undefined"]["0"]
        assert row["rank"][0] is None
        assert row["logp"][1:] == pytest.approx(trace.logp[1:].tolist(), abs=1e-5)
        assert row["entropy"][1:] == pytest.approx(trace.entropy[1:].tolist(), abs=1e-5)
        assert row["top_ids"][1:] == trace.top_ids[1:].tolist()
        lse = [x for (x,) in row["lse_at"][1:]]
        assert lse == pytest.approx(trace.lse_at[1:, 0].tolist(), abs=1e-5)
        assert len(row["boundary"]) == len(trace) + 1
        assert row["provenance"]["model"] == "testing:bigram"


def test_scores_of_two_models(start: Callable[..., Client]) -> None:
    second = nll.testing.table_model(np.roll(nll.testing.bigram_table(), 1, 0))
    client = start(reference=second)
    names = [m["id"] for m in client.get("/v1/models").json["data"]]
    assert names == ["testing:bigram", "testing:bigram#reference"]
    found = client.post("/v1/score", {"texts": TEXTS[:1], "scores": ["binoculars"]})
    assert found.status == 200, found.body
    model = nll.load("testing:bigram")
    wanted = nll.score(nll.gather(model, TEXTS[:1], ["binoculars"], reference=second), "binoculars")
    value = found.json["data"][0]["scores"]["binoculars"]
    assert value == pytest.approx(wanted["binoculars"][0].as_py(), rel=1e-4)
    other = client.post("/v1/trace", {"texts": TEXTS[:1], "model": names[1]}).json["data"][0]
    (trace,) = second.trace(TEXTS[:1])
    assert other["logp"][1:] == pytest.approx(trace.logp[1:].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        ("/v1/score", {"texts": []}, "invalid_request"),
        ("/v1/score", {"texts": "abc"}, "invalid_request"),
        ("/v1/score", {"texts": ["a"], "scores": ["no_such_score"]}, "unknown_score"),
        ("/v1/score", {"texts": ["a"], "scores": ["min_k_prob(k=open('x'))"]}, "unknown_score"),
        ("/v1/score", {"texts": ["a"], "scores": ["min_k_prob(k=7)"]}, "unknown_score"),
        ("/v1/score", {"texts": ["a"], "scores": ["binoculars"]}, "no_reference"),
        ("/v1/score", {"texts": ["a"], "scores": ["semantic_entropy"]}, "score_not_served"),
        ("/v1/score", {"texts": ["a"] * 257}, "too_many_texts"),
        ("/v1/score", {"texts": ["a" * 70_000]}, "too_many_tokens"),
        ("/v1/trace", {"texts": ["a"], "top_k": 21}, "too_many_logprobs"),
        ("/v1/trace", {"texts": ["a"], "betas": [-1.0]}, "invalid_request"),
        ("/v1/trace", {"texts": ["a"], "hidden": True}, "invalid_request"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused(
    server: Client, path: str, fields: dict, code: str
) -> None:
    found = server.post(path, fields)
    assert found.status == 400, found.body
    assert found.json["error"]["code"] == code


def test_texts_of_many_requests_share_passes(start: Callable[..., Client]) -> None:
    """Sixteen requests while the model is busy end up in few batches, each with its own numbers."""
    import threading

    client = start()
    served = client.app.state.served
    gate, inner = threading.Event(), served.model.trace_encoded
    sizes: list[int] = []

    def slow(chunk, **options):
        gate.wait(20)
        sizes.append(len(chunk))
        return inner(chunk, **options)

    served.model.trace_encoded = slow
    found: dict[int, list] = {}

    def one(i: int) -> None:
        body = {"texts": [f"{'ab' * i} end"]}
        found[i] = client.post("/v1/trace", body).json["data"][0]["logp"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    while served.worker.waiting < 16:
        pass
    gate.set()
    for t in threads:
        t.join()
    assert sum(sizes) == 16
    assert len(sizes) <= 2
    for i, logp in found.items():
        (trace,) = nll.load("testing:bigram").trace([f"{'ab' * i} end"])
        assert logp[1:] == pytest.approx(trace.logp[1:].tolist(), abs=1e-5)
