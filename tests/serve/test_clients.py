"""Real clients at the server: `openai`, and lm-eval's `local-completions`.

Each with the embedded model and with a small random one of the same tokenizer, which is faster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nll
from tests.serve.conftest import Client, running

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXT = "The capital of France is Paris. The capital of Italy is Rome."
ITEMS = [
    ("The capital of France is", ["Paris", "Berlin", "Madrid"], 0),
    ("The opposite of hot is", ["warm", "cold", "blue"], 1),
    ("Two plus two equals", ["five", "nine", "four"], 2),
    ("The sun rises in the", ["east", "west", "kitchen"], 0),
    ("A baby dog is called a", ["kitten", "puppy", "calf"], 1),
    ("Water freezes into", ["steam", "sand", "ice"], 2),
    ("The first month of the year is", ["January", "July", "Monday"], 0),
    ("The language spoken in Brazil is", ["German", "Portuguese", "Greek"], 1),
    ("An apple is a kind of", ["metal", "animal", "fruit"], 2),
    ("The largest planet of the solar system is", ["Jupiter", "Mars", "the moon"], 0),
    ("Romeo and Juliet was written by", ["Newton", "Shakespeare", "Mozart"], 1),
    ("To write on a blackboard one uses", ["butter", "rain", "chalk"], 2),
]


@pytest.fixture(scope="module", params=["random", pytest.param("whole", marks=pytest.mark.model)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the embedded model, or of a small random one with its tokenizer."""
    embedded = nll.models.converted_folder()
    if not (embedded / "config.json").is_file():
        nll.load()  # converts it
    if request.param == "whole":
        return str(embedded)
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("random")
    AutoTokenizer.from_pretrained(embedded).save_pretrained(path)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    return nll.load(folder)


@pytest.fixture(scope="module")
def real(model: Any) -> Iterator[Client]:
    with running(model) as client:
        yield client


@pytest.fixture(scope="module")
def name(real: Client) -> str:
    return str(real.get("/v1/models").json["data"][0]["id"])


@pytest.fixture(scope="module")
def openai_client(real: Client) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{real.port}/v1", api_key="none") as client:
        yield client


def test_openai_lists_and_scores(openai_client: Any, name: str, model: Any) -> None:
    assert [m.id for m in openai_client.models.list()] == [name]
    found = openai_client.completions.create(
        model=name, prompt=TEXT, echo=True, logprobs=5, max_tokens=0
    )
    (trace,) = model.trace([TEXT])
    held = found.choices[0].logprobs
    assert "".join(held.tokens) == TEXT
    assert held.token_logprobs[0] is None
    assert held.token_logprobs[1:] == pytest.approx(trace.logp[1:].tolist(), abs=5e-5)
    assert found.usage.prompt_tokens == len(trace)


def test_openai_continues_as_the_library_does(openai_client: Any, name: str, model: Any) -> None:
    ((answer,),) = model.generate(["The capital of France is"], max_new_tokens=8)
    found = openai_client.completions.create(
        model=name, prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=1
    )
    choice = found.choices[0]
    assert choice.text == answer.scored_text
    assert choice.logprobs.token_logprobs == pytest.approx(answer.values("logp"), abs=1e-4)
    drawn = next(
        model.generate(["Once upon"], max_new_tokens=8, n=2, temperature=1.0, seed=11, top_p=0.9)
    )
    found = openai_client.completions.create(
        model=name, prompt="Once upon", max_tokens=8, n=2, temperature=1.0, seed=11, top_p=0.9
    )
    assert [c.text for c in found.choices] == [t.scored_text for t in drawn]


def test_openai_chats_and_streams(openai_client: Any, name: str) -> None:
    how = {
        "model": name, "temperature": 0, "max_tokens": 12,
        "messages": [{"role": "user", "content": "Name the capital of France."}],
    }  # fmt: skip
    whole = openai_client.chat.completions.create(logprobs=True, top_logprobs=3, **how)
    content = whole.choices[0].logprobs.content
    said = b"".join(bytes(c.bytes) for c in content).decode()
    assert said.startswith(whole.choices[0].message.content)
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
    pieces = list(openai_client.chat.completions.create(stream=True, **how))
    text = "".join(p.choices[0].delta.content or "" for p in pieces)
    assert text == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_openai_reads_the_errors(openai_client: Any, name: str) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        openai_client.completions.create(model=name, prompt="a", max_tokens=10**6)


def test_lm_eval_finds_what_its_own_backend_finds(
    real: Client, name: str, folder: str, tmp_path: Path
) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity", reason="needs lm-eval[api]")
    from lm_eval.tasks import TaskManager

    rows = [
        {"question": q, "choices": [f" {c}" for c in choices], "answer": a}
        for q, choices, a in ITEMS
    ]
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    task = {
        "task": "twelve", "dataset_path": "json", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test",
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "answer",
        "target_delimiter": "", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    (tmp_path / "twelve.yaml").write_text(json.dumps(task), encoding="utf-8")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    common = {"tasks": ["twelve"], "task_manager": manager, "log_samples": True}
    own = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": folder, "dtype": "float32"}, device="cpu",
        batch_size=4, **common,
    )  # fmt: skip
    served = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": name, "tokenizer": folder, "tokenizer_backend": "huggingface",
            "base_url": f"http://127.0.0.1:{real.port}/v1/completions", "num_concurrent": 4,
        },
        batch_size=1, **common,
    )  # fmt: skip
    for metric in ("acc,none", "acc_norm,none"):
        assert served["results"]["twelve"][metric] == own["results"]["twelve"][metric]
    if "random" not in folder:
        assert own["results"]["twelve"]["acc,none"] > 0.5
    for mine, theirs in zip(served["samples"]["twelve"], own["samples"]["twelve"], strict=True):
        assert mine["doc_id"] == theirs["doc_id"]
        for (a, greedy), (b, wanted) in zip(
            mine["filtered_resps"], theirs["filtered_resps"], strict=True
        ):
            assert math.isclose(float(a), float(b), abs_tol=1e-3)
            assert greedy == wanted
