"""What do the numbers an endpoint returns give away of the model behind it?

Logits are z = W g with W (V, h), so rows of answers lie in an image of h dimensions; this file
reads hidden size, output projection and full rows off such answers. It is meant for an audit of
one's own endpoint and holds no network client. In every function rows are contexts, columns the
vocabulary.
Sources: arXiv 2509.00973, 2403.06634, 2403.09539.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput

Array = npt.NDArray[Any]

CLEAR_GAP = 3.0
UNMISTAKABLE = 1000.0
FLOOR = 1e-12
MANY = 32  # singular values from which the first seven ratios are passed over


class HiddenDimension(NamedTuple):
    """Hidden size read off answers.

    dimension: None when no gap is clear; then `reason` says why.   gap: ratio of the singular
    values on its two sides.   rank: of the rows in float64.   singular_values: (min(n, V),).
    rows: that were used, duplicates dropped.   window: the dimensions among which it was searched.
    """

    dimension: int | None
    gap: float
    rank: int
    singular_values: Array
    rows: int
    window: tuple[int, int]
    reason: str = ""


def answers(Q: npt.ArrayLike) -> Array:
    """Q as float64 (n, V), checked.

    Raises BadInput unless it is a matrix of finite numbers: rows of top-k answers filled with zeros
    or -inf do not reveal the rank, and padding columns of the vocabulary must be cut.
    """
    q = np.asarray(Q, dtype=np.float64)
    if q.ndim != 2 or 0 in q.shape:
        raise BadInput(f"answers must be (contexts, vocabulary), not {q.shape}")
    if not np.isfinite(q).all():
        raise BadInput(
            "answers hold nan or inf; cut padding columns of the vocabulary, and use the tokens "
            "present in all rows or reconstruct the rows"
        )
    return q


def distinct_rows(q: Array) -> Array:
    """Rows without repetitions, in their order: repeated contexts make singular values of zero."""
    first = {hashlib.sha256(row.tobytes()).digest(): i for i, row in reversed(list(enumerate(q)))}
    kept: Array = q[sorted(first.values())]
    return kept


def centred(q: Array) -> Array:
    """Each row minus its mean, which takes out what log-softmax subtracted."""
    moved: Array = q - q.mean(axis=1, keepdims=True)
    return moved


def shortened(q: Array) -> Array:
    """(n, n) with the left singular vectors and values of (n, V), never anything V x V."""
    if q.shape[1] <= 2 * len(q):
        return q
    r: Array = np.linalg.qr(q.T, mode="r")  # type: ignore[assignment]  # the stubs' slip
    return r.T


def hidden_dimension(
    Q: npt.ArrayLike, *, center: bool = True, window: tuple[int, int] | None = None
) -> HiddenDimension:
    """Hidden size from logits or log-probabilities, by the largest gap of the singular values.

    h = argmax_i (ln s_i - ln s_{i+1}), with values clamped at s_1 * 1e-12.

    Q: (n, V), with n > h distinct contexts; 1.3 h to 2 h is a good number.   center: subtract each
    row's mean; without it log-probabilities give h + 1. A LayerNorm without bias gives h - 1.
    window: smallest and largest i that counts. By default all of them when one gap is above a
    factor 1000; else to where a tenth of the singular values is left below the gap (a fifth of
    fewer than 32, at least three: the last ones of a full rank fall fast of themselves), and from 8
    where there are 32, since the first ratios are often large. Where the first ratio could then
    decide, it is that with each column's mean taken out: what all contexts share is no dimension.
    A gap below a factor 3 is not clear. Raises BadInput for a window that does not fit.
    """
    q = distinct_rows(answers(Q))
    rows = shortened(centred(q) if center else q)
    s = np.linalg.svd(rows, compute_uv=False)
    top = float(s[0])
    clamped = np.maximum(s, max(top, 1e-300) * FLOOR)
    n, size = len(q), len(s)
    rank = int((s > top * FLOOR).sum()) if top > 0 else 0
    ratios = np.log(clamped[:-1]) - np.log(clamped[1:])
    few = (
        f"not enough queries ({n} distinct rows), or the settings hide it: ask more contexts than "
        "the hidden size"
    )
    if size < 2 or rank == 0:
        return HiddenDimension(None, Undefined(few), rank, s, n, window or (1, 0), few)
    if window is None:
        if size < MANY or ratios[0] >= math.log(UNMISTAKABLE):
            ratios[0] = min(ratios[0], _first_ratio(rows))
        # Centring itself makes the last of V singular values zero.
        last = max(1, size - 1 - (center and size == q.shape[1]))
        clear = ratios[:last].max() >= math.log(UNMISTAKABLE)
        some = size - max(3, math.ceil(size / (10 if size >= MANY else 5)))
        window = (1, last) if clear else (8 if size >= MANY else 1, some)
        if window[1] < window[0]:
            return HiddenDimension(None, Undefined(few), rank, s, n, window, few)
    low, high = window
    if not 1 <= low <= high <= size - 1:
        raise BadInput(f"window {window} must lie within 1 and {size - 1}")
    best = low + int(np.argmax(ratios[low - 1 : high]))
    gap = float(np.exp(ratios[best - 1]))
    if gap < CLEAR_GAP:
        return HiddenDimension(None, gap, rank, s, n, window, f"no clear dimension; {few}")
    return HiddenDimension(best, gap, rank, s, n, window)


def _first_ratio(rows: Array) -> float:
    """ln s_1 - ln s_2 once each column's mean is taken out; 0 where nothing is left."""
    s = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    top = float(s[0])
    return math.log(top / max(float(s[1]), top * FLOOR)) if top > 0 else 0.0


