"""The trainers against updates made by hand, cut batches, resumed runs, adapters."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tests.training.trainers import (
    ANSWERS,
    PROMPTS,
    apart,
    arguments,
    by_hand,
    logged,
    model_and_tokenizer,
    preference_rows,
    unlearning_rows,
    weights,
)

from nll import objectives
from nll._errors import BadInput
from nll.objectives import token_logps
from nll.training import (
    ALoLTrainer,
    CDPOTrainer,
    FinetuneTrainer,
    GroupRLTrainer,
    OfflineRLTrainer,
    PreferenceTrainer,
    ResRLTrainer,
    UnlearnTrainer,
)
from nll.training._policy import answer_logps, plain_head
from nll.training._rows import Encoder, padded


def batch_of(tokenizer: Any, pairs: Any) -> dict[str, torch.Tensor]:
    encoder = Encoder(tokenizer)
    return padded([encoder.example(p, a) for p, a in pairs], encoder.pad)


def plain_logps(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return token_logps(logits, batch["input_ids"], batch["completion_mask"])


def test_examples_end_with_eos_and_know_the_answer() -> None:
    _, tokenizer = model_and_tokenizer()
    example = Encoder(tokenizer).example("ab", "cd")
    assert example["completion_mask"] == [0, 0, 1, 1, 1]
    assert example["input_ids"][-1] == tokenizer.eos_token_id
    short = Encoder(tokenizer, max_length=4).example("abcdef", "xy")
    assert short["completion_mask"] == [0, 1, 1, 1]
    cut = Encoder(tokenizer, max_length=3).example("abcdef", "uvwxyz")
    assert cut["completion_mask"] == [0, 1, 1]


def test_log_probs_without_logits_are_those_with_them() -> None:
    model, tokenizer = model_and_tokenizer()
    batch = batch_of(tokenizer, zip(PROMPTS, ANSWERS, strict=True))
    assert plain_head(model) is not None
    mine, plain = answer_logps(model, batch), plain_logps(model, batch)
    assert torch.equal(mine.mask, plain.mask)
    torch.testing.assert_close(mine.logp, plain.logp, atol=1e-5, rtol=0)
    assert "forward" not in vars(plain_head(model))


FORGET = {
    "ga": lambda own, ref, other, other_ref: objectives.ga_loss(own.logp, own.mask),
    "wga": lambda own, *_: objectives.wga_loss(own.logp, own.mask),
    "npo": lambda own, ref, *_: objectives.npo_loss(own.logp, ref, mask=own.mask),
    "simnpo": lambda own, *_: objectives.simnpo_loss(own.logp, mask=own.mask, beta=0.5),
    "idk": lambda own, ref, other, _: objectives.nll_loss(other.logp, other.mask),
    "meow": lambda own, *_: objectives.nll_loss(own.logp, own.mask),
    "dpo": lambda own, ref, other, other_ref: objectives.dpo_loss(
        other.logp, other_ref, own.logp, ref, mask_c=other.mask, mask_r=own.mask, scale=20.0
    ),
    "kto": lambda own, ref, other, other_ref: objectives.kto_loss(
        own.logp, ref, mask=own.mask, z=objectives.kto_baseline(
            other.logp, other_ref, mask=other.mask
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("objective", FORGET)
def test_unlearning_makes_the_step_of_its_formula(tmp_path, objective: str) -> None:
    """One batch of both forget rows, with the refusal given, against SGD by hand."""
    model, tokenizer = model_and_tokenizer()
    start = model_and_tokenizer()[0]
    rows = [{**r, "alternate": "dunno"} for r in unlearning_rows()]
    trainer = UnlearnTrainer(
        model, arguments(tmp_path), objective=objective, retain=None, train_dataset=rows,
        processing_class=tokenizer, beta=0.5 if objective == "simnpo" else None,
    )  # fmt: skip
    trainer.train()

    own = batch_of(tokenizer, [(r["prompt"], r["completion"]) for r in rows[:2]])
    other = batch_of(tokenizer, [(r["prompt"], "dunno") for r in rows[:2]])

    def loss(moved: Any) -> torch.Tensor:
        with torch.no_grad():
            refs = [plain_logps(start, b).logp for b in (own, other)]
        mine, instead = (plain_logps(moved, b) for b in (own, other))
        return FORGET[objective](mine, refs[0], instead, refs[1])

    assert apart(model, by_hand(start, loss)) < 1e-5
    assert apart(model, start) > 1e-5


@pytest.mark.parametrize("retain", ["nll", "kl"])
def test_the_retain_term_is_added_by_its_weight(tmp_path, retain: str) -> None:
    model, tokenizer = model_and_tokenizer()
    start = model_and_tokenizer()[0]
    rows = [*unlearning_rows()[:2], unlearning_rows()[3]]  # one row to keep: no chance in it
    reference, _ = model_and_tokenizer(seed=5)
    trainer = UnlearnTrainer(
        model, arguments(tmp_path), objective="ga", retain=retain, alpha=0.5, gamma=2.0,
        ref_model=reference if retain == "kl" else None, train_dataset=rows,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    own = batch_of(tokenizer, [(r["prompt"], r["completion"]) for r in rows[:2]])
    keep = batch_of(tokenizer, [(rows[2]["prompt"], rows[2]["completion"])] * 2)

    def loss(moved: Any) -> torch.Tensor:
        mine, kept = (plain_logps(moved, b) for b in (own, keep))
        if retain == "nll":
            term = objectives.retain_nll(kept.logp, kept.mask)
        else:
            logits = [m(keep["input_ids"], attention_mask=keep["attention_mask"]).logits[:, :-1]
                      for m in (moved, reference)]  # fmt: skip
            term = objectives.retain_kl(*logits, keep["completion_mask"][:, 1:])
        return 2.0 * objectives.ga_loss(mine.logp, mine.mask) + 0.5 * term

    assert apart(model, by_hand(start, loss)) < 1e-5
    assert logged(trainer, "forget_loss")
    assert logged(trainer, "retain_loss")


KINDS = {
    "unlearn": lambda m, t, a: UnlearnTrainer(
        m, a, objective="npo", train_dataset=unlearning_rows() * 3, processing_class=t
    ),
    "token means": lambda m, t, a: UnlearnTrainer(
        m, a, objective="ga", retain=None, train_dataset=unlearning_rows() * 3, processing_class=t
    ),
    "preference": lambda m, t, a: PreferenceTrainer(
        m, a, objective="dpo", train_dataset=preference_rows(), processing_class=t
    ),
    "finetune": lambda m, t, a: FinetuneTrainer(
        m, a, train_dataset=[{"text": p + x} for p, x in zip(PROMPTS, ANSWERS, strict=True)],
        processing_class=t,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_batch_makes_the_same_update(tmp_path, kind: str) -> None:
    """Micro-batches of unequal token counts, and an incomplete one at the end."""
    found = []
    for size, steps in ((4, 1), (1, 4), (2, 2)):
        model, tokenizer = model_and_tokenizer()
        options = arguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        trainer = KINDS[kind](model, tokenizer, options)
        trainer.train()
        found.append(weights(model))
    assert (found[0] - weights(model_and_tokenizer()[0])).abs().max() > 1e-5
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=0)


KINDS["by priority"] = lambda m, t, a: OfflineRLTrainer(
    m, a, sampler="priority", train_dataset=offline_rows() + offline_rows(), processing_class=t
)


@pytest.mark.parametrize("kind", ["unlearn", "preference", "by priority"])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, kind: str) -> None:
    def run(folder: str, **more: Any) -> Any:
        model, tokenizer = model_and_tokenizer()
        options = arguments(
            tmp_path / folder, per_device_train_batch_size=2, num_train_epochs=3,
            save_strategy="steps", save_steps=2, optim="adamw_torch", **more,
        )  # fmt: skip
        return KINDS[kind](model, tokenizer, options)

    unbroken = run("unbroken")
    unbroken.train()
    stopped = run("stopped")
    stopped.add_callback(_Stop())
    stopped.train()
    assert stopped.state.global_step == 4 < unbroken.state.global_step
    resumed = run("stopped")
    resumed.train(resume_from_checkpoint=True)
    assert apart(resumed.model, unbroken.model) < 1e-6
    assert apart(stopped.model, unbroken.model) > 1e-4


def _Stop() -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = state.global_step >= 4
            return control

    return Stop()


def test_a_reference_in_its_four_forms_gives_one_update(tmp_path) -> None:
    sums = model_and_tokenizer()[0]
    found = []
    for form in ("none", "model", "function", "columns"):
        model, tokenizer = model_and_tokenizer()
        rows = unlearning_rows()[:2]
        given = {
            "none": None, "model": model_and_tokenizer()[0],
            "function": lambda part: plain_logps(sums, part).logp, "columns": None,
        }[form]  # fmt: skip
        if form == "columns":
            batch = batch_of(tokenizer, [(r["prompt"], r["completion"]) for r in rows])
            with torch.no_grad():
                known = plain_logps(sums, batch).logp.sum(-1).tolist()
            rows = [{**r, "ref_logps": k} for r, k in zip(rows, known, strict=True)]
        trainer = UnlearnTrainer(
            model, arguments(tmp_path, num_train_epochs=3), retain=None, train_dataset=rows,
            ref_model=given, processing_class=tokenizer,
        )  # fmt: skip
        assert (trainer.reference is None) == (form == "columns")
        trainer.train()
        found.append(weights(model))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=0)


def test_adapters_are_trained_and_switched_off_for_the_reference(tmp_path) -> None:
    model, tokenizer = model_and_tokenizer()
    before = weights(model)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = PreferenceTrainer(
            model,
            arguments(tmp_path, num_train_epochs=8, learning_rate=0.02, optim="adamw_torch",
                      per_device_train_batch_size=5),
            train_dataset=preference_rows(), processing_class=tokenizer, peft_config=config,
        )  # fmt: skip
        trainer.train()
    loss = logged(trainer, "loss")
    assert loss[0] == pytest.approx(0.6931, abs=2e-3)  # policy = reference at the start
    assert loss[-1] < loss[0]
    base = {n: p for n, p in trainer.model.named_parameters() if "lora" not in n}
    assert torch.equal(torch.cat([p.detach().flatten() for p in base.values()]), before)


def test_an_adapter_called_ref_is_the_reference_of_one_that_is_trained_further(tmp_path) -> None:
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    model, tokenizer = model_and_tokenizer()
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, config)
        draw = torch.Generator().manual_seed(0)
        for name, p in tuned.named_parameters():
            if "lora_B" in name:
                p.data.copy_(torch.randn(p.shape, generator=draw))
        tuned.add_adapter("ref", config)
        held = get_peft_model_state_dict(tuned, adapter_name="default")
        set_peft_model_state_dict(tuned, held, adapter_name="ref")
        tuned.set_adapter("default")
        before = {n: p.detach().clone() for n, p in tuned.named_parameters() if ".ref." in n}
        trainer = PreferenceTrainer(
            tuned, arguments(tmp_path, per_device_train_batch_size=5, num_train_epochs=2),
            train_dataset=preference_rows(), processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    loss = logged(trainer, "loss")
    assert loss[0] == pytest.approx(0.6931, abs=1e-4)
    assert loss[1] != loss[0]
    after = dict(tuned.named_parameters())
    assert before
    assert all(torch.equal(p, after[name]) for name, p in before.items())
    assert tuned.active_adapter == "default"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_begin_with_the_numbers_of_the_seed(tmp_path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    found = []
    for other in (1, 2):
        torch.manual_seed(other)
        model, tokenizer = model_and_tokenizer()
        trainer = FinetuneTrainer(
            model, arguments(tmp_path), train_dataset=[{"text": "abc"}],
            processing_class=tokenizer, peft_config=config,
        )  # fmt: skip
        found.append(weights(trainer.model))
    assert torch.equal(*found)


def test_labels_and_numbers_may_be_strings_as_csv_brings_them(tmp_path) -> None:
    model, tokenizer = model_and_tokenizer()
    rows = [{**r, "label": str(r["label"]).lower()} for r in unlearning_rows()]
    trainer = UnlearnTrainer(
        model, arguments(tmp_path), train_dataset=rows, processing_class=tokenizer
    )
    assert len(trainer.train_dataset.forget) == 2
    assert len(trainer.train_dataset.keep) == 3
    rewarded = [{**r, "reward": str(r["reward"]), "value": "0.5"} for r in offline_rows()]
    offline = OfflineRLTrainer(
        model, arguments(tmp_path), sampler="random", train_dataset=rewarded,
        processing_class=tokenizer,
    )  # fmt: skip
    assert [e["reward"] for e in offline.train_dataset] == [0.9, 0.7, 0.8]


@pytest.mark.parametrize("objective", ["dpo", "rpo", "kto", "cdpo"])
def test_preferences_are_learned(tmp_path, objective: str) -> None:
    model, tokenizer = model_and_tokenizer()
    rows: list[dict[str, Any]] = preference_rows()
    if objective == "kto":
        rows = [{"prompt": r["prompt"], "completion": r[k], "label": k == "chosen"}
                for r in rows for k in ("chosen", "rejected")]  # fmt: skip
    if objective == "cdpo":
        rows = [{**r, "rejected_scores": [0.5] * len(r["rejected"])} for r in rows]
    trainer = PreferenceTrainer(
        model, arguments(tmp_path, num_train_epochs=30, learning_rate=5e-3, optim="adamw_torch",
                         per_device_train_batch_size=5),
        objective=objective, beta=0.5, train_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    loss = logged(trainer, "loss")
    assert loss[-1] < 0.8 * loss[0]
    if objective in ("dpo", "rpo"):
        assert logged(trainer, "accuracy")[-1] == 1


def offline_rows() -> list[dict[str, Any]]:
    rewards = [0.9, 0.4, 0.7, 0.2, 0.8]
    return [
        {"prompt": p, "completion": a, "reward": r, "value": 0.5}
        for p, a, r in zip(PROMPTS, ANSWERS, rewards, strict=True)
    ]


@pytest.mark.parametrize(
    "objective", ["wbc", "r_gold", "r_lol", "a_lol", "a_lol_ref_free", "a_lol_seq", "a_lol_kl"]
)
def test_offline_rl_raises_what_is_rewarded(tmp_path, objective: str) -> None:
    model, tokenizer = model_and_tokenizer()
    start = model_and_tokenizer()[0]
    trainer = OfflineRLTrainer(
        model, arguments(tmp_path, num_train_epochs=4), objective=objective,
        train_dataset=offline_rows(), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    good = batch_of(tokenizer, [(PROMPTS[0], ANSWERS[0])])
    with torch.no_grad():
        gain = plain_logps(model, good).logp.sum() - plain_logps(start, good).logp.sum()
    assert gain > 0


def test_the_first_step_of_a_lol_is_ref_free(tmp_path) -> None:
    found = []
    for objective in ("a_lol", "a_lol_ref_free", "a_lol_seq"):
        model, tokenizer = model_and_tokenizer()
        options = arguments(tmp_path, per_device_train_batch_size=5)
        OfflineRLTrainer(
            model, options, objective=objective, train_dataset=offline_rows(),
            processing_class=tokenizer,
        ).train()  # fmt: skip
        found.append(weights(model))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=0)


def test_rows_without_an_advantage_are_dropped_where_rows_are_drawn(tmp_path) -> None:
    model, tokenizer = model_and_tokenizer()
    trainer = OfflineRLTrainer(
        model, arguments(tmp_path), sampler="priority", train_dataset=offline_rows(),
        processing_class=tokenizer,
    )  # fmt: skip
    assert trainer.dropped == 2
    assert len(trainer.train_dataset) == 3
    trainer.train()
    with pytest.raises(BadInput, match="no row has a reward above its value"):
        OfflineRLTrainer(
            model, arguments(tmp_path), sampler="random", processing_class=tokenizer,
            train_dataset=[{**r, "value": 1.0} for r in offline_rows()],
        )  # fmt: skip


def test_rows_without_a_reward_are_dropped_and_told(tmp_path) -> None:
    model, tokenizer = model_and_tokenizer()
    rows = [*offline_rows(), {**offline_rows()[0], "reward": float("nan")}]
    rows.append({**offline_rows()[0], "value": "nan"})
    with pytest.warns(UserWarning, match="2 of 7 rows have no reward or value"):
        trainer = OfflineRLTrainer(
            model, arguments(tmp_path), train_dataset=rows, processing_class=tokenizer
        )
    assert trainer.dropped == 2
    assert [e["reward"] for e in trainer.train_dataset] == [r["reward"] for r in offline_rows()]
    with (
        pytest.warns(UserWarning, match="1 of 1 rows"),
        pytest.raises(BadInput, match="no row has a reward"),
    ):
        OfflineRLTrainer(
            model, arguments(tmp_path), train_dataset=rows[-1:], processing_class=tokenizer
        )


def test_trainers_have_the_names_of_their_papers(tmp_path) -> None:
    model, tokenizer = model_and_tokenizer()
    args = arguments(tmp_path)
    scored = [{**r, "rejected_scores": [0.5] * len(r["rejected"])} for r in preference_rows()]
    given: dict[str, Any] = {"processing_class": tokenizer}
    cdpo = CDPOTrainer(model, args, train_dataset=scored, **given)
    assert (cdpo.objective, cdpo.beta) == ("cdpo", 1.0)
    plain = PreferenceTrainer(model, args, objective="cdpo", train_dataset=scored, **given)
    assert plain.beta == CDPOTrainer(model, args, train_dataset=scored, **given).beta
    assert PreferenceTrainer(model, args, train_dataset=preference_rows(), **given).beta == 0.1
    for variant in ("a_lol", "ref_free", "seq", "kl"):
        lol = ALoLTrainer(model, args, variant=variant, train_dataset=offline_rows(), **given)
        assert lol.objective == ("a_lol" if variant == "a_lol" else f"a_lol_{variant}")
    with pytest.raises(BadInput, match="variant must be one of"):
        ALoLTrainer(model, args, variant="token")
    res = ResRLTrainer(
        model, args, reward_funcs=ends_early, train_dataset=[{"prompt": "x"}], **given
    )
    assert res.objective == "resrl"
    known = UnlearnTrainer(
        model, args, method="SimNPO", retain_loss_type="KL", train_dataset=unlearning_rows(),
        **given,
    )  # fmt: skip
    assert (known.objective, known.retain, known.beta) == ("simnpo", "kl", 4.5)


def ends_early(prompts, completions, completion_ids, **columns):
    """Rewards short answers; the words of the column are there to be counted."""
    assert len(columns["word"]) == len(completions) == len(prompts)
    return [1.0 if len(ids) <= 4 else 0.0 for ids in completion_ids]


@pytest.mark.parametrize("objective", ["grpo", "nsr", "psr", "w_reinforce", "resrl"])
def test_group_rl_follows_its_reward(tmp_path, objective: str) -> None:
    model, tokenizer = model_and_tokenizer()
    torch.manual_seed(0)
    trainer = GroupRLTrainer(
        model, arguments(tmp_path, num_train_epochs=12, per_device_train_batch_size=2,
                         learning_rate=0.02, optim="adamw_torch"),
        reward_funcs=ends_early, objective=objective, num_generations=8, max_completion_length=8,
        resrl_options={"rank": 4},
        train_dataset=[{"prompt": p, "word": "x"} for p in PROMPTS[:2]],
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    reward = logged(trainer, "reward")
    assert sum(reward[-4:]) > sum(reward[:4])


def test_evaluation_gives_a_loss(tmp_path) -> None:
    model, tokenizer = model_and_tokenizer()
    trainer = PreferenceTrainer(
        model, arguments(tmp_path), train_dataset=preference_rows(),
        eval_dataset=preference_rows(), processing_class=tokenizer,
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m, t, a: UnlearnTrainer(m, a, objective="gone"), "objective must"),
        (lambda m, t, a: UnlearnTrainer(m, a, retain="all"), "retain must"),
        (lambda m, t, a: UnlearnTrainer(m, a, objective="ga", beta=0.1), "has no beta"),
        (lambda m, t, a: UnlearnTrainer(m, a, objective="ga", delta=0.1), "SimNPO's margin"),
        (
            lambda m, t, a: UnlearnTrainer(
                m, a, train_dataset=unlearning_rows()[:2], processing_class=t
            ),
            "rows to keep",
        ),
        (
            lambda m, t, a: UnlearnTrainer(
                m, a, train_dataset=unlearning_rows()[2:], processing_class=t
            ),
            "none has label false",
        ),
        (
            lambda m, t, a: UnlearnTrainer(
                m, a, train_dataset=[{"prompt": "x"}], processing_class=t
            ),
            "row 1 has no 'completion'",
        ),
        (
            lambda m, t, a: UnlearnTrainer(
                m, a, train_dataset=[{"prompt": "x", "completion": "", "label": False}],
                processing_class=t,
            ),
            "row 1 cannot be trained on",
        ),
        (
            lambda m, t, a: UnlearnTrainer(
                m, a, processing_class=t,
                train_dataset=[{"prompt": "x", "completion": "y", "label": "perhaps"}],
            ),
            "row 1 .*label must be true or false, not 'perhaps'",
        ),
        (
            lambda m, t, a: OfflineRLTrainer(
                m, a, objective="wbc", processing_class=t,
                train_dataset=[{"prompt": "x", "completion": "y", "reward": "inf"}],
            ),
            "row 1 .*reward must be a finite number",
        ),
        (
            lambda m, t, a: UnlearnTrainer(
                m, a, objective="ga", retain=None, ref_model=m, processing_class=t,
                train_dataset=unlearning_rows(),
            ),
            "no reference",
        ),
        (lambda m, t, a: PreferenceTrainer(m, a, objective="ppo"), "objective must"),
        (
            lambda m, t, a: PreferenceTrainer(
                m, a, objective="cdpo", processing_class=t,
                train_dataset=[{**preference_rows()[0], "rejected_scores": [0.1]}],
            ),
            "has 1 scores",
        ),
        (lambda m, t, a: OfflineRLTrainer(m, a, objective="wbc", sampler="priority"), "advantage"),
        (lambda m, t, a: OfflineRLTrainer(m, a, kl_beta=0.1), "kl_beta goes with"),
        (
            lambda m, t, a: GroupRLTrainer(m, a, reward_funcs=ends_early, num_generations=1),
            "two answers",
        ),
        (
            lambda m, t, a: FinetuneTrainer(m, a, train_dataset=[{"x": 1}], processing_class=t),
            "neither text",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(tmp_path, make, says: str) -> None:
    model, tokenizer = model_and_tokenizer()
    with pytest.raises(BadInput, match=says):
        make(model, tokenizer, arguments(tmp_path))
