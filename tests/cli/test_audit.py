"""`nll audit leakage`: a simulated endpoint, a server, outputs, and one line for each wrong use."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nll.models
from nll.runs._leakage import COMPARED, Audit, describe, prompts, read_texts, reading
from nll.testing import ALPHABET, character_tokenizer
from nll.theory import LeakageReport
from nll.web._leakage import audit_html

H, V = 12, len(ALPHABET) + 1


@pytest.fixture
def audit(nll_here, monkeypatch):
    """Run `nll audit leakage ARGS` on a model of twelve dimensions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=H, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
        tie_word_embeddings=True,
    )  # fmt: skip
    hf = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim == 2:
                weight.mul_(20)
    tiny = nll.models.from_transformers(hf, character_tokenizer(), name="tiny")
    monkeypatch.setattr(nll.models, "load", lambda *_, **__: tiny)
    return lambda *args: nll_here("audit", "leakage", *args)


def results(path) -> dict[str, dict]:
    held = json.loads(path.read_text())
    return {r["setting"]: r for r in held["results"]}


def test_other_settings_are_tried_beside_and_the_truth_is_told(audit, tmp_path) -> None:
    ran = audit("-o", "a.json")
    assert ran.code == 0, ran.err
    found = results(tmp_path / "a.json")
    assert len(found) == len(COMPARED)
    assert found["all values"]["dimension"] == H
    assert found["all values"]["leaks"] == ["dimension", "subspace", "full rows"]
    assert found["all values"]["projection_rms"] < 1e-5
    assert found["top 20"]["leaks"] == []
    assert found["top 20, bias"]["dimension"] == H
    assert found["no values"]["unseen_tv"] == 1
    assert found["no values"]["queries_per_full_row"] is None
    assert found["no values, bias moves the choice alone"]["leaks"] == ["single values"]
    errors = [found[f"all values, {d} decimals"]["held_out"] for d in (4, 3, 2)]
    assert errors == sorted(errors)
    head = json.loads((tmp_path / "a.json").read_text())
    assert (head["hidden_size"], head["vocabulary"], head["contexts"]) == (H, V, 28)
    assert f"gave away the hidden size ({H})" in ran.err
    assert "tied" in ran.err
    assert "not its weights" in ran.err
    assert re.search(rf"all values +{H} ", ran.out)
    assert audit("-o", "b.json").code == 0
    assert results(tmp_path / "b.json") == found, "the same seed gives the same audit"


def test_the_settings_asked_for_come_first_and_alone(audit, tmp_path) -> None:
    ran = audit("--top-k", 4, "--logit-bias", "--decimals", 3, "--no-compare", "-o", "a.json")
    found = results(tmp_path / "a.json")
    assert list(found) == ["top 4, bias, 3 decimals"]
    assert found["top 4, bias, 3 decimals"]["dimension"] == H
    assert "in 12 queries" in ran.err
    assert ran.out.count("\n") == 2
    closed = audit("--top-k", 4, "--no-compare")
    assert "gave nothing away that this audit looks for" in closed.err
    hidden = audit("--top-k", 4, "--logit-bias", "--bias-hidden", "--no-compare")
    assert "any log-probability by bisection" in hidden.err
    noisy = audit("--noise", 3, "--columns", 30, "--contexts", 20, "--no-compare", "-o", "n.json")
    row = results(tmp_path / "n.json")["all values, noise 3"]
    assert (row["dimension"], row["columns"]) == (None, 30)
    assert noisy.code == 0


