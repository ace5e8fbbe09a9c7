"""Has a model forgotten what it was to forget, and is it still of use? Before and after."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll import metrics
from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics import ForgetQuality
from nll.runs._train_data import PLAIN, Located, Template, read_table
from nll.trace import Fields, Rejected, Text

if TYPE_CHECKING:
    from nll.models import LanguageModel

FORGET, RETAIN, AUTHORS, FACTS = "forget", "retain", "real authors", "world facts"
MEASURES = ("probability", "rouge_l", "truth_ratio", "memo")
LABELS = {"rouge_l": "ROUGE-L recall", "truth_ratio": "truth ratio", "memo": "MEMO"}
_TEXTS = 64  # texts that are traced at once, so that progress is seen
LIMITS = (
    "These numbers compare models on the rows given. High forget quality says that truth ratios "
    "cannot be told from those of the retain-only model, not that nothing is left: forgotten facts "
    "can come back by training on, by quantisation or by asking otherwise."
)


class Item(NamedTuple):
    """A question, its answer, the answer in other words, and wrong ones."""

    question: str
    answer: str
    paraphrase: str
    wrong: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of rows under one model.

    nll: mean over rows of nats per token.   probability: mean of exp(-nll), beside distractors
    normalised by them.   rouge_l: recall of the greedy answer.   truth_ratio: `mean_truth_ratio`
    of `ratios`, one R a row.   memo: mean MEMO of the first rows.
    """

    rows: int
    nll: float
    probability: float
    rouge_l: float
    truth_ratio: float
    memo: float
    ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A model: what it is here, its sets, what it is good for, and how well it forgot."""

    role: str
    name: str
    sets: Mapping[str, Measured]
    utility: float
    quality: ForgetQuality


@dataclass(frozen=True, slots=True)
class UnlearnReport:
    """The models in the order before, after, reference; what utility is made of; remarks."""

    models: tuple[Judged, ...]
    utility_of: tuple[str, ...]
    notes: tuple[str, ...]


class How(NamedTuple):
    """max_new_tokens: of generated answers, 0 for none.   memo_rows: rows of the forget set whose
    MEMO is measured, 0 for none; memo_window: characters between its cuts."""

    template: Template = PLAIN
    max_new_tokens: int = 64
    memo_rows: int = 8
    memo_window: int = 25


def read_items(
    inputs: Sequence[str], renamed: Mapping[str, str] | None = None, most: int | None = None
) -> list[Item]:
    """Rows with TOFU's columns: question, answer, paraphrased_answer, perturbed_answer.

    `prompt` and `completion` stand in for the first two; without a paraphrase the answer itself is
    taken. Raises BadInput naming the row that lacks a string.
    """
    return [_item(row) for row in read_table(inputs, renamed=renamed, most=most)]


def _item(row: Located) -> Item:
    values = row.values

    def one(*names: str) -> str:
        found = next((values[n] for n in names if values.get(n) is not None), None)
        if not isinstance(found, str) or not found:
            has = ", ".join(repr(n) for n in values) or "none"
            raise BadInput(f"{row.where} has no string in '{names[0]}' (it has: {has})")
        return found

    wrong = values.get("perturbed_answer") or ()
    wrong = (wrong,) if isinstance(wrong, str) else tuple(wrong)
    if not all(isinstance(w, str) and w for w in wrong):
        raise BadInput(f"{row.where}: perturbed_answer must be strings, none of them empty")
    answer = one("answer", "completion")
    paraphrase = one("paraphrased_answer", "answer", "completion")
    return Item(one("question", "prompt"), answer, paraphrase, wrong, row.where)


def template_of(given: str | None, after: str) -> tuple[Template, str]:
    """The template that is asked with, and where it comes from: the call, or AFTER's training."""
    if given is not None:
        return Template.of(given), ""
    record = Path(after) / "training.json"
    if record.is_file():
        held = json.loads(record.read_text(encoding="utf-8")).get("template")
        if held:
            return Template.of(held), f"asked with the template of {record}: {held!r}"
    return PLAIN, ""


