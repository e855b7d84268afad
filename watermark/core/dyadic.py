"""Dyadic windows: sums of scores in windows of 16, 32, 64, ... items, each against its exact law, with Bonferroni.

The cross-check of :mod:`wmcheck.watermark.core.segments`: no experts and no walk, only tails of sums. Windows of L items stand
L / 4 items apart, and the whole text is one more; p-values are multiplied by their number.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.segments import Found, Segment

Floats = NDArray[np.float64]

SHORTEST = 16
# Sums less than this many standard deviations above their mean are not worth a tail: they get p = 1.
FLOOR = 2.0


def windows(n: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Lengths and starts of the windows over n items, the whole text last."""
    found = []
    length = SHORTEST
    while length < n:
        found.append((length, np.arange(0, n - length + 1, length // 4, dtype=np.int64)))
        length *= 2
    return [*found, (n, np.zeros(1, np.int64))] if n else []


def find_dyadic(scores: Floats, null: Null, *, log_bar: float) -> tuple[Segment | None, list[Found]]:
    """The windows of a text at a bar, the best first of those that overlap.

    Returns:
        As :func:`~wmcheck.watermark.core.segments.find`; a segment's score is the sum of its scores.
    """
    totals = np.concatenate([[0.0], np.cumsum(scores)])
    family = windows(len(scores))
    count = math.log(max(sum(len(starts) for _, starts in family), 1))
    best: Segment | None = None
    held: list[Segment] = []
    for length, starts in family:
        sums = totals[starts + length] - totals[starts]
        sums = _exactly(sums, scores)
        rising = np.flatnonzero(sums > length * null.mean() + FLOOR * math.sqrt(length * null.variance()))
        if not len(rising):
            continue
        # Few sums are distinct where scores are whole numbers.
        values, where = np.unique(sums[rising], return_inverse=True)
        log_p = np.minimum(null.log_sf(values, np.full(len(values), length)) + count, 0.0)[where]
        made = [
            Segment(start, start + length, total, f"window of {length}", p, p)
            for start, total, p in zip(starts[rising].tolist(), sums[rising].tolist(), log_p.tolist(), strict=True)
            if p <= log_bar or p == log_p.min()
        ]
        best = min([*([best] if best else []), *made], key=lambda one: one.log_p)
        held += [one for one in made if one.log_p <= log_bar]
    chosen: list[Segment] = []
    free = np.ones(len(scores), bool)
    for one in sorted(held, key=lambda one: one.log_p):
        if free[one.start : one.stop].all():
            free[one.start : one.stop] = False
            chosen.append(one)
    return best, [Found(one) for one in sorted(chosen, key=lambda one: one.start)]


def _exactly(sums: Floats, scores: Floats) -> Floats:
    """Differences of running sums: whole numbers get their digits back, others lose the most that rounding may have added."""
    whole = np.rint(sums)
    if np.all(np.abs(sums - whole) < 1e-6) and np.all(scores == np.rint(scores)):
        return whole
    return np.asarray(sums - 4.0 * len(scores) * np.finfo(np.float64).eps * float(np.abs(scores).sum()))
