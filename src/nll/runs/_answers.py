"""Questions in, the model's own answers scored: where `nll uncertainty` gets its traces from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from nll._bundle import Bundle, Samples, answer_text
from nll._declare import Request
from nll._table import fields_for, score_batches, score_schema
from nll.models._protocol import LanguageModel, OnReject
from nll.runs._obtain import Found, GatherOptions, Source
from nll.trace import Fields, Rejected, Text, Trace

_PLACE = 2


def answerer(
    model: LanguageModel, wanted: Sequence[Request], fields: Fields, more: GatherOptions
) -> Source:
    """From questions to bundles whose trace is the model's own greedy answer, with drawn answers
    where one of these scores takes samples."""
    sampled = [r for r in wanted if "samples" in r.declaration.takes]
    fields = fields_for(wanted) | fields

    drawn = {"n": more.n_samples, "temperature": more.temperature, "greedy": True}
    how: dict[str, Any] = drawn if sampled else {}

    def answers(texts: Iterable[Text], on_reject: OnReject, start: int) -> Iterator[Found]:
        asked = list(texts)
        refused: set[int] = set()

        def note(rejected: Rejected) -> None:
            refused.add(rejected.index)
            on_reject(rejected)

        found = model.generate(
            map(_question, asked), max_new_tokens=more.max_new_tokens, seed=more.seed + start,
            fields=fields, on_reject=note, **how,
        )  # fmt: skip
        # Lazily: a prompt is refused before the answers to those after it come.
        places = (i for i in range(len(asked)) if i not in refused)
        for (greedy, *others), place in zip(found, places, strict=False):
            own = dataclasses.replace(greedy, id=asked[place].id)
            samples = Samples(others, greedy=own, id=own.id) if sampled else None
            yield Bundle(trace=own, samples=samples)

    return answers


def _question(text: Text) -> Any:
    if text.messages:
        return list(text.messages[:-1])
    return text.text if text.prompt is None else text.prompt


def answer_schema(wanted: Sequence[Request]) -> pa.Schema:
    """That of the scores, with the answer beside the number of its tokens."""
    return score_schema(wanted).insert(_PLACE, pa.field("answer", pa.string()))


def answer_batches(found: Iterable[Found], wanted: Sequence[Request]) -> Iterator[pa.RecordBatch]:
    """Scores of answers with the answers; see `nll.score`."""
    schema = answer_schema(wanted)
    answers: list[str | None] = []

    def noted() -> Iterator[Found]:
        for one in found:
            trace = one if isinstance(one, Trace) else one.trace
            answers.append(None if trace is None else answer_text(trace))
            yield one

    for batch in score_batches(noted(), wanted):
        n = batch.num_rows
        columns = [*batch.columns[:_PLACE], pa.array(answers[:n], pa.string()),
                   *batch.columns[_PLACE:]]  # fmt: skip
        del answers[:n]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