def output_subspace(Q: npt.ArrayLike, h: int, *, center: bool = False) -> Array:
    """(V, h) output projection up to an invertible matrix: V_h S_h of Q = U S V^T.

    From raw logits it is W G for some G (arXiv 2403.06634). From log-probabilities give
    `center=True`: then it is that of W with each column's mean taken out. Raises BadInput when h
    exceeds the rows or columns.
    """
    q = answers(Q)
    if not 1 <= h <= min(q.shape):
        raise BadInput(f"h must be from 1 to {min(q.shape)}, not {h}")
    q = centred(q) if center else q
    u = np.linalg.svd(shortened(q), full_matrices=False)[0]
    found: Array = q.T @ u[:, :h]
    return found


class Alignment(NamedTuple):
    """The matrix G (h, d) that brings W_hat closest to W, and the error that is left.

    rms: ||W_hat G - W||_F / ||W||_F.
    """

    G: Array
    rms: float


def align_projection(W_hat: npt.ArrayLike, W: npt.ArrayLike) -> Alignment:
    """How well a recovered projection (V, h) spans the true W (V, d), by least squares."""
    a, b = answers(W_hat), answers(W)
    if len(a) != len(b):
        raise BadInput(f"projections of {len(a)} and {len(b)} tokens do not compare")
    G: Array = np.linalg.lstsq(a, b, rcond=None)[0]
    size = float(np.linalg.norm(b))
    if size == 0:
        return Alignment(G, Undefined("the true projection is zero"))
    return Alignment(G, float(np.linalg.norm(a @ G - b)) / size)


def image_residual(rows: npt.ArrayLike, W_hat: npt.ArrayLike, *, center: bool = False) -> float:
    """Share of the rows' norm that lies outside the image of W_hat (V, h), from 0 to 1.

    At rounding for rows of the same model, more for an update or another one: a model's signature.
    With `center` rows are centred first, as `output_subspace(..., center=True)` did.
    """
    q, w = answers(rows), answers(W_hat)
    if q.shape[1] != len(w):
        raise BadInput(f"rows of {q.shape[1]} tokens and a projection of {len(w)} do not fit")
    q = centred(q) if center else q
    basis = np.linalg.qr(w)[0]
    size = float(np.linalg.norm(q))
    if size == 0:
        return Undefined("the rows are zero")
    return float(np.linalg.norm(q - (q @ basis) @ basis.T)) / size


def complete_row(W_hat: npt.ArrayLike, tokens: npt.ArrayLike, values: npt.ArrayLike) -> Array:
    """(V,) a full row from a few of its values, by least squares within a known image.

    W_hat: (V, h).   tokens, values: (m,) with m >= h. Raises BadInput for fewer, or when these
    tokens do not fix the row.
    """
    w, at = answers(W_hat), np.asarray(tokens, dtype=np.int64)
    z = np.asarray(values, dtype=np.float64)
    if at.shape != z.shape or at.ndim != 1:
        raise BadInput(f"tokens and values must be equally many, not {at.shape} and {z.shape}")
    c, _, rank, _ = np.linalg.lstsq(w[at], z, rcond=None)
    if rank < w.shape[1]:
        raise BadInput(f"{len(at)} values fix {rank} of {w.shape[1]} dimensions; give more tokens")
    row: Array = w @ c
    return row


