"""The exact chance that an empirical distribution crosses a boundary from below.

Of n independent uniforms with order statistics ``U_(1) <= ... <= U_(n)``, and boundaries ``b_1 <= ... <= b_n``, the event is
``U_(k) <= b_k`` for some k. With N(r) the number of uniforms up to r, it is ``N(b_k) >= k`` for some k. At the last such k there
are exactly k uniforms up to b_k (one more would put ``k + 1`` there too), and no later boundary is crossed:

    P(cross) = sum_k P(N(b_k) = k) q_k,    q_k = 1 - sum_{j > k} P(N(b_j) = j | N(b_k) = k) q_j.

All terms of the first sum are positive, so tiny chances keep their relative precision; the second is a triangular system of
binomial probabilities. The work grows with n squared. For long documents q_k is replaced by the chance of no crossing in the next
W boundaries or more, which is not smaller: a proven upper bound, in time that grows with n.

References:
    Compare A. Moscovich and B. Nadler, "Fast calculation of boundary crossing probabilities for Poisson processes", 2017, for
    other recursions of the same chance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import gammaln
from scipy.stats import binom

Floats = NDArray[np.float64]

# Up to this many items the chance is exact; beyond, the future is cut off between one and two windows ahead.
EXACT = 2000
WINDOW = 96
# Relative allowance for rounding in the sums (measured: below 1e-9).
_ROUNDING = 1e-7


def crossing_log_p(bounds: Floats, n: int) -> float:
    """Natural log of P(U_(k) <= b_k for some k), raised by 1e-7 for rounding.

    Args:
        bounds: f64[n] nondecreasing, below 1; boundaries at or below 0 cannot be crossed.
        n: number of uniforms. Above 2,000 the answer is an upper bound.

    Raises:
        ValueError: boundaries out of order or range.
    """
    bounds = np.asarray(bounds, np.float64)
    if bounds.shape != (n,) or np.any(np.diff(bounds) < 0) or not np.all(bounds < 1.0):
        raise ValueError(f"crossing: need {n} nondecreasing boundaries below 1")
    first = int(np.searchsorted(bounds, 0.0, side="right"))
    if first == n:
        return -np.inf
    k, b = np.arange(first + 1, n + 1), bounds[first:]
    ahead = len(k) if n <= EXACT else WINDOW
    stay = np.empty(len(k))
    for start in range(0, len(k), ahead):
        part = slice(start, min(start + 2 * ahead, len(k)))
        stay[start : start + ahead] = _stay(k[part], b[part], n)[:ahead]
    with np.errstate(divide="ignore"):
        logs = binom.logpmf(k, n, b) + np.log(np.clip(stay, 0.0, 1.0))
    top = float(logs.max())
    return min(0.0, top + float(np.log(np.exp(logs - top).sum())) + _ROUNDING) if np.isfinite(top) else -np.inf


def _stay(k: NDArray[np.int64], b: Floats, n: int) -> Floats:
    """f64[m] the chance of no crossing at the later ones of these boundaries, given exactly k uniforms up to b_k."""
    left = (n - k).astype(np.float64)
    weight = gammaln(left + 1.0) - left * np.log1p(-b)
    step = (k - k[:, None]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = weight[:, None] - weight - gammaln(np.maximum(step, 0.0) + 1.0) + step * np.log(b - b[:, None])
    chances = np.where(step > 0, np.exp(np.where(step > 0, logs, -np.inf)), 0.0)
    np.fill_diagonal(chances, 1.0)
    return np.asarray(solve_triangular(chances, np.ones(len(k)), lower=False), dtype=np.float64)
