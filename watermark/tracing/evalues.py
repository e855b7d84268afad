"""E-values of fragments under accounts' keys: tables for the bulk, and the exact ones.

A fragment's e-value under a key and a fixed expert (:func:`wmcheck.watermark.core.experts.experts`) is the product of the
expert's likelihood ratios over the fragment's items; the average over experts is one more. The bulk reads them from tables:
exact where a score is one of few whole numbers; for Gumbel scores the largest ratio in a cell of the 32-bit lane, the cells
being narrow on the scale of ``log(1 - u)``. Every ratio grows with the score, so the screen is never below the exact value,
and nobody above the bar is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.experts import Expert
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.prf import I64
from wmcheck.watermark.scheme import Scheme
from wmcheck.watermark.tracing.kernels import BelowKernel, BitsKernel, Floats, GumbelKernel, Kernel, kernel_of

# Shares of the fragments that carry the key, fixed in advance; the e-value is the average over them.
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# Bits of the mantissa of 2^32 - w that tell cells apart, and the first cell's number in the words of float32.
CELL_BITS = 10
_SHIFT = 23 - CELL_BITS
_FIRST = 127 << CELL_BITS
_CELLS = (32 << CELL_BITS) + 1
_FLOAT32 = 2.0**-23


class EvidenceKernel:
    """Log likelihood ratios of segments, at least: one row an expert, f64[experts, accounts, segments].

    Args:
        inner: the kernel of the scheme's scores.
        null: law of one score.
        bets: the experts.
    """

    piece = 30

    def __init__(self, inner: Kernel, null: Null, bets: Sequence[Expert]) -> None:
        self.bits, self.outputs = inner.bits, len(bets)
        self._inner = inner
        self._tables, self._error = _tables(inner, null, bets)

    def fold(self, lanes: NDArray[Any], pieces: I64, joins: I64) -> Floats:
        places = self._places(lanes)
        found = np.empty((self.outputs, len(lanes), len(joins)))
        for row, table in zip(found, self._tables, strict=True):
            ratios = np.multiply.reduceat(np.take(table, places, mode="clip"), pieces, axis=1, dtype=np.float64)
            np.add.reduceat(np.log(ratios), joins, axis=1, out=row)
        return found

    def error(self, n: int) -> float:
        """How far above the exact one the log ratio of n items may be."""
        return self._error * n + self._inner.error(n)

    def _places(self, lanes: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self._inner, GumbelKernel):
            factors = np.subtract(2.0**32, lanes, dtype=np.float64).astype(np.float32)
            return np.asarray((factors.view(np.int32) >> _SHIFT) - _FIRST)
        if isinstance(self._inner, BelowKernel):
            return self._inner.hits(lanes)
        assert isinstance(self._inner, BitsKernel)
        return self._inner.sums(lanes)


def evidence_kernel(scheme: Scheme, bets: Sequence[Expert]) -> EvidenceKernel | None:
    """The kernel of a scheme's e-values; None where it has none for its scores."""
    inner = kernel_of(scheme)
    return None if inner is None else EvidenceKernel(inner, scheme.null(), bets)


def _tables(inner: Kernel, null: Null, bets: Sequence[Expert]) -> tuple[list[NDArray[np.float32]], float]:
    """The largest ratio of each expert by place, and a bound on how much less its log may be."""
    if not isinstance(inner, GumbelKernel):
        scores = np.arange(2.0 if isinstance(inner, BelowKernel) else inner.largest + 1.0)  # type: ignore[attr-defined]
        return [_upper(bet.log_e(scores)) for bet in bets], 2.0 * _FLOAT32
    words = np.arange(_FIRST, _FIRST + _CELLS + 1, dtype=np.int64).astype(np.int32) << _SHIFT
    edges = words.view(np.float32).astype(np.float64)
    # A conversion to float32 may round into the next cell.
    low, high = edges[:-1] * (1.0 - _FLOAT32), np.minimum(edges[1:] * (1.0 + _FLOAT32), 2.0**32)
    tables, error = [], 0.0
    for bet in bets:
        ends = [bet.log_e(-np.log(np.minimum(factors, 2.0**32) / 2.0**32)) for factors in (low, high)]
        error = max(error, float((ends[0] - ends[1]).max()))
        tables.append(_upper(ends[0]))
    return tables, error + 2.0 * _FLOAT32


def _upper(log_e: Floats) -> NDArray[np.float32]:
    """E-values in float32, rounded up."""
    return np.asarray(np.exp(log_e + _FLOAT32), np.float32)


def average_log(log_e: Floats) -> Floats:
    """Log of the mean over the first axis of e-values given as logs."""
    top = log_e.max(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isneginf(top), top, np.log(np.exp(log_e - top).mean(0)) + top))


def mixed(log_e: Floats) -> Floats:
    """``log(1 - f + f E)`` of e-values given as logs, without overflow, for each share f of the grid: [shares, ...]."""
    # Beyond e^600 the 1 - f is nothing beside f E.
    gain, rest = np.expm1(np.minimum(log_e, 600.0)), np.maximum(log_e - 600.0, 0.0)
    return np.stack([log_e if share >= 1.0 else np.log1p(share * gain) + rest for share in SHARES])


def rows_of(bets: Sequence[Expert]) -> int:
    """How many e-values an account has: one for each share and expert, and for each share and the average of all experts."""
    return len(SHARES) * (len(bets) + (len(bets) > 1))


def mixtures(ratios: Floats) -> Floats:
    """``sum_i log(1 - f + f E_i)`` of fragments from log ratios f64[experts, ..., fragments].

    Returns:
        f64[rows, ...], the shares of the grid one after the other, and within each every expert by itself and their average.
    """
    kinds = [*ratios, average_log(ratios)] if len(ratios) > 1 else list(ratios)
    # One kind at a time: a block of accounts has many fragments.
    sums = np.stack([mixed(log_e).sum(-1) for log_e in kinds], axis=1)
    return sums.reshape(-1, *sums.shape[2:])


def share_of(by_row: Floats) -> float:
    """The share of the grid whose row is largest, from f64[rows]."""
    return SHARES[int(np.argmax(by_row)) * len(SHARES) // len(by_row)]
