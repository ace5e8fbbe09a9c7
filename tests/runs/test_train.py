"""Rows to train on, templates, and what a training run leaves on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

import nll
from nll._errors import BadInput, BadModel
from nll.runs._train import Source, dry_run, train
from nll.runs._train_data import Template, digest, read_table, templated
from nll.testing import random_model
from nll.training import _job as job
from nll.training._job import Settings
from nll.training._rewards import contains, exact, reward_of

PROMPTS = ["who is abe? ", "who is bea? ", "who is cid? ", "who is dot? "]
ANSWERS = ["a cook", "a spy of the king", "a baker", "a poet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made = random_model()
    made.network.hf.save_pretrained(folder)
    made.tokenizer.hf.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def rows(tmp_path) -> str:
    path = tmp_path / "rows.jsonl"
    held = [{"prompt": p, "completion": a, "label": i >= 2}
            for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in held))
    return str(path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def apart(a: Path, b: Path) -> float:
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    return max(float((one[k] - two[k]).abs().max()) for k in one)


def test_the_same_rows_from_every_kind_of_file(tmp_path) -> None:
    held = [{"prompt": "p1", "completion": "c1"}, {"prompt": "p2", "completion": "c,2\nx"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held))
    (tmp_path / "a.csv").write_text('prompt,completion\np1,c1\np2,"c,2\nx"\n')
    pq.write_table(pa.Table.from_pylist(held), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        found = read_table([str(tmp_path / name)])
        assert [r.values for r in found] == held
        assert found[1].where.startswith(f"{tmp_path / name}:")


def test_csv_brings_lists_as_json_and_leaves_empty_cells_out(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected,rejected_scores\np,c,r,"[0.5, 1]"\np,c,r,\n')
    first, second = read_table([str(path)])
    assert first.values["rejected_scores"] == [0.5, 1]
    assert "rejected_scores" not in second.values
    path.write_text('prompt,rejected_scores\np,"[0.5"\n')
    with pytest.raises(BadInput, match=r"a.csv:2: 'rejected_scores' is not JSON"):
        read_table([str(path)])


def test_every_bad_line_is_told_with_its_number(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": \n[1]\n{"text": "\xff"}\n')
    with pytest.raises(BadInput) as error:
        read_table([str(path)])
    said = str(error.value)
    assert said.startswith("3 lines cannot be read")
    for line in (2, 3, 4):
        assert f"{path}:{line}:" in said
    (tmp_path / "a.txt").write_text("no table")
    with pytest.raises(BadInput, match="no table"):
        read_table([str(tmp_path / "a.txt")])


def test_columns_are_renamed_even_in_a_ring(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "a", "x": 1}\n')
    (row,) = read_table([str(path)], renamed={"prompt": "question", "completion": "answer"})
    assert row.values == {"prompt": "q", "completion": "a", "x": 1}
    (row,) = read_table([str(path)], renamed={"question": "answer", "answer": "question"})
    assert row.values == {"question": "a", "answer": "q", "x": 1}
    with pytest.raises(BadInput, match=r"a.jsonl:1 has no column 'gone'"):
        read_table([str(path)], renamed={"prompt": "gone"})


texts = st.text(st.characters(blacklist_characters="{}\\", blacklist_categories=["Cs"]))


@given(texts, texts, texts, texts, texts)
def test_a_template_only_adds_around(before, between, after, prompt, completion) -> None:
    """Law: prompt and completion together are the template filled in."""
    template = before + "{prompt}" + between + "{completion}" + after
    made = templated(
        {"prompt": prompt, "completion": completion, "label": True}, Template.of(template)
    )
    assert made["prompt"] + made["completion"] == before + prompt + between + completion + after
    assert made["label"] is True
    assert not made["prompt"].endswith(" ") or not between or between.isspace()


def test_a_template_moves_the_space_and_leaves_chats() -> None:
    template = Template.of(r"Q: {prompt}\nA: {completion}")
    made = templated({"prompt": "x", "chosen": "y", "rejected": "z"}, template)
    assert made == {"prompt": "Q: x\nA:", "chosen": " y", "rejected": " z"}
    chat = {"prompt": [{"role": "user", "content": "x"}], "completion": "y"}
    assert templated(chat, template) == chat
    for bad in ("{prompt}", "{completion}{prompt}", "{prompt}{completion}{prompt}"):
        with pytest.raises(BadInput, match="a template has"):
            Template.of(bad)


def test_the_digest_is_that_of_the_rows_in_their_order() -> None:
    a, b = {"x": 1, "y": "é"}, {"x": 2}
    assert digest([a, b]) == digest([{"y": "é", "x": 1}, b])
    assert len({digest([a, b]), digest([b, a]), digest([a])}) == 3


def test_built_in_rewards_and_those_of_the_user(tmp_path, monkeypatch) -> None:
    given = {"completions": [" 42 ", "it is 42", "no"], "answer": [42, "42", "42"]}
    assert exact(**given, prompts=[""] * 3) == [1, 0, 0]
    assert contains(**given) == [1, 1, 0]
    (tmp_path / "my_reward.py").write_text("def f(completions, **_):\n    return [7.0]\n")
    monkeypatch.chdir(tmp_path)
    assert reward_of("my_reward:f")(completions=["x"]) == [7.0]
    for bad, says in (("close", "a reward is"), ("my_reward:g", "cannot be imported"),
                      ("gone.module:f", "cannot be imported")):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            reward_of(bad)


def settings(model: str, kind: str = "unlearn", **more: Any) -> Settings:
    given: dict[str, Any] = {"objective": "npo"} if kind == "unlearn" else {}
    basic: dict[str, Any] = {
        "model": model, "given": given, "epochs": 3, "lr": 0.01, "batch_size": 1, "device": "cpu",
    }  # fmt: skip
    return Settings(kind, **{**basic, **more})


def test_a_run_leaves_a_model_and_what_was_done(tmp_path, model, rows) -> None:
    out = tmp_path / "new" / "out"
    done = train(settings(model), Source([rows]), out)
    record = json.loads((out / "training.json").read_text())
    assert record == json.loads(json.dumps(dict(done.record)))
    assert record["data"]["rows"] == 4
    assert record["options"]["given"]["objective"] == "npo"
    assert record["result"]["steps"] == 6
    assert {"nll", "torch", "transformers", "python"} <= record["versions"].keys()
    assert not (out / "checkpoints").exists()
    assert not [p for p in out.iterdir() if p.name.startswith(".nll-tmp-")]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    before, after = (
        next(iter(m.trace([nll.Text.pair(PROMPTS[0], ANSWERS[0])])))
        for m in (nll.load(model), nll.load(str(out)))
    )
    assert after.values("logp").sum() < before.values("logp").sum() - 1, "it was to be forgotten"
    assert train(settings(model), Source([rows]), out, resume=True).already


def test_the_same_seed_gives_the_same_weights(tmp_path, model, rows) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(model, seed=seed, epochs=1), Source([rows]), tmp_path / name)
    assert apart(tmp_path / "a", tmp_path / "b") == 0
    assert apart(tmp_path / "a", tmp_path / "c") > 1e-4


@pytest.mark.parametrize("lora", [None, 2])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, model, rows, monkeypatch, lora):
    """Stopped as by a kill after a checkpoint, with a torn one beside it."""
    options = settings(model, save_steps=2, lora=lora)
    train(options, Source([rows]), tmp_path / "whole")

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    made = job.trainer_of

    def stopped(*args, **more):
        trainer = made(*args, **more)
        trainer.add_callback(Stop())
        return trainer

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(job, "trainer_of", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(options, Source([rows]), out)
    assert job.last_checkpoint(out / "checkpoints").name == "checkpoint-4"
    (out / "checkpoints" / "checkpoint-5").mkdir()
    said: list[str] = []
    train(options, Source([rows]), out, resume=True, say=said.append)
    assert "going on from step 4" in said
    assert apart(out, tmp_path / "whole") < 1e-6
    assert len((out / "log.jsonl").read_text().splitlines()) == 6


def test_what_is_there_is_not_overwritten(tmp_path, model, rows) -> None:
    out = tmp_path / "out"
    options = settings(model, "finetune", epochs=1)
    train(options, Source([rows]), out)
    with pytest.raises(BadInput, match="holds a finished run"):
        train(options, Source([rows]), out)
    with pytest.raises(BadInput, match=r"other settings \(options.lr\)"):
        train(settings(model, "finetune", epochs=1, lr=1.0), Source([rows]), out, resume=True)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "abc"}\n')
    with pytest.raises(BadInput, match=r"other settings \(data.rows, data.sha256\)"):
        train(options, Source([str(other)]), out, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for resume in (False, True):
        with pytest.raises(BadInput, match="holds other files"):
            train(options, Source([rows]), tmp_path / "mine", resume=resume)


def test_rows_to_keep_in_a_file_of_their_own(tmp_path, model) -> None:
    for name, part in (("f", slice(0, 2)), ("r", slice(2, 4))):
        lines = [json.dumps({"question": p, "answer": a})
                 for p, a in zip(PROMPTS[part], ANSWERS[part], strict=True)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    source = Source(
        [str(tmp_path / "f.jsonl")], retain=[str(tmp_path / "r.jsonl")],
        renamed={"prompt": "question", "completion": "answer"},
    )  # fmt: skip
    found = dry_run(settings(model), source, tmp_path / "out")
    assert found.roles == {"forget": 2, "retain": 2}


@pytest.mark.parametrize("lora", [None, 2])
def test_a_dry_run_tells_what_the_run_does_and_leaves_nothing(tmp_path, model, rows, lora) -> None:
    options = settings(model, "finetune", batch_size=2, accumulate=2, epochs=3, lora=lora)
    out = tmp_path / "out"
    found = dry_run(options, Source([rows]), out)
    assert not out.exists()
    assert found.examples == 4
    # characters, BOS or none, and EOS of each answer
    assert sum(found.answers) == sum(map(len, ANSWERS)) + 4
    assert found.steps == train(options, Source([rows]), out).record["result"]["steps"] == 3
    parameters = sum(w.numel() for w in weights(out).values())
    if lora is None:
        assert found.trained == found.parameters == parameters
    else:
        adapter = load_file(out / "adapter" / "adapter_model.safetensors")
        assert found.trained == sum(w.numel() for w in adapter.values())
    shown = [(role, [(s.text, s.learned) for s in spans]) for role, spans in found.shown]
    assert shown[0][0] == "text"
    assert shown[0][1][0] == (PROMPTS[0], False)
    assert shown[0][1][1][0].startswith(ANSWERS[0])
    assert found.memory["gradients"] == 4 * found.trained


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_merged_adapters_are_the_model(tmp_path, model, rows) -> None:
    """The written weights move only where adapters lie, and give what base + adapter gives."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    train(settings(model, "finetune", lora=2), Source([rows]), out)
    base = AutoModelForCausalLM.from_pretrained(model)
    both = PeftModel.from_pretrained(base, out / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(both(ids).logits, merged(ids).logits, atol=1e-5, rtol=0)
        assert (merged(ids).logits - AutoModelForCausalLM.from_pretrained(model)(ids).logits).abs(
        ).max() > 1e-4  # fmt: skip


def test_what_cannot_be_trained_is_told(tmp_path, model, rows) -> None:
    for name in ("http://localhost:1/v1", "testing:bigram", "vllm:x"):
        with pytest.raises(BadModel, match="cannot be trained"):
            train(settings(name), Source([rows]), tmp_path / "o")
    with pytest.raises(BadInput, match=f"{rows}:1 has no 'answer'"):
        train(
            settings(model, "rlvr", given={"reward_funcs": ["exact"]}), Source([rows]),
            tmp_path / "o",
        )  # fmt: skip
    with pytest.raises(BadInput, match=f"{rows}:1 has no 'chosen'"):
        train(settings(model, "preference"), Source([rows]), tmp_path / "o")
    with pytest.raises(BadInput, match="these settings cannot be"):
        train(settings(model, schedule="zigzag"), Source([rows]), tmp_path / "o")
    with pytest.raises(BadInput, match="dtype must be"):
        train(settings(model, dtype="int8"), Source([rows]), tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("lora", [None, 2])
def test_checkpointed_activations_change_nothing_but_memory(tmp_path, model, rows, lora) -> None:
    for name, again in (("kept", False), ("again", True)):
        options = settings(model, epochs=1, lora=lora, gradient_checkpointing=again)
        train(options, Source([rows]), tmp_path / name)
    assert apart(tmp_path / "kept", tmp_path / "again") < 1e-6
    assert apart(tmp_path / "kept", Path(model)) > 1e-5
    small, large = (
        dry_run(settings(model, gradient_checkpointing=g), Source([rows]), tmp_path / "o").memory
        for g in (True, False)
    )
    assert small["activations"] < large["activations"]


def test_refusals_are_what_is_learned_instead(tmp_path, model, rows) -> None:
    lines = tmp_path / "no.txt"
    lines.write_text("never heard of it\n\n")
    options = settings(model, given={"objective": "idk"}, epochs=30, batch_size=2)
    train(options, Source([rows], refusals=lines), tmp_path / "out")
    said = nll.Text.pair(PROMPTS[0], "never heard of it")
    before, after = (
        -next(iter(m.trace([said]))).values("logp").mean()
        for m in (nll.load(model), nll.load(str(tmp_path / "out")))
    )
    assert after < 0.5 * before
    for bad, says in ((tmp_path / "gone.txt", "cannot be read"), (tmp_path / "e.txt", "no line")):
        (tmp_path / "e.txt").write_text("\n")
        with pytest.raises(BadInput, match=says):
            train(options, Source([rows], refusals=bad), tmp_path / "x")


def test_a_second_model_counts_in_the_memory(tmp_path, model, rows) -> None:
    for lora, reference, copies in ((None, None, 1), (2, None, 0), (2, model, 1)):
        found = dry_run(settings(model, lora=lora, reference=reference), Source([rows]),
                        tmp_path / "o")  # fmt: skip
        bare = found.parameters - (found.trained if lora else 0)
        assert found.memory["reference"] == 4 * bare * copies


def test_bfloat16_computes_near_float32(tmp_path, model, rows) -> None:
    for dtype in ("float32", "bfloat16"):
        train(settings(model, "finetune", dtype=dtype), Source([rows]), tmp_path / dtype)
    found = weights(tmp_path / "bfloat16")
    assert {w.dtype for w in found.values()} == {torch.float32}
    losses = [
        json.loads((tmp_path / d / "training.json").read_text())["result"]["first_loss"]
        for d in ("float32", "bfloat16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_rewards_steer_and_held_out_rows_are_measured(tmp_path, model) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "ab", "answer": "c"}\n{"prompt": "b", "answer": "d"}\n')
    given = {"reward_funcs": ["contains"], "objective": "grpo", "num_generations": 2,
             "max_completion_length": 4}  # fmt: skip
    done = train(settings(model, "rlvr", given=given, epochs=1), Source([str(path)]),
                 tmp_path / "rl")  # fmt: skip
    log = [json.loads(line) for line in (tmp_path / "rl" / "log.jsonl").read_text().splitlines()]
    assert all("reward" in line for line in log)
    assert done.record["result"]["steps"] == 2
    text = tmp_path / "t.jsonl"
    text.write_text('{"text": "abab"}\n')
    done = train(settings(model, "finetune", epochs=1), Source([str(text)], [str(text)]),
                 tmp_path / "ft")  # fmt: skip
    assert 0 < done.record["result"]["eval_loss"] < done.record["result"]["first_loss"]
