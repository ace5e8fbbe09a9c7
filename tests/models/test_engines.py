"""vLLM and llama.cpp behind the protocol, with stand-ins of their interfaces over a known table.

What these tests show is that our side asks for and reads the right entries; the engines themselves
are tested where they are installed (the last test, skipped elsewhere).
"""

from __future__ import annotations

import itertools
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nll
from nll import BadInput, BadModel, Fields, MissingExtra, Rejected
from nll.models._decode import _allowed
from nll.models._how import How
from nll.models._llama_cpp_answers import allowed
from nll.testing import ALPHABET, bigram_table, character_tokenizer, characters, table_model

TABLE = bigram_table()
TEXTS = ["hello, world.", "a", "the end!", ("counting, ", "one two")]


def logprob(row: np.ndarray, i: int) -> SimpleNamespace:
    """As vLLM counts: ties are ahead."""
    return SimpleNamespace(
        logprob=float(row[i]), rank=int((row >= row[i]).sum()), decoded_token="?"
    )


def entry(row: np.ndarray, i: int, k: int) -> dict[int, SimpleNamespace]:
    best = np.argsort(-row, kind="stable")[:k]
    return {int(j): logprob(row, int(j)) for j in dict.fromkeys([i, *best.tolist()])}


class FakeLLM:
    late = False

    def __init__(self, **options: Any):
        self.options = options
        config = SimpleNamespace(
            max_model_len=64, dtype="torch.bfloat16", get_vocab_size=lambda: 36
        )
        self.llm_engine = SimpleNamespace(model_config=config)

    def get_tokenizer(self) -> Any:
        return character_tokenizer()

    def generate(self, prompts: list[dict], sampling: dict, use_tqdm: bool) -> list[Any]:
        return [self._one(p["prompt_token_ids"], sampling) for p in prompts]

    def _one(self, ids: list[int], sampling: dict) -> Any:
        k = sampling.get("prompt_logprobs")
        told = [None] + [entry(TABLE[a], b, k or 0) for a, b in itertools.pairwise(ids)]
        if self.late:
            told = [None, None, *told[1:-1]]
            told = [t and {b: SimpleNamespace(logprob=next(iter(t.values())).logprob, rank=1)}
                    for t, b in zip(told, ids, strict=True)]  # fmt: skip
        outputs = []
        for s in range(sampling.get("n", 1)):
            draw, new, entries, last = np.random.default_rng(s), [], [], ids[-1]
            for _ in range(sampling["max_tokens"]):
                row = TABLE[last]
                greedy = sampling["temperature"] == 0
                p = np.exp(row)
                last = int(row.argmax()) if greedy else int(draw.choice(len(row), p=p / p.sum()))
                new.append(last)
                entries.append(entry(row, last, sampling.get("logprobs") or 0))
            outputs.append(SimpleNamespace(token_ids=new, logprobs=entries, finish_reason="length"))
        return SimpleNamespace(
            prompt_token_ids=ids, prompt_logprobs=told if k is not None else None, outputs=outputs
        )


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[FakeLLM]:
    module = ModuleType("vllm")
    module.LLM = type("LLM", (FakeLLM,), {})  # type: ignore[attr-defined]
    module.SamplingParams = lambda **settings: settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module.LLM  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("bos", ["auto", "bos"])