def unlearn_report(
    models: Mapping[str, Callable[[], LanguageModel]],
    names: Mapping[str, str],
    sets: Mapping[str, Sequence[Item]],
    how: How,
    *,
    tick: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> UnlearnReport:
    """Measure `before`, `after` and, where given, `reference` (the retain-only model).

    models: role to what opens it; one is open at a time.   sets: `forget`, `retain`, and TOFU's two
    of general knowledge. Utility is the harmonic mean of what could be measured of all sets but
    `forget`. Raises BadInput for a set without rows or a text that cannot be scored.
    """
    found: dict[str, dict[str, Measured]] = {}
    for role, opening in models.items():
        say(f"{role}: {names[role]}")
        model = opening()
        found[role] = {s: _measured(model, s, items, how, tick) for s, items in sets.items()}
        del model
    parts = [
        (s, m) for s in sets if s != FORGET for m in MEASURES[:3]
        if all(not math.isnan(getattr(held[s], m)) for held in found.values())
    ]  # fmt: skip
    target = found.get("reference", {}).get(FORGET)
    judged = []
    for role, held in found.items():
        utility = metrics.model_utility({f"{s}, {m}": getattr(held[s], m) for s, m in parts})
        if target is None:
            why = Undefined("no retain-only model was given (--reference)")
            quality = ForgetQuality(why, why)
        else:
            quality = metrics.forget_quality(held[FORGET].ratios, target.ratios)
        judged.append(Judged(role, names[role], held, float(utility), quality))
    notes = []
    if target is None:
        notes.append("Forget quality needs a model that never saw the forget set (--reference)")
    for s, items in sets.items():
        bare = sum(not i.wrong for i in items)
        if bare:
            notes.append(
                f"{bare} of {len(items)} rows of '{s}' have no perturbed_answer, so no truth ratio"
            )
    return UnlearnReport(
        tuple(judged), tuple(f"{LABELS.get(m, m)} ({s})" for s, m in parts), tuple(notes)
    )


def _measured(
    model: LanguageModel, name: str, items: Sequence[Item], how: How, tick: Callable[[int], None]
) -> Measured:
    if not items:
        raise BadInput(f"the set '{name}' has no rows")
    asked = [(how.template.prompt(i.question), i) for i in items]
    texts, at = [], []
    for prompt, item in asked:
        for answer in (item.answer, item.paraphrase, *item.wrong):
            texts.append(Text.pair(prompt, how.template.completion(answer)))
            at.append(item.where)
    nlls = iter(list(_nlls(model, texts, at)))
    own, ratios, probability = [], [], []
    for item in items:
        mine, paraphrase, *wrong = (next(nlls) for _ in range(2 + len(item.wrong)))
        own.append(mine)
        known = metrics.normalized_probability([mine], [wrong] if wrong and _fact(name) else None)
        probability.append(float(known[0]))
        if wrong:
            ratios.append(float(metrics.truth_ratio([paraphrase], [wrong])[0]))
    of: Any = "forget" if name == FORGET else "retain"
    return Measured(
        rows=len(items),
        nll=float(np.mean(own)),
        probability=float(np.mean(probability)),
        rouge_l=_rouge_l(model, asked, how, tick),
        truth_ratio=float(metrics.mean_truth_ratio(ratios, of=of)),
        memo=_memo(model, name, asked, how),
        ratios=tuple(ratios),
    )


def _fact(name: str) -> bool:
    return name in (AUTHORS, FACTS)


def _nlls(model: LanguageModel, texts: Sequence[Text], at: Sequence[str]) -> Iterator[float]:
    """Mean nats per token of each answer."""

    def refuse(rejected: Rejected) -> None:
        raise BadInput(f"{at[start + rejected.index]} cannot be scored: {rejected.detail}")

    for start in range(0, len(texts), _TEXTS):
        part = texts[start : start + _TEXTS]
        for trace in model.trace(part, fields=Fields(), on_reject=refuse):
            yield -float(trace.values("logp").mean())


def _rouge_l(
    model: LanguageModel, asked: Sequence[tuple[str, Item]], how: How, tick: Callable[[int], None]
) -> float:
    if how.max_new_tokens == 0:
        tick(len(asked))
        return Undefined("no answers were generated (--max-new-tokens 0)")
    from nll.negatives import rouge

    prompts = [prompt for prompt, _ in asked]
    recalls = []
    answers = model.generate(prompts, max_new_tokens=how.max_new_tokens, fields=Fields())
    for (trace,), (_, item) in zip(answers, asked, strict=True):
        recalls.append(rouge(trace.scored_text, item.answer, ngram="L").recall)
        tick(1)
    return float(np.mean(recalls))


def _memo(model: LanguageModel, name: str, asked: Sequence[tuple[str, Item]], how: How) -> float:
    if name != FORGET or how.memo_rows == 0 or how.max_new_tokens == 0:
        return Undefined("MEMO was not measured here")
    from nll.negatives import greedy_continuations, memo_score

    ask = greedy_continuations(model, max_new_tokens=how.max_new_tokens)

    def mean(prompt: str, answer: str) -> float:
        def generate(prompts: list[str]) -> list[str]:
            # MEMO puts a space between question and answer; here stands what the template has.
            return list(ask([prompt + how.template.space + p[len(prompt) + 1 :] for p in prompts]))

        return memo_score(prompt, answer, generate, window=how.memo_window).mean

    found = [mean(prompt, item.answer) for prompt, item in asked[: how.memo_rows]]
    kept = [m for m in found if not math.isnan(m)]
    return float(np.mean(kept)) if kept else Undefined("no answer is long enough for MEMO")


def as_json(report: UnlearnReport) -> str:
    """All numbers; nan is null."""

    def value(x: float) -> float | None:
        return None if math.isnan(x) else float(x)

    models = [
        {
            "role": m.role, "model": m.name, "model_utility": value(m.utility),
            "forget_quality": {"ks": value(m.quality.ks), "p": value(m.quality.p)},
            "sets": {
                name: {"rows": s.rows, "nll": value(s.nll),
                       **{k: value(getattr(s, k)) for k in MEASURES},
                       "truth_ratios": list(s.ratios)}
                for name, s in m.sets.items()
            },
        }
        for m in report.models
    ]  # fmt: skip
    held = {"models": models, "utility_of": report.utility_of, "notes": report.notes}
    return json.dumps(held, indent=2, ensure_ascii=False) + "\n"


def table_of(report: UnlearnReport) -> list[tuple[str, str, list[float]]]:
    """(measure, which way is better, value under each model) of everything that was measured."""
    rows: list[tuple[str, str, list[float]]] = [
        ("forget quality, p", "higher", [float(m.quality.p) for m in report.models]),
        ("forget quality, KS", "lower", [float(m.quality.ks) for m in report.models]),
        ("model utility", "higher", [m.utility for m in report.models]),
    ]
    wanted = {
        "nll": ("higher", "lower"), "probability": ("lower", "higher"),
        "rouge_l": ("lower", "higher"), "truth_ratio": ("higher", "higher"),
        "memo": ("lower", "higher"),
    }  # fmt: skip
    for name in report.models[0].sets:
        for measure, (forgot, kept) in wanted.items():
            values = [float(getattr(m.sets[name], measure)) for m in report.models]
            if measure == "memo" and all(map(math.isnan, values)):
                continue
            row = f"{name}: {LABELS.get(measure, measure)}"
            rows.append((row, forgot if name == FORGET else kept, values))
    return rows
