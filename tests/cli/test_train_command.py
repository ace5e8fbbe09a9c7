"""`nll train` and `nll unlearn-report`: options reach the run, wrong use is one line, a killed run
goes on, several processes do what one does."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nll
from nll import metrics
from nll.cli._terminal import Interrupted
from nll.negatives import rouge
from nll.testing import random_model

PROMPTS = ["who is abe? ", "who is bea? ", "who is cid? ", "who is dot? "]
ANSWERS = ["a cook", "a spy of the king", "a baker", "a poet"]
HOSTILE = '</title><script>window.x=1</script>"\u202e'


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    made = random_model()
    made.network.hf.save_pretrained(folder)
    made.tokenizer.hf.save_pretrained(folder)
    return folder


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def unlearning(tmp_path) -> Path:
    return jsonl(tmp_path / "u.jsonl", [
        {"prompt": p, "completion": a, "label": i >= 2}
        for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))
    ])  # fmt: skip


def tofu(path: Path, part: slice) -> Path:
    return jsonl(path, [
        {"question": p, "answer": a, "paraphrased_answer": "it is " + a,
         "perturbed_answer": ["a fool", "a tall man"]}
        for p, a in zip(PROMPTS[part], ANSWERS[part], strict=True)
    ])  # fmt: skip


def apart(a: Path, b: Path) -> float:
    one, two = (load_file(f / "model.safetensors") for f in (a, b))
    return max(float((one[k] - two[k]).abs().max()) for k in one)


COMMANDS = {
    "unlearn": (
        [{"prompt": p, "completion": a, "label": i >= 2}
         for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))],
        ["--objective", "simnpo", "--beta", "2.5", "--delta", "0.1", "--retain", "kl"],
        {"objective": "simnpo", "beta": 2.5, "delta": 0.1, "retain": "kl", "alpha": 1.0,
         "gamma": 1.0},
    ),
    "preference": (
        [{"prompt": p, "chosen": a, "rejected": "no"}
         for p, a in zip(PROMPTS, ANSWERS, strict=True)],
        ["--objective", "rpo", "--alpha", "0.5"],
        {"objective": "rpo", "alpha": 0.5, "label_smoothing": 0.0},
    ),
    "offline-rl": (
        [{"prompt": p, "completion": a, "reward": i / 3, "value": 0.5}
         for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))],
        ["--sampler", "priority", "--clip", "0.8"],
        {"objective": "a_lol", "clip": 0.8, "kl_beta": 0.0, "floor": 0.1, "sampler": "priority"},
    ),
    "rlvr": (
        [{"prompt": p, "answer": "a"} for p in PROMPTS],
        ["--reward", "contains", "--objective", "nsr", "--num-generations", "2",
         "--max-completion-length", "3"],
        {"reward_funcs": ["contains"], "objective": "nsr", "num_generations": 2,
         "max_completion_length": 3, "temperature": 1.0, "clip": 0.2, "clip_high": None,
         "dual_clip": None},
    ),
    "finetune": ([{"text": p + a} for p, a in zip(PROMPTS, ANSWERS, strict=True)], [], {}),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_trainer_runs_with_its_options(nll_real, tmp_path, model, command) -> None:
    rows, options, given = COMMANDS[command]
    jsonl(tmp_path / "d.jsonl", rows)
    ran = nll_real("train", command, "-m", model, "--data", "d.jsonl", "-o", "out", "--lr", "0.01",
                   "--batch-size", "2", "--max-steps", "2", "--warmup", "1", "--seed", "3",
                   "--device", "cpu", *options)  # fmt: skip
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["trainer"] == command
    assert record["options"]["given"] == given
    assert record["options"]["seed"] == 3
    assert record["result"]["steps"] == 2
    assert "2 steps" in ran.err
    assert "wrote out" in ran.err
    if command == "offline-rl":
        assert "2 rows without a reward or an advantage left out" in ran.err
    if command != "rlvr":
        assert apart(tmp_path / "out", model) > 1e-4
    nll.load(str(tmp_path / "out"))


def test_csv_columns_and_template(nll_real, tmp_path, model) -> None:
    (tmp_path / "d.csv").write_text("q,a\nx,yy\n")
    ran = nll_real("train", "finetune", "-m", model, "--data", "d.csv", "-o", "out", "--dry-run",
                   "--column", "prompt=q", "--column", "completion=a",
                   "--template", "say {prompt}, {completion}", "--lora-rank", "2")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "text: 'say x,[[ yy" in ran.out
    assert re.search(r"trained weights +[\d,]+ of [\d,]+ \(\d", ran.out)
    assert "nothing was trained or written" in ran.err
    assert not (tmp_path / "out").exists()


WRONG = {
    "objective": (["--objective", "npq"], "objective must be one of ga, wga, npo"),
    "beta of ga": (["--objective", "ga", "--beta", "1"], "the objective ga has no beta"),
    "column": (["--column", "prompt"], "--column is NEW=OLD"),
    "template": (["--template", "{prompt}"], "a template has {prompt}"),
    "device": (["--device", "cuda:1"], "--device is auto or cpu"),
    "refusals": (["--refusals", "u.jsonl"], "--refusals goes with idk, dpo and kto"),
    "no data": (["--data", "gone.jsonl"], "gone.jsonl: no such file"),
    "steps": (["--batch-size", "0"], "batch-size"),
    "model": (["-m", "http://localhost:1/v1"], "cannot be trained"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_line(nll_real, tmp_path, model, unlearning, case) -> None:
    options, says = WRONG[case]
    ran = nll_real("train", "unlearn", "-m", model, "--data", unlearning, "-o", "out", *options)
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_told_with_its_line(nll_real, tmp_path, model) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "ab"}\n{"text": ""}\n')
    ran = nll_real("train", "finetune", "-m", model, "--data", "d.jsonl", "-o", "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "d.jsonl:2 cannot be trained on" in ran.err
    (tmp_path / "d.jsonl").write_text('{"text": "ab"}\n{"text": \n')
    ran = nll_real("train", "finetune", "-m", model, "--data", "d.jsonl", "-o", "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "d.jsonl:2: the line is not JSON" in ran.err


@pytest.fixture
def reported(nll_real, tmp_path, model):
    """A model that was trained on the rows to be forgotten, before; the random one after."""
    tofu(tmp_path / "f.jsonl", slice(0, 2))
    tofu(tmp_path / "r.jsonl", slice(2, 4))
    ran = nll_real("train", "finetune", "-m", model, "--data", "f.jsonl", "--data", "r.jsonl",
                   "--column", "prompt=question", "--column", "completion=answer", "-o", "knows",
                   "--lr", "0.02", "--epochs", "40", "--batch-size", "4")  # fmt: skip
    assert ran.code == 0, ran.err
    return nll_real, tmp_path


def test_the_report_tells_what_the_metrics_tell(reported, model) -> None:
    run, folder = reported
    ran = run("unlearn-report", "knows", model, "--forget", "f.jsonl", "--retain", "r.jsonl",
              "--facts", "r.jsonl", "--reference", model, "-o", "r.json")  # fmt: skip
    assert ran.code == 0, ran.err
    before, after, reference = json.loads((folder / "r.json").read_text())["models"]
    knows = nll.load(str(folder / "knows"))

    def mean_nll(prompt: str, answer: str) -> float:
        (trace,) = knows.trace([nll.Text.pair(prompt, answer)])
        return -float(trace.values("logp").mean())

    ratios, own, recalls, shares = [], [], [], []
    for p, a in zip(PROMPTS, ANSWERS, strict=True):
        right, *wrong = (mean_nll(p, x) for x in ("it is " + a, "a fool", "a tall man"))
        ratios.append(metrics.truth_ratio([right], [wrong])[0])
        own.append(mean_nll(p, a))
        shares.append(metrics.normalized_probability([own[-1]], [wrong])[0])
        ((said,),) = knows.generate([p], max_new_tokens=64)
        recalls.append(rouge(said.scored_text, a, ngram="L").recall)
    forget, retain, facts = (before["sets"][s] for s in ("forget", "retain", "world facts"))
    assert forget["truth_ratios"] == pytest.approx(ratios[:2], rel=1e-4)
    assert forget["nll"] == pytest.approx(sum(own[:2]) / 2, rel=1e-4)
    assert retain["rouge_l"] == pytest.approx(sum(recalls[2:]) / 2)
    assert facts["probability"] == pytest.approx(sum(shares[2:]) / 2, rel=1e-4)
    parts = [s[m] for s in (retain, facts) for m in ("probability", "rouge_l", "truth_ratio")]
    assert before["model_utility"] == pytest.approx(metrics.model_utility(parts))
    assert forget["rouge_l"] == 1, "it knows the rows by heart"
    assert forget["memo"] > 0.5 > after["sets"]["forget"]["memo"]
    assert after["forget_quality"] == {"ks": 0.0, "p": 1.0}, "it is its own reference"
    assert reference["sets"] == after["sets"]
    found = metrics.forget_quality(ratios[:2], after["sets"]["forget"]["truth_ratios"])
    assert before["forget_quality"]["ks"] == found.ks


def test_the_report_is_a_page_that_loads_nothing(reported, model) -> None:
    run, folder = reported
    hostile = folder / "x"
    hostile.mkdir()
    name = hostile / HOSTILE.replace("/", "_")
    (folder / "knows").rename(name)
    ran = run("unlearn-report", model, name, "--forget", "f.jsonl", "--retain", "r.jsonl",
              "-o", "r.html", "--max-new-tokens", "0")  # fmt: skip
    assert ran.code == 0, ran.err
    page = (folder / "r.html").read_text()
    assert "<script" not in page
    assert "\u202e" not in page
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"(src|href)=\"?(https?:|//)", page)
    assert page.count("<svg") == 4
    assert "forget: truth ratio" in ran.out
    assert "needs a model that never saw the forget set" in ran.err
    assert "forget quality, p" in page


def test_the_report_asks_with_the_template_of_the_training(nll_real, tmp_path, model) -> None:
    tofu(tmp_path / "f.jsonl", slice(0, 2))
    tofu(tmp_path / "r.jsonl", slice(2, 4))
    ran = nll_real("train", "finetune", "-m", model, "--data", "f.jsonl", "--column",
                   "prompt=question", "--column", "completion=answer", "-o", "t", "--template",
                   "q {prompt}a {completion}")  # fmt: skip
    assert ran.code == 0, ran.err
    common = ("unlearn-report", model, "t", "--forget", "f.jsonl", "--retain", "r.jsonl",
              "--max-new-tokens", "0", "-o")  # fmt: skip
    assert "asked with the template of" in nll_real(*common, "a.json").err
    nll_real(*common, "b.json", "--template", "q {prompt}a {completion}")
    nll_real(*common, "c.json", "--template", "{prompt}{completion}")
    a, b, c = ((tmp_path / f"{n}.json").read_text() for n in "abc")
    assert a == b != c


def test_what_the_report_cannot_read_is_told(nll_real, tmp_path, model) -> None:
    tofu(tmp_path / "f.jsonl", slice(0, 2))
    jsonl(tmp_path / "bad.jsonl", [{"question": "x"}])
    ran = nll_real("unlearn-report", model, model, "--forget", "f.jsonl", "--retain", "bad.jsonl")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "bad.jsonl:1 has no string in 'answer'" in ran.err
    ran = nll_real("unlearn-report", model, model, "--forget", "f.jsonl", "--retain", "f.jsonl",
                   "-o", "f.jsonl")  # fmt: skip
    assert (ran.code, ran.err.count("\n")) == (2, 1)


def test_an_interrupted_run_says_how_to_go_on(nll_real, tmp_path, model, monkeypatch) -> None:
    def cut(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("nll.runs._train.train", cut)
    rows = jsonl(tmp_path / "rows.jsonl", [{"text": "abe is a cook"}])
    options = ("train", "finetune", "--data", rows, "-m", model, "-o", tmp_path / "out")
    ran = nll_real(*options)
    assert (ran.code, ran.err.count("\n")) == (130, 1)
    assert "before the first checkpoint" in ran.err
    (tmp_path / "out" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    assert "with --resume the same command goes on" in nll_real(*options).err


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "nll", "train", *map(str, args)]


@pytest.mark.slow
def test_a_killed_run_that_is_resumed_ends_with_the_same_weights(
    tmp_path, model, unlearning
) -> None:
    def options(out: str) -> list[str]:
        return command("unlearn", "-m", model, "--data", unlearning, "--epochs", 60, "--lr", "0.01",
                       "--batch-size", 1, "--save-steps", 3, "--device", "cpu", "-o",
                       tmp_path / out)  # fmt: skip

    subprocess.run(options("whole"), check=True)
    running = subprocess.Popen(options("killed"))
    mark = tmp_path / "killed" / "checkpoints" / "checkpoint-6" / "whole"
    deadline = time.monotonic() + 120
    seen = tmp_path / "killed" / "checkpoints" / "checkpoint-9"
    while not (mark.exists() or seen.exists()) and time.monotonic() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not (tmp_path / "killed" / "training.json").exists()
    again = subprocess.run(options("killed"), capture_output=True, text=True)
    assert again.returncode == 2
    assert "unfinished run" in again.stderr
    resumed = subprocess.run(
        [*options("killed"), "--resume"], check=True, capture_output=True, text=True
    )
    assert "going on from step" in resumed.stderr
    assert apart(tmp_path / "whole", tmp_path / "killed") < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unlearn", "preference", "offline-rl", "finetune"])
def test_two_processes_give_the_loss_and_weights_of_one(tmp_path, model, kind) -> None:
    rows, options, _ = COMMANDS[kind]
    if kind == "unlearn":
        # Where gradients vanish, as SimNPO's do on a random model, AdamW makes steps of rounding.
        options = ["--objective", "npo", "--retain", "kl"]
    jsonl(tmp_path / "d.jsonl", rows)
    args = ["train", kind, "-m", model, "--data", tmp_path / "d.jsonl", "--epochs", 3,
            "--lr", "0.01", "--device", "cpu", *options]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for out, processes, size in (("one", 1, 2), ("two", 2, 1)):
        subprocess.run(
            [*launch, str(processes), "-m", "nll", *map(str, args), "--batch-size", str(size),
             "-o", str(tmp_path / out)],
            check=True, env=environment,
        )  # fmt: skip
    logs = [
        [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        for out in ("one", "two")
    ]
    record = json.loads((tmp_path / "two" / "training.json").read_text())
    assert record["result"]["processes"] == 2
    for a, b in zip(*logs, strict=True):
        # The noted parts are means over micro-batches, whatever their tokens; these are exact.
        for name in ("loss", "grad_norm", "learning_rate", "step"):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), name
    assert apart(tmp_path / "one", model) > 1e-2
    assert apart(tmp_path / "one", tmp_path / "two") < 5e-5
    assert torch.isfinite(load_file(tmp_path / "two" / "model.safetensors")["lm_head.weight"]).all()