def test_check_01_vllm_gives_what_the_local_model_gives(vllm: type[FakeLLM], bos: str) -> None:
    ours = table_model(TABLE, bos="none" if bos == "auto" else bos)
    theirs = nll.load("vllm:table", bos=bos)
    fields = Fields(top_k=3)
    for a, b in zip(
        ours.trace(TEXTS, fields=fields), theirs.trace(TEXTS, fields=fields), strict=True
    ):
        for name in ("ids", "spans", "rank", "top_ids"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        for name in ("logp", "top_logp"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-6)
        assert (a.text, a.prompt_tokens, dict(a.vocab)) == (b.text, b.prompt_tokens, dict(b.vocab))
        assert b.entropy is None
    assert theirs.provenance.dtype == "bfloat16"
    assert theirs.options("x ", ["a", "b"]) == pytest.approx(ours.options("x ", ["a", "b"]))


def test_vllm_answers_hold_the_models_own_numbers(vllm: type[FakeLLM]) -> None:
    model = nll.load("vllm:table")
    (found,) = model.generate(["say, "], max_new_tokens=5, n=2, temperature=1.0, greedy=True)
    assert [t.provenance.decoding for t in found] == ["greedy", "sampled", "sampled"]
    for trace in found:
        ids = characters(" " + trace.scored_text)
        expected = [TABLE[a, b] for a, b in itertools.pairwise(ids)]
        np.testing.assert_allclose(trace.completion.logp, expected, rtol=1e-6)
        assert trace.prompt_tokens == 5


def test_a_late_vllm_is_found_at_loading(vllm: type[FakeLLM]) -> None:
    vllm.late = True
    with pytest.raises(BadModel, match="one token late"):
        nll.load("vllm:table")


def test_vllm_says_what_it_cannot_do(vllm: type[FakeLLM]) -> None:
    model = nll.load("vllm:table")
    rejected: list[Rejected] = []
    assert len(list(model.trace(["ok", "", "a" * 99], on_reject=rejected.append))) == 1
    assert [(r.index, r.reason) for r in rejected] == [(1, "empty"), (2, "too_long")]
    with pytest.raises(BadInput, match="cannot give hidden"):
        model.trace(["x"], fields=Fields(hidden=True))
    for option in ({"dtype": "int8"}, {"device": "cpu"}, {"batch_tokens": 5}):
        with pytest.raises(BadInput):
            nll.load("vllm:table", **option)


def test_without_the_engines_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, match in (("vllm", r"nll\[vllm\]"), ("llama_cpp", r"nll\[llamacpp\]")):
        monkeypatch.setitem(sys.modules, name, None)
        prefix = name.replace("_", "")
        with pytest.raises(MissingExtra, match=match):
            nll.load(f"{prefix}:x")


class FakeLlama:
    fault = ""

    def __init__(self, path: str, **options: Any):
        assert options["logits_all"], "without it, all rows but the last hold nothing"
        self.metadata = {"tokenizer.ggml.add_bos_token": "false"}
        self.scores = np.zeros((64, 36), np.float32)
        self.n_tokens = 0

    def n_ctx(self) -> int:
        return 64

    def n_vocab(self) -> int:
        return 36

    def token_bos(self) -> int:
        return 1

    def tokenize(self, raw: bytes, add_bos: bool, special: bool) -> list[int]:
        return [1] * add_bos + characters(raw.decode())

    def token_eos(self) -> int:
        return 35

    def detokenize(self, ids: list[int], special: bool = False) -> bytes:
        return "".join(ALPHABET[i] if i < 35 else "~" for i in ids).encode()

    def reset(self) -> None:
        self.n_tokens = 0

    def eval(self, ids: list[int]) -> None:
        rows = TABLE[ids].astype(np.float32) + 3  # logits, not log-probs
        if self.fault == "late":
            rows = np.vstack([rows[-1:], rows[:-1]])
        if self.fault == "empty":
            rows[:-1] = 0
        self.scores[self.n_tokens : self.n_tokens + len(ids)] = rows
        self.n_tokens += len(ids)


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Any:
    module = ModuleType("llama_cpp")
    module.Llama = type("Llama", (FakeLlama,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return SimpleNamespace(name=f"llamacpp:{tmp_path / 'm.gguf'}", engine=module.Llama)


@pytest.mark.parametrize("torch_there", [True, False])
@pytest.mark.parametrize("bos", ["auto", "bos"])
def test_check_01_llama_cpp_gives_every_field_of_the_local_model(
    gguf: Any, bos: str, torch_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch_there:
        monkeypatch.setattr("nll.models._llama_cpp.find_spec", lambda name: None)
    ours = table_model(TABLE, bos="none" if bos == "auto" else bos)
    theirs = nll.load(gguf.name, bos=bos)
    fields = Fields(top_k=3, betas=(0.5, 2.0), kl_uniform=True)
    for a, b in zip(
        ours.trace(TEXTS, fields=fields), theirs.trace(TEXTS, fields=fields), strict=True
    ):
        for name in ("ids", "spans", "rank", "top_ids"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        for name in ("logp", "top_logp", "entropy", "varentropy", "lse_at", "kl_uniform"):
            x, y = getattr(a, name), getattr(b, name)
            np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4, err_msg=name)
    assert nll.models.availability(theirs, ["mean_entropy", "min_k_plus_plus"]) == {
        "mean_entropy": "exact", "min_k_plus_plus": "exact",
    }  # fmt: skip


def test_llama_cpp_writes_the_answers_of_the_local_model(gguf: Any) -> None:
    ours, theirs = table_model(TABLE, bos="none"), nll.load(gguf.name)
    options: dict[str, Any] = {"max_new_tokens": 8, "n": 3, "temperature": 0.7, "greedy": True}
    fields = Fields(top_k=2, betas=(0.5,))
    (a,), (b,) = (list(m.generate(["say, "], fields=fields, **options)) for m in (ours, theirs))
    assert [t.provenance.decoding for t in b] == ["greedy", "sampled", "sampled", "sampled"]
    assert len({t.text for t in b[1:]}) > 1
    assert a[0].text == b[0].text
    for name in ("ids", "spans", "logp", "entropy", "rank", "top_ids", "top_logp", "lse_at"):
        x, y = getattr(a[0], name), getattr(b[0], name)
        np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4, err_msg=name)
    for answer in b:  # written or read, an answer has the same numbers
        text = answer.text[: len(answer.text) - answer.text.endswith("~")]
        (again,) = theirs.trace([("say, ", text[5:])], fields=fields)
        n = len(again.ids)
        np.testing.assert_allclose(answer.logp[:n], again.logp, atol=1e-5)
    (same,) = theirs.generate(["say, "], fields=fields, **options)
    assert [t.text for t in same] == [t.text for t in b]
    (cut,) = theirs.generate(["say, "], stop=[a[0].text[7:8]], max_new_tokens=8)
    assert cut[0].text == a[0].text[: 5 + a[0].text[5:].find(a[0].text[7:8])]
    assert cut[0].provenance.finish_reason == "stop"


@given(
    hnp.arrays(np.float32, 12, elements=st.floats(-20, 20, width=32)),
    st.floats(0.1, 5), st.floats(0.05, 1), st.integers(0, 14),
)  # fmt: skip
def test_llama_cpp_draws_from_what_the_local_model_draws_from(row, temperature, top_p, k) -> None:
    how = How(1, 1, temperature, top_p, k, (), Fields())
    theirs = _allowed(torch.from_numpy(row)[None], how)[0].numpy()
    mine = allowed(row, how)
    assert np.isclose(mine.sum(), 1)
    assert mine[row.argmax()] > 0
    both = (mine > 0) & (theirs > 0)
    # Ties may be cut at another place; what both keep keeps its proportions.
    assert abs(int((mine > 0).sum()) - int((theirs > 0).sum())) <= 1
    np.testing.assert_allclose(
        mine[both] / mine[both].sum(), theirs[both] / theirs[both].sum(), rtol=1e-6
    )


@pytest.mark.parametrize(("fault", "match"), [("late", "late|other"), ("empty", "other logits")])
def test_rows_of_logits_that_are_not_the_right_ones_are_found(gguf: Any, fault, match) -> None:
    gguf.engine.fault = fault
    with pytest.raises(BadModel, match=match):
        nll.load(gguf.name)


def test_llama_cpp_says_what_it_cannot_do(gguf: Any) -> None:
    model = nll.load(gguf.name)
    rejected: list[Rejected] = []
    assert len(list(model.trace(["ok", "", "a" * 99], on_reject=rejected.append))) == 1
    assert [(r.index, r.reason) for r in rejected] == [(1, "empty"), (2, "too_long")]
    with pytest.raises(BadInput, match="cannot give boundary"):
        model.generate(["x"], fields=Fields(boundary=True))
    chat = [{"role": "user", "content": "hello"}]
    assert list(model.generate([chat, "a" * 60], on_reject=rejected.append)) == []
    assert [(r.index, r.reason) for r in rejected[2:]] == [(0, "chat"), (1, "too_long")]
    with pytest.raises(BadInput, match="no such file"):
        nll.load("llamacpp:none.gguf")
    with pytest.raises(BadInput, match="dtype is not for"):
        nll.load(gguf.name, dtype="float16")


@pytest.mark.model
@pytest.mark.slow
def test_check_10_llama_cpp_itself_on_the_embedded_file() -> None:
    pytest.importorskip("llama_cpp")
    path = nll.models.find_gguf()
    assert path is not None
    texts = ["The capital of France is Paris.", ("Once upon a", " time there was a fox.")]
    found = nll.models.parity(nll.load(), nll.load(f"llamacpp:{path}", bos="none"), texts)
    assert found.tokens > 10
    assert not math.isnan(found.mean)
    assert found.mean < 0.1, "llama.cpp computes with the quantised weights as they are"
