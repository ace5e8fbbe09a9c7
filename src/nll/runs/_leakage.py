"""What does an endpoint of one's own give away? What `nll audit leakage` computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nll import theory
from nll._errors import BadInput
from nll.theory import LeakageReport

LIMITS = (
    "It holds for this model, these settings and this many contexts. Noise that is drawn anew can "
    "be averaged away by asking again, and more contexts reach further; the hidden size and the "
    "span of the output layer are a small part of a model, not its weights."
)
# What an owner may switch on, beside the settings under audit; None of top_k shows all values.
COMPARED: tuple[Mapping[str, Any], ...] = (
    {},
    {"decimals": 4},
    {"decimals": 3},
    {"decimals": 2},
    {"decimals": 1},
    {"noise": 0.1},
    {"noise": 0.5},
    {"top_k": 20},
    {"top_k": 20, "logit_bias": True},
    {"top_k": 20, "logit_bias": True, "decimals": 2},
    {"top_k": 20, "logit_bias": True, "bias_reported": False},
    {"top_k": 0, "logit_bias": True},
    {"top_k": 0},
)
_WORDS = (  # noqa: SIM905  readable as a text
    "the of and to in is was for on with as by at from they we her his not but what all were when "
    "your can said there use each which she how their will up other about out many then them these "
    "so some would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get come made may "
    "part over new sound take only little work know place year live me back give most very after "
    "thing our just name good sentence man think say great where help through much before line "
    "right too mean old any same tell boy follow came want show also around farm three small set "
    "put end does another well large must big even such because turn here why ask went men read "
    "need land different home us move try kind hand picture again change off play spell air away "
    "animal house point page letter mother answer found study still learn should river city tree"
).split()


@dataclass(frozen=True)
class Audit:
    """An endpoint audited, under the settings asked for and others.

    source: model or address.   hidden_size: the true one, None when it is not known.
    contexts: asked.   columns: tokens looked at.   rows: settings and what they gave away, the
    settings under audit first.   notes: what else the owner should know.
    """

    source: str
    vocabulary: int
    hidden_size: int | None
    contexts: int
    columns: int
    rows: list[tuple[Mapping[str, Any], LeakageReport]]
    notes: list[str] = field(default_factory=list)


def audit_model(
    model: Any,
    setting: Mapping[str, Any],
    *,
    texts: Iterable[str] = (),
    contexts: int | None = None,
    columns: int | None = None,
    compare: bool = True,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    tick: Callable[[int], None] = lambda _: None,
) -> Audit:
    """Audit a simulated endpoint around a local model.

    setting: of `LocalEndpoint`.   texts: every place of theirs is a context; made up by default.
    contexts, columns: by default 1.5 and 2 times the hidden size. Raises BadInput as
    `leakage_audit`, BadModel when the model's output projection is not known.
    """
    from nll.models._answers import next_logits, unembedding

    head = unembedding(model)
    width = head.weight.shape[1]
    count = contexts or math.ceil(1.5 * width) + 10
    asked = list(texts) or prompts(count, seed=seed)
    found = next_logits(model, asked, limit=count).logits
    notes = []
    if len(found) < count:
        notes.append(f"the texts hold {len(found)} distinct contexts, fewer than {count}")
    if head.tied:
        notes.append("the output layer is also the input table (tied), so its leak is that of both")
    tokens = some_tokens(found.shape[1], columns or 2 * width, seed)
    settings = [setting, *(s for s in COMPARED if compare and s != _asked(setting))]
    rows = []
    for given in settings:
        say(f"asking {len(found)} contexts: {describe(given)}")
        rows += theory.mitigation_table(
            found.__getitem__, range(len(found)), [given], W=head.weight, tokens=tokens, tick=tick
        )
    return Audit(
        str(model.identity["model"]), found.shape[1], width, len(found), len(tokens), rows, notes
    )


def audit_http(
    endpoint: theory.HttpEndpoint,
    *,
    texts: Iterable[str] = (),
    contexts: int | None = None,
    columns: int | None = None,
    seed: int = 0,
    tick: Callable[[int], None] = lambda _: None,
) -> Audit:
    """Audit a server of one's own; a request a query.

    texts: the prompts, as many as `contexts` (default: all of them, or 1,024 made-up ones).
    columns: tokens to look at, by default 1.25 times the contexts. Raises BadInput as
    `HttpEndpoint` and `leakage_audit`.
    """
    given = list(dict.fromkeys(texts))
    count = contexts or (len(given) if given else 1024)
    asked = given[:count] or prompts(count, seed=seed)
    size = endpoint.vocabulary(asked[0])
    tokens = some_tokens(size, columns or math.ceil(1.25 * len(asked)), seed)
    report = theory.leakage_audit(endpoint, asked, tokens=tokens, tick=tick)
    shown = {"top_k": endpoint.top_k, "logit_bias": endpoint.logit_bias}
    return Audit(endpoint.base_url, size, None, len(asked), len(tokens), [(shown, report)])


def prompts(n: int, *, seed: int = 0) -> list[str]:
    """n distinct rows of eight common words, which set a model to work in many directions."""
    draw = np.random.default_rng(seed)
    held: dict[str, None] = {}
    while len(held) < n:
        held[" ".join(draw.choice(_WORDS, 8).tolist())] = None
    return list(held)


def some_tokens(size: int, count: int, seed: int) -> Any:
    """(m,) distinct token ids, all where as many are wanted as there are."""
    if count < 2:
        raise BadInput(f"columns must be 2 or more, not {count}")
    if count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))


def _asked(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from an open endpoint's."""
    plain = {"top_k": None, "logit_bias": False, "decimals": None, "noise": 0.0, "raw": False,
             "bias_reported": True}  # fmt: skip
    return {k: v for k, v in setting.items() if k not in plain or v != plain[k]}