def logprobs_from_bias(
    visible: npt.ArrayLike,
    bias: float,
    *,
    reference: tuple[float, float] | None = None,
    reference_biased: bool = False,
) -> Array:
    """(m,) true log-probabilities of tokens that a logit bias pulled into view. Exact, nats.

    visible: (m,) reported log-probabilities of the biased tokens.   bias: what was added to each.
    Without `reference` they must be all the biased tokens: then
    ln p = ln p^B - logaddexp(B + ln(1 - P), ln P) with P their reported sum. With
    `reference = (ln p_r^B, ln p_r)`, a token's reported and true value,
    ln p = ln p^B - ln p_r^B + ln p_r - B, and without the B when it was biased too. Raises BadInput
    when the biased tokens take all of the probability (lower the bias).
    """
    x = np.asarray(visible, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all() or (x > 1e-9).any():
        raise BadInput("visible log-probabilities must be (m,) finite numbers <= 0")
    if reference is not None:
        reported, true = reference
        recovered: Array = x - reported + true - (0.0 if reference_biased else bias)
        return recovered
    if not x.size:
        return x
    log_sum = float(np.logaddexp.reduce(x))
    if log_sum >= 0:
        raise BadInput(f"a bias of {bias:g} leaves the other tokens no probability; lower it")
    rest = math.log(-math.expm1(log_sum))
    out: Array = x - np.logaddexp(bias + rest, log_sum)
    return out


def logprob_by_bisection(
    top_token: Callable[[float], int],
    token: int,
    *,
    high: float = 100.0,
    tolerance: float = 1e-9,
) -> float:
    """ln p(token) - ln p(most likely), nats, from an endpoint that only says which token wins.

    top_token: the winner when this bias is added to `token`; about log2(high / tolerance) calls.
    The bias at which the token takes over is minus the answer, whoever wins the tie. Raises
    BadInput when even `high` does not bring the token up.
    """
    if not tolerance > 0 or not high > 0:
        raise BadInput("high and tolerance must be above 0")
    if top_token(0.0) == token:
        return 0.0
    if top_token(high) != token:
        raise BadInput(f"token {token} does not win with a bias of {high:g}; raise high")
    low = 0.0
    while high - low > tolerance:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if top_token(middle) == token:
            high = middle
        else:
            low = middle
    return -(low + high) / 2


def identified_set_tv(topk_logits: npt.ArrayLike, vocab: int) -> float:
    """How far apart two distributions with the same K visible logits can be, total variation.

    (V - K) e^tau / (Z + (V - K) e^tau), tau the smallest visible logit, Z the sum of the visible
    exponentials: 0 when everything is visible. Source: arXiv 2605.10407.
    """
    z = np.asarray(topk_logits, dtype=np.float64)
    if z.ndim != 1 or not 1 <= len(z) <= vocab or not np.isfinite(z).all():
        raise BadInput(f"topk_logits must be 1 to {vocab} finite numbers, not shape {z.shape}")
    hidden = vocab - len(z)
    if not hidden:
        return 0.0
    unseen = math.log(hidden) + float(z.min())
    return float(np.exp(unseen - np.logaddexp(np.logaddexp.reduce(z), unseen)))


def linear_cka(X: npt.ArrayLike, Y: npt.ArrayLike) -> float:
    """Likeness of two representations of the same n inputs, from 0 to 1.

    ||Xc^T Yc||^2 / (||Xc^T Xc|| ||Yc^T Yc||), columns centred, Frobenius norms. X (n, d), Y (n, e).
    Unmoved by rotation and scaling of either. nan when one of them does not vary.
    """
    x, y = answers(X), answers(Y)
    if len(x) != len(y):
        raise BadInput(f"representations of {len(x)} and {len(y)} inputs do not compare")
    flat = not np.ptp(x, axis=0).any() or not np.ptp(y, axis=0).any()
    if flat:
        return Undefined("a representation is the same for all inputs")
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    cross = float(np.linalg.norm(x.T @ y)) ** 2
    return cross / float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def linear_map_r2(X: npt.ArrayLike, Y: npt.ArrayLike) -> float:
    """Share of Y's variance that the best linear map from X explains, from 0 to 1.

    1 - ||Yc - Xc B||^2 / ||Yc||^2, B by least squares, columns centred. X (n, d), Y (n, e): two
    representations of the same n inputs. Not symmetric; any invertible map of X leaves it, while
    `linear_cka` falls; 1 of itself where n <= d + 1. nan when Y does not vary.
    """
    x, y = answers(X), answers(Y)
    if len(x) != len(y):
        raise BadInput(f"representations of {len(x)} and {len(y)} inputs do not compare")
    if not np.ptp(y, axis=0).any():
        return Undefined("the representation to be explained is the same for all inputs")
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return min(1.0, max(0.0, 1.0 - float(np.linalg.norm(left) / np.linalg.norm(y)) ** 2))