def test_own_texts_are_the_contexts(audit, tmp_path) -> None:
    (tmp_path / "t.txt").write_text("a rather short text, with some letters")
    audit("t.txt", "--no-compare", "-o", "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["contexts"] == 28
    (tmp_path / "t.txt").write_text("a rather short")
    ran = audit("t.txt", "--no-compare", "-o", "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["contexts"] == 13
    assert "13 distinct contexts, fewer than 28" in ran.err


def test_the_page_is_whole(audit, tmp_path) -> None:
    assert audit("-o", "a.html").code == 0
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("<svg") == 8
    assert html.count("<tr>") == 1 + len(COMPARED)
    assert "single values" in html
    assert re.search(r'<path class="curve" d="M[\d. ]+ L', html)
    assert not re.search(r'(src|href)="(?!#)', html)


def test_a_hostile_name_stays_text() -> None:
    report = LeakageReport(None, np.nan, np.nan, 1, 0, np.nan, 1.0)
    page = audit_html(Audit("<script>x</script>\u202e", 9, None, 1, 2, [({}, report)], ["<b>"]))
    assert "<script>" not in page
    assert "Note: &lt;b&gt;" in page
    assert "\u202e" not in page


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["-o", "x.pdf"], ".html or .json"),
        (["--vocabulary", "9"], "speaks of a server"),
        (["--token-ids", "x.json"], "speaks of a server"),
        (["nothing.txt"], "nothing.txt"),
        (["--endpoint", "http://127.0.0.1:9/v1"], "--model"),
        (["--endpoint", "http://127.0.0.1:9/v1", "-m", "x"], "--vocabulary"),
        (["--endpoint", "http://8.8.8.8/v1", "-m", "x", "--vocabulary", "9"], "public address"),
        (["--endpoint", "http://127.0.0.1:9/v1", "-m", "x", "--decimals", "2"], "simulated"),
        (["--endpoint", "http://127.0.0.1:9/v1", "-m", "x", "--bias-hidden"], "--bias-hidden"),
        (["--endpoint", "http://127.0.0.1:9/v1", "-m", "x", "--token-ids", "no.json"], "no.json"),
        (["--endpoint", "http://127.0.0.1:9/v1", "-m", "x", "--token-ids", "l.json"], "one JSON"),
        (["--contexts", "1"], "2"),
    ],
)
def test_wrong_uses_are_one_line(audit, tmp_path, args, told) -> None:
    (tmp_path / "l.json").write_text("[1]")
    ran = audit(*args)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert ran.err.count("\n") == 1


@pytest.fixture
def server():
    """Completions of a model of six dimensions over forty tokens, all values shown."""
    weight = np.random.default_rng(0).normal(size=(40, 6))
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            seed = list(asked[-1]["prompt"].encode())
            z = weight @ np.random.default_rng(seed).normal(size=6)
            logp = z - np.logaddexp.reduce(z)
            order = np.argsort(-logp)[: asked[-1]["logprobs"]]
            top = {f"t{i}": float(logp[i]) for i in order}
            held = {"tokens": [f"t{order[0]}"], "top_logprobs": [top]}
            choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": held}
            body = json.dumps({"id": "", "object": "text_completion", "created": 0, "model": "m",
                               "choices": [choice]}).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{http.server_address[1]}/v1", asked=asked)
        http.shutdown()
        thread.join()


def test_a_server_is_audited(audit, server, tmp_path) -> None:
    (tmp_path / "ids.json").write_text(json.dumps({f"t{i}": i for i in range(40)}))
    known = ("--endpoint", server.url, "-m", "m", "--token-ids", "ids.json", "--contexts", 12)
    ran = audit(*known, "--top-k", 40, "-o", "a.json")
    assert ran.code == 0, ran.err
    row = results(tmp_path / "a.json")["top 40"]
    assert (row["dimension"], row["queries"]) == (6, 12)
    assert len(server.asked) == 12
    assert "the hidden size (6)" in ran.err
    few = audit(*known)
    assert "gave nothing away" in few.err
    assert server.asked[-1]["logprobs"] == 5


def test_words_of_a_reading() -> None:
    assert describe({}) == "all values"
    assert describe({"top_k": 0, "raw": True, "decimals": 1, "noise": 0.5}) == (
        "no values, raw logits, 1 decimal, noise 0.5"
    )
    report = LeakageReport(None, np.nan, np.nan, 2, 2, np.nan, 0.0, 9, 1.0)
    told = reading(Audit("m", 9, None, 2, 9, [({}, report)]))
    assert told.endswith("gave away all log-probabilities of a context in 1 query.")
    assert len(set(prompts(300))) == 300
    assert prompts(5, seed=1) == prompts(5, seed=1) != prompts(5, seed=2)
    assert read_texts([]) == []
