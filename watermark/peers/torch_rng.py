"""PyTorch's random numbers on a CPU, without PyTorch: ``torch.Generator().manual_seed(seed)`` and what is drawn from it.

The generator is MT19937 (Matsumoto and Nishimura 1998), initialised with the low 32 bits of the seed alone: seeds that agree in
them draw the same, whatever stands above. A CUDA generator is another one (Philox), and its ``randperm`` sorts random keys.

``randperm(n)`` is a forward Fisher-Yates shuffle: step i swaps place i with place ``i + word mod (n - i)``. Its first ``count``
entries are final after ``count`` steps, and where one id ends is found without the permutation: the id stands at its place until
a step takes it (then it is final) or its place is the step's own (then it moves to the place that the step takes).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.prf import I64, U32

Bools = NDArray[np.bool_]

CACHE_BYTES = 64 << 20
LOW32 = 0xFFFFFFFF
# From this many ids of one shuffle on, all of its prefix is worked out.
MANY = 24
# Seeds that were asked about once and are remembered.
MOST_ONCE = 1 << 16
# float32 quotients of 32-bit words are off by at most one from this divisor on.
LEAST_DIVISOR = 4096
UNIT24 = np.float32(2.0**-24)

_local = threading.local()


def words(seed: int, n: int) -> U32:
    """The first ``n`` words that a generator draws after ``manual_seed(seed)``."""
    drawn = _seeded(seed).randint(0, 1 << 32, n, dtype=np.uint32)
    return np.asarray(drawn, np.uint32)


def rand_float32(n: int, seed: int) -> NDArray[np.float32]:
    """``torch.rand(n)``: 24 low bits of a word each."""
    return np.asarray((words(seed, n) & np.uint32(0xFFFFFF)).astype(np.float32) * UNIT24)


def randint(high: int, n: int, seed: int) -> I64:
    """``torch.randint(0, high, (n,))`` for ``high`` below 2^28: from there on two words make a number."""
    return np.asarray(words(seed, n) % np.uint32(high), np.int64)


def randperm(n: int, seed: int, count: int | None = None) -> I64:
    """``torch.randperm(n)[:count]``, without a loop over the steps.

    What a step puts first is what its target holds: what the last earlier step with this target put there, that is what stood at
    that step's own place, which in turn an earlier step may have put there.
    """
    count = n if count is None else min(count, n)
    steps, own = min(count, max(n - 1, 0)), np.arange(count)
    # The last place of a whole permutation keeps what it holds.
    targets = own.astype(np.uint32)
    _Reducer(n, steps).of(words(seed, steps), targets[:steps])
    order = np.argsort(targets, kind="stable")
    ordered = targets[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    before = np.full(count, -1)
    before[order[again + 1]] = order[again]
    # The last step that put something at the own place of each step, before it.
    found = np.maximum(np.searchsorted(ordered, own, side="right") - 1, 0)
    giver = np.where(ordered[found] == own, order[found], -1) if count else own
    giver = np.where(giver == own, before, giver)
    origin = np.where(giver < 0, own, giver)
    while True:
        further = origin[origin]
        if np.array_equal(further, origin):
            break
        origin = further
    held = np.where(before < 0, targets, origin[before])
    return np.asarray(np.where(targets == own, origin, held), np.int64)


@lru_cache(maxsize=4)
def public_table(n: int, seed: int) -> I64:
    """``torch.randperm(n)`` of a seed that is no secret, kept."""
    table = randperm(n, seed)
    table.setflags(write=False)
    return table


def ranks(seeds: ArrayLike, tokens: ArrayLike, n: int) -> I64:
    """i64[k]: the place of ``tokens[i]``, 0 to n - 1, in ``torch.randperm(n)`` under ``seeds[i]``.

    A distinct seed costs n - 1 words.
    """
    low, ids = low_words(seeds), np.asarray(tokens, np.int64)
    found = np.empty(len(ids), np.int64)
    steps = max(n - 1, 0)
    reducer, targets = _Reducer(n, steps), np.empty(steps, np.uint32)
    for seed, rows in groups(low):
        reducer.of(words(seed, steps), targets)
        for row in rows:
            found[row] = _rank(targets, int(ids[row]))
    return found


def lanes24(seeds: ArrayLike, tokens: ArrayLike) -> U32:
    """u32[k]: the numerator over 2^24 of entry ``tokens[i]`` of ``torch.rand(n)`` under ``seeds[i]``."""
    low, ids = low_words(seeds), np.asarray(tokens, np.int64)
    found = np.empty(len(ids), np.uint32)
    for seed, rows in groups(low):
        mine = ids[rows]
        found[rows] = _fast_words(seed, int(mine.max()) + 1)[mine ^ _flip()]
    return np.asarray(found & np.uint32(0xFFFFFF))


def low_words(seeds: ArrayLike) -> U32:
    """What a generator keeps of 64-bit seeds, signed or not."""
    return np.asarray(np.asarray(seeds).astype(np.uint64) & np.uint64(LOW32), np.uint32)


def groups(seeds: U32) -> Iterator[tuple[int, I64]]:
    """Distinct seeds and the rows that have them, rows of few first."""
    if not len(seeds):
        return
    order = np.argsort(seeds, kind="stable")
    ordered = seeds[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], len(order))
    for group in np.argsort(ends - starts, kind="stable").tolist():
        start = int(starts[group])
        yield int(ordered[start]), order[start : int(ends[group])]


class Prefixes:
    """Which ids are among the first ``count`` of ``torch.randperm(n)``, under many seeds: green lists of exact size.

    A seed costs ``count`` words and as many remainders, and each id one look at them. Where many ids ask about a seed, or later
    ids ask again, all of its list is worked out, one bit an id, and kept while there is room; then an id costs next to nothing.

    Args:
        n: length of the permutation.
        count: size of the prefix, below ``n``.
        cache_bytes: most memory for kept lists. Seeds that are frequent come early, so none is dropped for a later one.
    """

    __slots__ = (
        "_count", "_drawn", "_equal", "_held", "_kept", "_last", "_latest", "_lock", "_most", "_n", "_once", "_reducer",
        "_scratch", "_taken",
    )

    def __init__(self, n: int, count: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._n, self._count = n, count
        # Words come in pairs: an odd one is drawn too, and taken out.
        self._drawn = count + count % 2
        self._reducer = _Reducer(n, self._drawn, (np.arange(self._drawn) ^ _flip()).astype(np.int32))
        self._scratch = np.empty(self._drawn, np.uint32)
        self._equal = np.empty(self._drawn, bool)
        # One more for the step that was taken out.
        self._last, self._held = np.empty(n + 1, np.int32), np.empty(n, bool)
        self._taken, self._latest = np.empty(self._drawn, np.intp), np.empty(self._drawn, np.int32)
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._once: set[int] = set()
        self._most = cache_bytes // (n // 8 + 1)
        self._lock = threading.Lock()

    def holds(self, seeds: ArrayLike, tokens: ArrayLike) -> Bools:
        """bool[k]: whether ``tokens[i]`` is among the first under ``seeds[i]``; ids outside the permutation are not."""
        ids = np.asarray(tokens, np.int64)
        found = np.zeros(len(ids), bool)
        inside = np.flatnonzero((ids >= 0) & (ids < self._n))
        low, ids = low_words(seeds)[inside], ids[inside]
        with self._lock:
            for seed, rows in groups(low):
                found[inside[rows]] = self._of_one(seed, ids[rows])
        return found

    def _of_one(self, seed: int, tokens: I64) -> Bools | list[bool]:
        bits = self._kept.get(seed)
        if bits is None:
            targets = self._targets(seed)
            if len(tokens) < MANY and not self._again(seed):
                return [self._look(targets, token) for token in tokens.tolist()]
            bits = np.packbits(self._list(targets), bitorder="little")
            if len(self._kept) < self._most:
                self._kept[seed] = bits
        return np.asarray(bits[tokens >> 3] >> (tokens & 7).astype(np.uint8) & 1, bool)

    def _again(self, seed: int) -> bool:
        """Whether an earlier call asked about this seed, and its list may be kept."""
        if len(self._kept) >= self._most:
            return False
        if len(self._once) >= MOST_ONCE:
            self._once.clear()
        asked = seed in self._once
        self._once.add(seed)
        return asked

    def _targets(self, seed: int) -> U32:
        """The place that each step takes, pairs as :func:`_fast_words` has them."""
        targets = self._reducer.of(_fast_words(seed, self._drawn), self._scratch)
        if self._drawn > self._count:
            targets[self._count ^ _flip()] = self._n
        return targets

    def _look(self, targets: U32, token: int) -> bool:
        place, first, flip = token, 0, _flip()
        while True:
            # Steps from `first` on; the pair of `first` holds the step before it too, which led here.
            if first < self._count and int(targets[first ^ flip]) == place:
                return True
            start, end = first + first % 2, min(place | 1, self._drawn - 1) + 1
            if start < end:
                equal = np.equal(targets[start:end], np.uint32(place), out=self._equal[start:end])
                if equal[equal.argmax()]:
                    return True
            if place >= self._count:
                return False
            place, first = int(targets[place ^ flip]), place + 1

    def _list(self, targets: U32) -> Bools:
        """bool[n]: the same for all ids. An id that no step takes where it stands moves on at the step of its place."""
        taken, last, latest = self._taken, self._last, self._latest
        # In the order of the steps, whichever way the words of a pair came.
        np.copyto(taken.reshape(-1, 2), targets.reshape(-1, 2)[:, :: -1 if _flip() else 1])
        steps = np.arange(self._drawn, dtype=np.int32)
        last.fill(-1)
        last[taken] = steps
        # The last step that takes each place: whatever order numpy assigns in, every round raises what is too low.
        while len(late := np.flatnonzero(last.take(taken, out=latest, mode="clip") < steps)):
            last[taken[late]] = steps[late]
        held = np.greater_equal(last[: self._n], 0, out=self._held)
        # An id moves at its own step, and a later one may take where it went.
        first = held[: self._count]
        first |= latest[: self._count] > steps[: self._count]
        ids = np.flatnonzero(~first & (taken[: self._count] < self._count))
        place = taken[ids]
        while len(place):
            again, further = latest[place] > place, taken[place]
            held[ids[again]] = True
            going = ~again & (further < self._count)
            ids, place = ids[going], further[going]
        return held


class _Reducer:
    """``i + word mod (n - i)`` for the steps of a shuffle, by float32 quotients that are right or one too large.

    With d >= 4096 quotients are below 2^20 and three roundings to 24 bits err by less than 1/4; the reciprocal is raised by
    2^-21, so that the truncated quotient is never too small, and the remainder that wrapped below 0 gets d added.
    """

    __slots__ = ("_divisor", "_real", "_reciprocal", "_split", "_step", "_whole")

    def __init__(self, n: int, count: int, step: NDArray[np.int32] | None = None) -> None:
        step = np.arange(count, dtype=np.int32) if step is None else step
        divisor = np.maximum(n - step, 1)
        self._step, self._divisor = step.astype(np.uint32), divisor.astype(np.uint32)
        # Steps are in order up to pairs; the last ones, of small divisors, are divided in whole numbers.
        self._split = int(min(count, max(n - LEAST_DIVISOR - 1, 0))) & ~1
        self._reciprocal = ((1.0 + 2.0**-21) / divisor[: self._split]).astype(np.float32)
        self._real, self._whole = np.empty(self._split, np.float32), np.empty(self._split, np.int32)

    def of(self, drawn: U32, out: U32) -> U32:
        cut, quotient = self._split, self._whole.view(np.uint32)
        large, divisor, found = drawn[:cut], self._divisor[:cut], out[:cut]
        np.copyto(self._real, large, casting="unsafe")
        np.multiply(self._real, self._reciprocal, out=self._real)
        np.copyto(self._whole, self._real, casting="unsafe")
        np.multiply(quotient, divisor, out=found)
        np.subtract(large, found, out=found)
        np.add(found, divisor, out=quotient)
        np.minimum(found, quotient, out=found)
        np.remainder(drawn[cut:], self._divisor[cut:], out=out[cut:])
        np.add(out, self._step, out=out)
        return out


def _rank(targets: U32, token: int) -> int:
    place, first = token, 0
    while first < len(targets):
        equal = targets[first : place + 1] == np.uint32(place)
        hit = int(equal.argmax()) if len(equal) else 0
        if len(equal) and equal[hit]:
            return first + hit
        if place >= len(targets):
            return place
        place, first = int(targets[place]), place + 1
    return place


def _fast_words(seed: int, n: int) -> U32:
    """``words``, an even number of them, with word ``i`` at place ``i ^ _flip()``: numpy draws pairs faster."""
    drawn = _seeded(seed).randint(0, 1 << 64, (n + 1) // 2, dtype=np.uint64)
    return np.asarray(drawn).view(np.uint32)


def _seeded(seed: int) -> np.random.RandomState:
    if not hasattr(_local, "generator"):
        _local.generator = np.random.RandomState(0)
    generator: np.random.RandomState = _local.generator
    generator.seed(seed & LOW32)
    return generator


@lru_cache(maxsize=1)
def _flip() -> int:
    """1 where the first word of a pair is the high half of 64 bits, 0 where it is the low half, as compilers and CPUs have it."""
    return int(_fast_words(1, 2)[0] != words(1, 2)[0])
