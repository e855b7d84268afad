"""Where in a text the watermark is: segments of items whose scores add up to more than chance allows.

Scores are log likelihood ratios of the experts of the null law; a segment's score is their sum, and its p-value the chance
that *any* interval of *any* expert gets as high in a text of as many items (:mod:`wmcheck.watermark.core.karlin`, times the
number of experts). That family is all intervals at once, so that every segment at the bar counts, not the best alone:

    The chance that one or more reported segments hold no marked item is at most the bar, wherever the marked items are and
    however many. (Take the marked items out: what is left is a null text of n items or fewer, and an interval without
    marked items is an interval of it.)

A segment that holds some marked items is a true one here; its ends are estimates. How far an end reaches into unmarked
items falls off exponentially: an extension that gains y has chance at most e^-y.

References:
    J. Bentley, Programming Pearls, 1984 (Kadane's algorithm); W. Ruzzo and M. Tompa, ISMB 1999 (all maximal segments: the
    best interval, then the best of what is left on either side, and so on).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.experts import BetaMixture, Expert, GreenShare, TiltMixture, experts
from wmcheck.watermark.core.karlin import Walk, walk
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull

Floats = NDArray[np.float64]
Tabled = BernoulliNull | WeightedBernoulliNull | ExponentialNull

CERTIFIED, SHARP = "certified", "sharp"
RULES = (CERTIFIED, SHARP)
# Exponential scores are looked up at the next lower of a grid of this many points a nat.
GRID, TOP = 2048, 24
# Longer falls than a watermarked text of the expert would show this often split a segment.
FALL = 0.01
# Stands for a ratio of 0 in sums.
LEAST = -700.0


@dataclass(frozen=True, slots=True)
class Segment:
    """An interval of items.

    Attributes:
        start, stop: items ``start`` to ``stop - 1``.
        score: summed log likelihood ratio in nats, or the sum of scores of a window of the dyadic scan.
        expert: the expert's name, or the window's.
        log_p: natural log of a proven upper bound of the chance that any interval of the text reaches as much.
        log_p_sharp: the same by the asymptotic law; for dyadic windows the proven one again.
    """

    start: int
    stop: int
    score: float
    expert: str
    log_p: float
    log_p_sharp: float

    def by(self, rule: str) -> float:
        """The log p-value that a rule goes by."""
        return self.log_p_sharp if rule == SHARP else self.log_p


@dataclass(frozen=True, slots=True)
class Found:
    """A segment and, where its score falls deeply in between, the segments on either side.

    Attributes:
        parts: none, or two, each good enough for the bar by itself.
    """

    segment: Segment
    parts: tuple[Found, ...] = ()

    def settle(self, log_bar: float, rule: str) -> list[Segment]:
        """The segments to report at a bar, which may be stricter than the one they were found at."""
        parts = [part.settle(log_bar, rule) for part in self.parts]
        if all(parts) and parts:
            return [segment for part in parts for segment in part]
        if self.segment.by(rule) <= log_bar:
            return [self.segment]
        return [segment for part in parts for segment in part]


def item_ratios(null: Null, expert: Expert, scores: Floats) -> Floats:
    """f64[n] log e-values of reduced scores, by table where the law allows.

    Scores of the laws of whole numbers are looked up exactly. Scores of the exponential law are rounded down to a grid first:
    the value is at most the expert's (on average 0.0003 nats below it), and what is at most an e-value is one.
    """
    if isinstance(expert, (BetaMixture, GreenShare, TiltMixture)) and isinstance(null, Tabled):
        table = _table(null, expert)
        place = scores * GRID if isinstance(null, ExponentialNull) else scores
        return table[np.minimum(place, len(table) - 1.0).astype(np.int32)]
    return np.maximum(expert.log_e(scores), LEAST)


@lru_cache(maxsize=256)
def _table(null: Tabled, expert: BetaMixture | GreenShare | TiltMixture) -> Floats:
    if isinstance(null, ExponentialNull):
        values = np.arange(GRID * TOP + 1) / GRID
    else:
        values = np.arange(1.0 + (sum(null.weights) if isinstance(null, WeightedBernoulliNull) else 1.0))
    return np.maximum(expert.log_e(values), LEAST)


def best_interval(values: Floats) -> tuple[float, int, int]:
    """The interval of largest sum: (sum, start, stop), the shortest of equals; an empty one if no value is positive."""
    risen = _risen(values)
    stop = int(risen.argmax())
    if risen[stop] <= 0.0:
        return 0.0, 0, 0
    # It begins at the last visit of the running sum to its minimum.
    start = stop - int((risen[stop::-1] == 0.0).argmax())
    return float(values[start:stop].sum()), start, stop


def maximal(values: Floats, least: float) -> list[tuple[float, int, int]]:
    """All maximal segments (Ruzzo and Tompa) of score ``least`` (above 0) or more as (score, start, stop), in order.

    A maximal segment lies between two visits of the running sum to its minimum so far; only stretches between visits that
    rise by ``least`` are looked into. Time is O(n), and for each segment found the length of the stretch that it stood in.
    """
    if least <= 0.0:
        raise ValueError(f"segments: the least score must be above 0, got {least}")
    found, left = [], [(0, len(values))]
    while left:
        base, end = left.pop()
        for first, last in _stretches(values[base:end], least):
            first, last = base + first, base + last
            score, start, stop = best_interval(values[first:last])
            if score >= least:
                found.append((score, first + start, first + stop))
                left += [(first, first + start), (first + stop, last)]
    return sorted(found, key=lambda one: one[1])


def find(scores: Floats, null: Null, *, log_bar: float, rule: str = CERTIFIED) -> tuple[Segment | None, list[Found]]:
    """The segments of a text at a bar.

    Of segments that overlap, of one expert and another, the one with the smallest p-value stays whole; the rest of the other is
    tested by itself. A segment in which the score falls further than it should in marked text is split there if both sides hold
    by themselves.

    Args:
        scores: f64[n] reduced scores in text order, each item once.
        null: the law of one item.
        log_bar: natural log of the largest p-value of interest, below 0.
        rule: ``certified`` or ``sharp``.

    Returns:
        The segment with the smallest p-value, whether it makes the bar or not (None if no score is positive), and those that
        make it, in text order; they do not overlap.

    Raises:
        ConfigError: the law has no experts.
    """
    search = _Search(scores, null, log_bar, rule)
    best = [search.best(which) for which in range(len(search.values))]
    heap = [
        search.entry(which, start, stop)
        for which, one in enumerate(best) if one is not None and one.by(rule) <= log_bar
        for _, start, stop in maximal(search.values[which], search.least(which))
    ]
    heapq.heapify(heap)
    taken: list[tuple[int, int]] = []
    found: list[Found] = []
    while heap:
        _, which, start, stop, segment = heapq.heappop(heap)
        gaps = _outside(start, stop, taken)
        if gaps == [(start, stop)]:
            taken.append((start, stop))
            found.append(search.split(which, segment))
            continue
        for low, high in gaps:
            again = search.within(which, low, high)
            if again is not None:
                heapq.heappush(heap, again)
    found.sort(key=lambda one: one.segment.start)
    return min(filter(None, best), key=lambda segment: segment.by(rule), default=None), found


class _Search:
    """Values of every expert over one text, and p-values of their intervals."""

    def __init__(self, scores: Floats, null: Null, log_bar: float, rule: str) -> None:
        if rule not in RULES:
            raise ConfigError("unknown rule", where="rule", got=rule, expected=", ".join(RULES))
        if not log_bar < 0.0:
            raise ValueError(f"segments: the bar must be below 0 in logs, got {log_bar}")
        self.experts = _experts(null)
        self.n, self.rule, self.log_bar = len(scores), rule, log_bar
        self.values = [item_ratios(null, expert, scores) for expert in self.experts]
        self.walks: list[Walk] = [walk(null, expert) for expert in self.experts]
        self.union = math.log(len(self.experts))

    def least(self, which: int) -> float:
        return max(self.walks[which].least(self.log_bar - self.union, self.n, sharp=self.rule == SHARP), 1e-9)

    def segment(self, which: int, start: int, stop: int) -> Segment:
        score, law = float(self.values[which][start:stop].sum()), self.walks[which]
        log_p, sharp = (float(value) for value in (law.log_bound(score, self.n), law.log_sharp(score, self.n)))
        name = self.experts[which].name
        return Segment(start, stop, score, name, min(log_p + self.union, 0.0), min(sharp + self.union, 0.0))

    def entry(self, which: int, start: int, stop: int) -> tuple[float, int, int, int, Segment]:
        segment = self.segment(which, start, stop)
        return segment.by(self.rule), which, start, stop, segment

    def within(self, which: int, low: int, high: int) -> tuple[float, int, int, int, Segment] | None:
        """The best interval between two places, if it makes the bar."""
        score, start, stop = best_interval(self.values[which][low:high])
        if score <= 0.0:
            return None
        entry = self.entry(which, low + start, low + stop)
        return entry if entry[0] <= self.log_bar else None

    def split(self, which: int, segment: Segment) -> Found:
        values = self.values[which][segment.start : segment.stop]
        fall, low, high = best_interval(-values)
        # Under the expert e^-s has mean 1: a fall of y or more is somewhere in L items with probability at most L e^-y.
        if fall < math.log(len(values) / FALL):
            return Found(segment)
        sides = [
            self.within(which, segment.start, segment.start + low), self.within(which, segment.start + high, segment.stop)
        ]
        parts = tuple(self.split(which, side[4]) for side in sides if side is not None)
        return Found(segment, parts if len(parts) == len(sides) else ())

    def best(self, which: int) -> Segment | None:
        score, start, stop = best_interval(self.values[which])
        return self.segment(which, start, stop) if score > 0.0 else None


def _experts(null: Null) -> Sequence[Expert]:
    found = experts(null)
    if not found:
        raise ConfigError(
            "no segments for this scheme: its null law has no experts", where="scan", got=null.name,
            hint="register alternatives of the law with wmcheck.watermark.core.experts.experts, or scan with --method dyadic",
        )
    return found


def _risen(values: Floats) -> Floats:
    """f64[n + 1]: how far the running sum stands above its minimum so far."""
    totals = np.empty(len(values) + 1)
    totals[0] = 0.0
    np.cumsum(values, out=totals[1:])
    totals -= np.minimum.accumulate(totals)
    return totals


def _stretches(values: Floats, least: float) -> list[tuple[int, int]]:
    """Stretches between visits to the minimum that rise by ``least``, as (start, stop)."""
    risen = _risen(values)
    # Rounding of long sums must not lose a segment that makes it exactly: the caller compares anew.
    high = np.flatnonzero(risen >= least * (1.0 - 1e-6) - 1e-6)
    if not len(high):
        return []
    visits = np.append(np.flatnonzero(risen == 0.0), len(values))
    which = np.unique(np.searchsorted(visits[:-1], high, side="right") - 1)
    return [(int(visits[i]), int(visits[i + 1])) for i in which]


def _outside(start: int, stop: int, taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What the taken intervals leave of [start, stop)."""
    gaps = []
    for low, high in sorted(one for one in taken if one[0] < stop and one[1] > start):
        if start < low:
            gaps.append((start, low))
        start = max(start, high)
    return [*gaps, (start, stop)] if start < stop else gaps
