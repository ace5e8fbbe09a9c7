"""Logit leakage (arXiv 2509.00973): what log-probabilities give away of the model behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import metrics
from nll.runs._leakage import COMPARED, describe, some_tokens
from nll.studies._common import auroc_finding, read_table
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.theory import (
    HiddenDimension,
    align_projection,
    hidden_dimension,
    mitigation_table,
    output_subspace,
)
from nll.theory._leakage import centred
from nll.trace import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nll.models import LanguageModel

ROWS_PER_DIMENSION = 1.5625  # 900 contexts for the embedded model
QUICK = 8192  # tokens looked at where whole rows would take too long
MOST_QUERIES = 10_000
SHARES = (0.5, 0.9, 1.0, 1.01, 1.05, 1.2, 1.5)
MORE = (
    {"decimals": 2, "noise": 0.1},
    {"top_k": 5, "logit_bias": True, "decimals": 3},
)


@study(
    "logit-leakage",
    title="Logit leakage: hidden size and output layer from log-probabilities",
    paper="2509.00973",
    claim="From fewer than 10,000 queries, a singular value decomposition of the log-probabilities "
    "that an endpoint shows gives the model's hidden size and its output projection.",
    falsifier="The rank of the centred log-probabilities is not the hidden size, up to 1, or the "
    "found projection does not span the true one.",
)
def logit_leakage(setting: Setting) -> Outcome:
    """The spectrum under each mitigation, queries needed, and rows of models that are not it."""
    from nll.models._answers import next_logits, unembedding

    W = unembedding(setting.model).weight
    size, h = W.shape
    n = math.ceil(ROWS_PER_DIMENSION * h)
    texts = _texts(setting)
    raw = next_logits(setting.model, texts, limit=n).logits
    setting.say(f"logit-leakage: {len(raw)} contexts asked")
    rng = np.random.default_rng(setting.seed)
    part = some_tokens(size, QUICK if setting.quick else size, setting.seed)
    few = some_tokens(size, 2 * h, setting.seed)
    spectra, rows = _exact(setting, raw, h)
    logp = _log_softmax(raw)
    looked = logp[:, few]
    more, mitigated = _mitigated(setting, logp[:, part], h, rng)
    del logp
    spectra |= more
    z, layer = raw[:, part].astype(np.float64), W[part]
    projection = align_projection(output_subspace(z, h), layer).rms
    again = _again(looked, h, rng)
    setting.say("logit-leakage: settings of an endpoint")
    asked = min(len(raw), math.ceil(1.3 * h))
    table = mitigation_table(raw.__getitem__, range(asked), [*COMPARED, *MORE], W=W, tokens=few)
    tuned = _tuned(setting, texts, len(raw) // 10)[:, part]
    residuals = _membership(z, tuned, h, rng)
    found = spectra["log-probabilities, centred"]
    low, high = min(again), max(again)
    size_found = Finding(
        "hidden size, centred log-probabilities", _value(found), low, high, len(raw)
    )
    findings = [
        size_found,
        Finding("true hidden size", h),
        Finding("hidden size, raw logits", _value(spectra["raw logits"]), n=len(raw)),
        Finding("output projection, relative error", projection, n=len(raw)),
        *_residual_findings(residuals, setting.seed),
    ]
    verdict, why = _judge(found, h, projection, len(raw))
    naive = np.round(looked, 4)
    return Outcome(
        verdict,
        why,
        findings=findings,
        baselines=[
            Finding("numerical rank of log-probabilities with 4 decimals", _rank(naive)),
            Finding("hidden size, log-probabilities not centred",
                    _value(spectra["log-probabilities"])),
        ],
        tables={
            f"The spectrum of {len(raw)} rows of all {size} values": rows,
            f"The spectrum of {len(raw)} rows of {len(part)} values, centred": mitigated,
            f"What hides what ({asked} contexts, {len(few)} tokens looked at)": [
                _mitigation(given, report) for given, report in table
            ],
            "How many contexts are needed": _by_rows(looked, h, rng),
        },
        notes=[
            "Interval of the hidden size: the smallest and largest found in ten draws of four "
            "fifths of the contexts, with a part of the vocabulary.",
            "Distilled students, the second half of the paper's claim, are not part of this study.",
            "The endpoint is simulated around the model; every answer is one query.",
            _cost(size, len(raw)),
            f"The copy was tuned on {TUNED} short texts with a learning rate of {RATE:g}.",
            "A hidden size is not clear when the gap is below 3.",
        ],
        figure=_figure(spectra, h),
    )  # fmt: skip


TUNED, RATE = 64, 1e-5


def _texts(setting: Setting) -> list[str]:
    table = read_table(setting.file("llm-ood-ratio", "snips.tsv.gz"), delimiter="\t")
    texts = list(dict.fromkeys(r["text"].strip() for r in table))
    order = np.random.default_rng(setting.seed).permutation(len(texts))
    return [texts[i] for i in order]


def _log_softmax(raw: Array) -> Array:
    z = raw.astype(np.float64)
    top = z.max(axis=1, keepdims=True)
    z -= top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    return z


def _exact(
    setting: Setting, raw: Array, h: int
) -> tuple[dict[str, HiddenDimension], list[dict[str, Any]]]:
    """Panel (a): whole rows as the model computes them."""
    out = {
        "raw logits": hidden_dimension(raw, center=False),
        "log-probabilities": hidden_dimension(_log_softmax(raw), center=False),
        "log-probabilities, centred": hidden_dimension(_log_softmax(raw)),
    }
    return out, [_row(setting, name, found, h) for name, found in out.items()]


def _mitigated(
    setting: Setting, logp: Array, h: int, rng: np.random.Generator
) -> tuple[dict[str, HiddenDimension], list[dict[str, Any]]]:
    """Panel (a) again: what decimals and noise do to the spectrum."""
    out, rows = {}, []
    for d in (4, 3, 2, 1):
        out[f"{d} decimal{'s' * (d > 1)}"] = hidden_dimension(np.round(logp, d))
    out["top 20, zeros for the rest"] = hidden_dimension(_top_alone(logp, 20))
    for sd in (0.1, 0.5):
        out[f"noise {sd:g}"] = hidden_dimension(logp + rng.normal(0, sd, logp.shape))
    rows = [_row(setting, name, found, h) for name, found in out.items()]
    return out, rows


def _row(setting: Setting, name: str, found: HiddenDimension, h: int) -> dict[str, Any]:
    setting.say(f"logit-leakage: {name}, {found.dimension} found")
    s = found.singular_values
    return {
        "answers": name,
        "hidden size found": _size(found),
        "gap": found.gap,
        f"s_{h}": float(s[h - 1]),
        f"s_{h + 1}": float(s[h]),
        f"s_{h + 2}": float(s[h + 1]),
    }


def _again(logp: Array, h: int, rng: np.random.Generator) -> list[float]:
    """The hidden size found in each of ten draws of four fifths of the rows, where enough."""
    count = max(4 * len(logp) // 5, h + 1)
    draws = [rng.choice(len(logp), count, replace=False) for _ in range(10)]
    return [_value(hidden_dimension(logp[rows])) for rows in draws]


def _by_rows(logp: Array, h: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    order = rng.permutation(len(logp))
    counts = sorted({min(len(logp), math.ceil(share * h)) for share in SHARES})
    out = []
    for count in counts:
        found = hidden_dimension(logp[order[:count]])
        out.append(
            {
                "contexts": count,
                "of the hidden size": count / h,
                "hidden size found": _size(found),
                "gap": found.gap,
                "rank": found.rank,
            }
        )
    return out


def _mitigation(given: Mapping[str, Any], report: Any) -> dict[str, Any]:
    hidden = report.hidden
    return {
        "settings": describe(given),
        "hidden size found": "no rows" if hidden is None else _size(hidden),
        "gap": "" if hidden is None else hidden.gap,
        "held-out rows outside the image": _known(report.held_out),
        "projection error": _known(report.projection_rms),
        "rows per 1,000 queries": _known(1000 / float(report.per_row)),
        "leaks": ", ".join(report.leaks) or "nothing found",
    }


def _tuned(setting: Setting, texts: Sequence[str], rows: int) -> Array:
    """(rows, V) logits of a slightly tuned copy, on texts that it was not tuned on."""
    from nll.models._answers import next_logits
    from nll.training import finetune_causal

    copy: LanguageModel = finetune_causal(
        setting.model, texts[-TUNED:], lr=RATE, batch_size=16, seed=setting.seed
    )
    setting.say("logit-leakage: copy tuned")
    return next_logits(copy, texts, limit=rows).logits.astype(np.float64)


def _membership(z: Array, tuned: Array, h: int, rng: np.random.Generator) -> dict[str, Array]:
    """Panel (c): share of each row outside the image that the other rows span."""
    tested = len(z) // 10
    basis = np.linalg.qr(output_subspace(centred(z[tested:]), h))[0]
    other = rng.normal(size=(tested, h)) @ rng.normal(size=(h, z.shape[1]))
    rows = {"own": z[:tested], "tuned copy": tuned, "another model": other}
    out = {}
    for name, q in rows.items():
        q = centred(q)
        outside = q - (q @ basis) @ basis.T
        out[name] = np.linalg.norm(outside, axis=1) / np.linalg.norm(q, axis=1)
    return out


def _residual_findings(residuals: Mapping[str, Array], seed: int) -> list[Finding]:
    out = []
    for name, values in residuals.items():
        held = metrics.bootstrap(_mean, values, n=1000, seed=seed)
        out.append(
            Finding(
                f"outside the image, rows of: {name}",
                float(held.value),
                float(held.low),
                float(held.high),
                len(values),
            )
        )
    own, tuned = residuals["own"], residuals["tuned copy"]
    label = [0] * len(own) + [1] * len(tuned)
    told = auroc_finding("AUROC, tuned copy against own rows", label, [*own, *tuned], seed=seed)
    return [*out, told]


def _mean(values: Array) -> float:
    return float(np.mean(values))


def _top_alone(logp: Array, k: int) -> Array:
    """What someone would have who puts zeros where a top-k answer shows nothing."""
    out = np.zeros_like(logp)
    top = np.argpartition(-logp, k, axis=1)[:, :k]
    np.put_along_axis(out, top, np.take_along_axis(logp, top, axis=1), axis=1)
    return out


def _rank(q: Array) -> int:
    return int(np.linalg.matrix_rank(centred(q)))


def _cost(size: int, rows: int, k: int = 20) -> str:
    per_row = 1 + math.ceil(max(size - k, 0) / (k - 1))
    more = ", more than the paper speaks of" if rows * per_row >= MOST_QUERIES else ""
    return (
        "The queries of the verdict are those of an endpoint that shows all values. Where it shows "
        f"{k} and takes a bias, a whole row costs {per_row:,} queries and {rows:,} of them "
        f"{rows * per_row:,}{more}."
    )


def _known(value: float) -> float | str:
    return "" if math.isnan(value) else float(value)


def _size(found: HiddenDimension) -> int | str:
    return "not clear" if found.dimension is None else found.dimension


def _value(found: HiddenDimension) -> float:
    return math.nan if found.dimension is None else float(found.dimension)


def _judge(found: HiddenDimension, h: int, projection: float, queries: int) -> tuple[Verdict, str]:
    told = (
        f"{_value(found):g} found for a hidden size of {h} with {queries} queries (gap "
        f"{found.gap:.3g}), projection error {projection:.2g}"
    )
    if found.dimension is None or abs(found.dimension - h) > 1 or not projection < 0.01:
        return "not supported", f"{told}."
    if queries >= MOST_QUERIES:
        return "inconclusive", f"{told}: found, but not with fewer than 10,000 queries."
    return "supported", f"{told}: both were found."


def _figure(spectra: Mapping[str, HiddenDimension], h: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    for name, found in spectra.items():
        s = found.singular_values
        axes.plot(np.arange(1, len(s) + 1), np.maximum(s, s[0] * 1e-9), label=name, linewidth=1.2)
    axes.axvline(h, color="#888888", linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.set_xlabel(f"number of the singular value (dashed: the hidden size, {h})")
    axes.set_ylabel("singular value")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