def describe(setting: Mapping[str, Any]) -> str:
    """Settings in words: `top 20, bias in the values, 2 decimals`."""
    top = setting.get("top_k")
    words = ["all values" if top is None else f"top {top}" if top else "no values"]
    if setting.get("raw"):
        words.append("raw logits")
    if setting.get("logit_bias"):
        inside = setting.get("bias_reported", True) and top != 0
        words.append("bias" if inside else "bias moves the choice alone")
    if setting.get("decimals") is not None:
        words.append(f"{setting['decimals']} decimal{'s' * (setting['decimals'] != 1)}")
    if setting.get("noise"):
        words.append(f"noise {setting['noise']:g}")
    return ", ".join(words)


def reading(audit: Audit) -> str:
    """The result of the settings under audit in plain words."""
    report = audit.rows[0][1]
    asked = f"{report.queries:,} queries on {audit.contexts:,} contexts"
    size = report.hidden.dimension if report.hidden is not None else None
    if not report.leaks:
        return (
            f"With these settings {asked} gave nothing away that this audit looks for; that is no "
            "proof that nothing can be had."
        )
    told = []
    if size is not None:
        told.append(f"the hidden size ({size})")
    if "subspace" in report.leaks:
        told.append("the span of the output layer")
    if "full rows" in report.leaks:
        many = f"{report.per_row:,.0f} quer{'y' if report.per_row == 1 else 'ies'}"
        told.append(f"all log-probabilities of a context in {many}")
    if "single values" in report.leaks:
        told.append(f"any log-probability by bisection ({report.per_row:,.0f} queries a context)")
    what = ", ".join(told[:-1]) + (" and " if len(told) > 1 else "") + told[-1]
    return f"With these settings {asked} gave away {what}."


def rows_of(audit: Audit) -> list[dict[str, Any]]:
    """One flat row for each setting; None where something is undefined."""
    out = []
    for given, r in audit.rows:
        found: dict[str, Any] = {
            "setting": describe(given),
            "leaks": list(r.leaks),
            "dimension": None if r.hidden is None else r.hidden.dimension,
            "gap": None if r.hidden is None else r.hidden.gap,
            "reason": "" if r.hidden is None else r.hidden.reason,
            "held_out": r.held_out,
            "projection_rms": r.projection_rms,
            "bias_error": r.bias_error,
            "unseen_tv": r.unseen_tv,
            "queries": r.queries,
            "full_rows": r.rows,
            "queries_per_full_row": r.per_row,
            "columns": r.columns,
            "lines": r.lines(),
        }
        undefined = {k for k, v in found.items() if isinstance(v, float) and math.isnan(v)}
        out.append({k: None if k in undefined else v for k, v in found.items()})
    return out


def as_json(audit: Audit) -> str:
    """The audit as JSON; null where something is undefined."""
    whole = {
        "source": audit.source,
        "vocabulary": audit.vocabulary,
        "hidden_size": audit.hidden_size,
        "contexts": audit.contexts,
        "columns": audit.columns,
        "reading": reading(audit),
        "limits": LIMITS,
        "notes": audit.notes,
        "results": rows_of(audit),
    }
    return json.dumps(whole, ensure_ascii=False, indent=2)


def read_texts(
    inputs: Sequence[str], *, text_column: str | None = None, lines: bool = False
) -> list[str]:
    """Plain texts of the inputs, none without any; BadInput where a row is none."""
    from nll.runs._read import Columns, read_rows

    if not inputs:
        return []
    out = []
    for row in read_rows(inputs, Columns(text=text_column, lines=lines)):
        if row.text is None:
            raise BadInput(f"{row.where} is no text: {row.detail}")
        out.append((row.text.prompt or "") + row.text.text)
    return out


def open_server(
    address: str,
    name: str | None,
    setting: Mapping[str, Any],
    *,
    vocabulary: int | None,
    token_ids: Path | None,
) -> theory.HttpEndpoint:
    """A running server with what was said about it; BadInput for settings that are its own."""
    for known in ("decimals", "noise", "bias_reported"):
        if known in setting:
            option = "bias-hidden" if known == "bias_reported" else known
            raise BadInput(
                f"--{option} is for the simulated endpoint; a server is audited as it is"
            )
    if name is None:
        raise BadInput("say with --model under which name the server has the model")
    ids = None if token_ids is None else _read_ids(token_ids)
    if vocabulary is None and ids is None:
        raise BadInput("say with --vocabulary how many tokens the server's model has")
    size = vocabulary or max(ids.values()) + 1  # type: ignore[union-attr]
    return theory.HttpEndpoint(
        address,
        name,
        vocabulary=size,
        top_k=setting.get("top_k", 5),
        logit_bias=setting.get("logit_bias", False),
        token_ids=ids,
    )


def _read_ids(path: Path) -> dict[str, int]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    ints = isinstance(held, dict) and all(type(v) is int and v >= 0 for v in held.values())
    if not ints or not held:
        raise BadInput(f"{path} must hold one JSON object of token strings and their ids")
    return dict(held)


def open_model(name: str | None, **options: Any) -> Any:
    """The model to simulate an endpoint around."""
    from nll import models

    return models.load(name, **options)


def check_local(*, vocabulary: int | None, token_ids: Path | None) -> None:
    """Raise BadInput for what is said of a server where none is named."""
    for name, value in (("vocabulary", vocabulary), ("token-ids", token_ids)):
        if value is not None:
            raise BadInput(f"--{name} speaks of a server; name it with --endpoint")
