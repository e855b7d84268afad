"""The checks of an audit: each measures one property of a keyed function on random keys and says whether it is off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from wmcheck.watermark.audit_subject import Floats, Sizes, Subject
from wmcheck.watermark.audit_words import CORRELATION, ERRORS, MANY, VALUE_BITS, Finding, State, unmeasured
from wmcheck.watermark.prf import I64, U64
from wmcheck.watermark.windows import first_occurrences, hash64

# Largest difference of ids at which correlations are looked for.
TOKEN_LAGS = 4096
CONTEXT_LAGS = (1, 2, 3, 4, 5, 8, 16, 32, 64, 128, 160, 256, 1024)
ALIAS_LAGS = tuple(1 << bits for bits in range(13, 18))
LAYER_KEYS = 8
PLACES = "places of a text are keyed, not contexts: scores of one place may depend on each other"
# Tokens whose scores together tell effective seeds apart.
PANEL = 64


@dataclass(slots=True)
class Sample:
    """Scores of random pairs under several keys.

    Attributes:
        n: pairs scored.
        shift: per key, the sum of (score - mean of the law), over its standard deviation.
        counts: per key, the number of pairs.
        moments: sums of the first, second and fourth power of (score - mean of the law).
        layers: number of scores of a pair.
        values: hashes of the scores of a pair.
    """

    n: int
    sums: Floats
    counts: I64
    moments: Floats
    layers: int
    values: U64


def draw_sample(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Sample:
    """Score random pairs, each effective seed and token once a key, as detection does."""
    each = sizes.tokens
    n = min(sizes.windows, each * sizes.contexts(0.25, sizes.windows, each))
    keys = sizes.keys(0.05, min(256, max(8, n // 64)), 0)
    sums, counts, moments, values = np.zeros(keys), np.zeros(keys, np.int64), np.zeros(3), []
    for place in range(keys):
        prf = subject.keyed(subject.draw(rng))
        windows, tokens = subject.spread(-(-n // keys), each, rng)
        kept = first_occurrences(subject.codes(windows, tokens, prf))
        layers = subject.layers(windows[kept], tokens[kept], prf)
        off = subject.reduce(layers) - subject.null.mean()
        sums[place], counts[place] = off.sum(), len(off)
        moments += [off.sum(), (off**2).sum(), (off**4).sum()]
        values.append(hash64(np.ascontiguousarray(layers, np.float64).view(np.uint64)))
    return Sample(int(counts.sum()), sums, counts, moments, layers.shape[1], np.concatenate(values))


def mean(subject: Subject, sample: Sample) -> Finding:
    """The mean of one item against the contract's law, and that law's mean against the ideal one."""
    if subject.whole:
        return unmeasured("mean", PLACES)
    deviation = math.sqrt(subject.null.variance())
    z = float(sample.moments[0] / deviation / math.sqrt(sample.n))
    spread = float(np.mean(sample.sums**2 / np.maximum(sample.counts, 1))) / subject.null.variance()
    z /= math.sqrt(max(1.0, spread))
    ideal, variance = subject.ideal
    known = (subject.null.mean() - ideal) / math.sqrt(variance)
    off = sample.moments[0] / sample.n / deviation if abs(z) > ERRORS else 0.0
    details = {"windows": sample.n, "keys": len(sample.sums), "known_shift": known, "shift": float(off), "law": subject.null.name}
    state, words = State.CLEAN, ""
    if off > 0.0:
        state, words = _bad(subject), f"the mean score lies {off:.2g} standard deviations above its law"
    elif off < 0.0:
        state, words = State.CORRECTED, f"the mean score lies {-off:.2g} standard deviations below its law, the safe side"
    elif abs(known) > 1e-6:
        state = State.CORRECTED
        words = f"the mean score is {abs(known):.2g} standard deviations {_side(known)} that of fair draws"
    return Finding("mean", state, z, ERRORS, words, shown=f"{z:.1f}", details=details)


def _bad(subject: Subject) -> State:
    return State.CORRECTED if subject.judges else State.WEAK


def _dependent(subject: Subject) -> State:
    return State.CORRECTED if subject.dependence else State.WEAK


def _side(value: float) -> str:
    return "above" if value > 0 else "below"


def variance(subject: Subject, sample: Sample) -> Finding:
    """The variance of one item against the contract's law and against the ideal one, and of the sums of one key."""
    if subject.whole:
        return unmeasured("variance", PLACES)
    n, law = sample.n, subject.null.variance()
    own = float(sample.moments[1] / n - (sample.moments[0] / n) ** 2)
    error = math.sqrt(max(float(sample.moments[2]) / n / own**2 - 1.0, 0.0) / n) if own > 0 else 0.0
    ratio, ideal = own / law, own / subject.ideal[1]
    centred = sample.sums - sample.counts * sample.moments[0] / n
    spread = float(np.mean(centred**2 / np.maximum(sample.counts, 1))) / own if own > 0 else 1.0
    limit = ERRORS * error
    spread_off = spread > 1.0 + ERRORS * math.sqrt(2.0 / len(sample.sums))
    details = {"to_ideal": ideal if abs(ideal - 1.0) > limit else 1.0, "to_law": ratio if abs(ratio - 1.0) > limit else 1.0,
               "over_keys": spread, "error": error}
    state, words = State.CLEAN, ""
    if ratio > 1.0 + limit:
        state, words = _bad(subject), f"the variance of an item is {ratio:.3f} of its law's"
    elif spread_off:
        state, words = _bad(subject), f"sums of a key's items vary over keys {spread:.2g} times as much as independent ones"
    elif abs(ideal - 1.0) > limit:
        state, words = State.CORRECTED, f"the variance of an item is {ideal:.3f} of that of fair draws"
    elif ratio < 1.0 - limit:
        state, words = State.CORRECTED, f"the variance of an item is {ratio:.3f} of its law's, the safe side"
    return Finding("variance", state, ideal, limit, words, shown=f"{ideal:.3f}", details=details)


def layers(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Correlations between the layers of a token under one key, the largest of a few keys, and what they do to the sum.

    Over keys such correlations cancel; a deployment has one key.
    """
    n = max(1024, sizes.items(0.1, 1 << 20) // LAYER_KEYS)
    worst, ratios, off, count = 0.0, [], 0, 1
    for _ in range(LAYER_KEYS):
        found = subject.layers(*subject.random(n, rng), subject.keyed(subject.draw(rng)))
        count = found.shape[1]
        if count < 2:
            return Finding("layers", State.CLEAN, shown="one", details={"variance_of_sum": 1.0})
        correlation = np.corrcoef(found.T)
        np.fill_diagonal(correlation, 0.0)
        worst = max(worst, float(np.abs(correlation).max()))
        off = max(off, int((np.abs(correlation) > _limit(n)).sum()) // 2)
        ratios.append(float(subject.reduce(found).var()) / subject.ideal[1])
    limit, error = _limit(n), ERRORS * math.sqrt(2.0 / n)
    extreme = max(ratios, key=lambda ratio: abs(ratio - 1.0))
    details = {"layers": count, "pairs": n, "keys": LAYER_KEYS, "pairs_off": off, "variances_of_sum": ratios,
               "variance_of_sum": max(ratios) if max(ratios) > 1.0 + error else 1.0}
    if worst <= limit and abs(extreme - 1.0) <= error:
        return Finding("layers", State.CLEAN, worst, limit, shown=f"{worst:.3f}", details=details)
    words = f"layers of a token are correlated under one key, up to {worst:.2f}; their sum has {extreme:.3f} of its variance"
    return Finding("layers", _bad(subject), worst, limit, words, shown=f"{worst:.3f}", details=details)


def _limit(n: float) -> float:
    return max(CORRELATION, MANY / math.sqrt(n))


def population(drawn: int, distinct: int) -> tuple[float, bool]:
    """Bits of a uniform population from the number of distinct draws; (lower bound, False) where none occurred twice.

    With ``m`` values, ``n`` draws show ``m (1 - (1 - 1/m)^n)`` different ones. Without a repeat, ``m`` is at least ``n^2 / 6`` at
    95%.
    """
    if drawn < 2:
        return 0.0, False
    if distinct >= drawn:
        return math.log2(max(drawn * (drawn - 1) / 6.0, 1.0)), False
    found = brentq(lambda bits: -math.expm1(drawn * math.log1p(-(2.0**-bits))) * 2.0**bits - distinct, 1e-6, 60.0)
    return float(found), True


def values(subject: Subject, sample: Sample) -> Finding:
    """How many different scores an item can have."""
    distinct = len(np.unique(sample.values))
    if distinct <= 2:
        return Finding("values", State.CLEAN, shown="1 bit")
    bits, seen = population(sample.n, distinct)
    expected = min(VALUE_BITS, 0.9 * sample.layers) if sample.layers > 1 else VALUE_BITS
    details = {"draws": sample.n, "distinct": distinct, "bits": bits, "repeats": seen}
    if not seen or bits >= expected:
        shown = f"2^{bits:.1f}" if seen else f">2^{int(bits)}"
        return Finding("values", State.CLEAN, bits, expected, shown=shown, details=details)
    words = f"only {distinct:,} different outputs in {sample.n:,} draws"
    return Finding("values", State.WEAK, bits, expected, words, shown=f"{distinct:,}", details=details)


def seeds(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """How many different contexts there are to the function: contexts that score all tokens of a panel alike are one."""
    if subject.whole:
        return unmeasured("seeds", PLACES)
    if not subject.width:
        return Finding("seeds", State.CORRECTED, 0.0, words="one list for all contexts", source="derived", shown="1")
    contexts = subject.contexts(sizes.contexts(0.1, min(1 << 15, max(256, sizes.windows // PANEL)), PANEL), rng)
    panel = rng.integers(1, subject.vocabulary, PANEL)
    prf, n = subject.keyed(subject.draw(rng)), len(contexts)
    windows = np.repeat(contexts, PANEL, axis=0)
    scores = subject.scores(windows, np.tile(panel, n), prf).reshape(n, PANEL)
    distinct = len(np.unique(hash64(np.ascontiguousarray(scores).view(np.uint64))))
    known = len(np.unique(subject.codes(contexts, np.full(n, panel[0]), prf)))
    bits, seen = population(n, distinct)
    details = {"contexts": n, "distinct": distinct, "bits": bits, "told_apart_by_selection": known}
    if not seen or bits >= 30:
        if subject.draws_from_torch:
            words = "at most 2^32 effective seeds: torch's generator reads no more bits of one"
            return Finding("seeds", State.CORRECTED, 32.0, 30.0, words, "derived", "<=2^32", details)
        return Finding("seeds", State.CLEAN, bits, 30.0, shown=f">2^{int(bits)}", details=details)
    state = State.CORRECTED if known <= distinct else State.WEAK
    words = (
        f"{n:,} different contexts of ids below {subject.vocabulary:,} have only {distinct:,} effective seeds, "
        f"about 2^{bits:.1f} in all"
    )
    return Finding("seeds", state, bits, 30.0, words, shown=f"2^{bits:.1f}", details=details)


def lag_correlations(subject: Subject, rows: int, length: int, lags: int, rng: np.random.Generator) -> tuple[Floats, int]:
    """Correlation of the scores of ids a fixed difference apart in the same context, over contexts and keys.

    Args:
        subject: the function.
        rows: contexts; those that score all ids like another one are left out.
        length: neighbouring ids that are scored in each.
        lags: the largest difference.
        rng: of keys, contexts and the first id.

    Returns:
        f64[lags + 1] by difference, and the number of different rows.
    """
    size = 1 << (length + lags).bit_length()
    tokens = np.arange(length) + rng.integers(0, subject.vocabulary - length + 1)
    power: Any = 0.0
    total, square, seen = 0.0, 0.0, set()
    for group in np.array_split(np.arange(rows), min(8 if subject.width else 64, rows)):
        prf = subject.keyed(subject.draw(rng))
        for window in subject.contexts(len(group), rng):
            scores = subject.scores(np.repeat(window[None], length, axis=0), tokens, prf)
            # A row of one value is a context that counts as one item, whatever the token.
            if hash(scores.tobytes()) in seen or np.ptp(scores) == 0.0:
                continue
            seen.add(hash(scores.tobytes()))
            scores = scores - subject.null.mean()
            power = power + np.abs(np.fft.rfft(scores, size)) ** 2
            total, square = total + scores.sum(), square + (scores**2).sum()
    if not seen:
        return np.ones(lags + 1), 1
    centre = total / len(seen) / length
    spread = square / len(seen) / length - centre**2
    products = np.fft.irfft(power, size)[: lags + 1] / (len(seen) * (length - np.arange(lags + 1.0))) - centre**2
    return np.asarray(products / spread if spread > 0 else np.ones(lags + 1)), len(seen)


def token_lags(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """The largest correlation of the scores of two ids a fixed difference apart, and ids that are one to the function."""
    if subject.whole:
        return unmeasured("token lags", PLACES)
    length = min(subject.vocabulary - 1, 3 * TOKEN_LAGS)
    lags = min(TOKEN_LAGS, length // 2)
    rows = sizes.contexts(0.15, max(8, min(1 << 21, sizes.windows) // length), length, least=8)
    correlation, rows = lag_correlations(subject, rows, length, lags, rng)
    noise = 1.0 / np.sqrt(rows * (length - np.arange(lags + 1.0)))
    correlation[0] = 0.0
    lag = int(np.argmax(np.abs(correlation) - MANY * noise))
    worst, limit = float(correlation[lag]), max(CORRELATION, MANY * float(noise[lag]))
    aliases = _aliases(subject, rng)
    off = int((np.abs(correlation) > np.maximum(CORRELATION, MANY * noise)).sum())
    details = {"lag": lag, "lags": lags, "lags_off": off, "rows": rows, "ids": length, "noise": float(noise[lag]),
               "aliases": aliases}
    if aliases:
        words = f"ids {min(aliases):,} apart are one id to it"
        return Finding("token lags", State.CORRECTED, 1.0, limit, words, shown=f"1 at {min(aliases)}", details=details)
    if not off:
        return Finding("token lags", State.CLEAN, worst, limit, shown=f"{worst:.4f}", details=details)
    words = f"scores of ids {lag} apart in one context have correlation {worst:.2f} ({off:,} of {lags:,} differences are off)"
    return Finding("token lags", _dependent(subject), worst, limit, words, shown=f"{worst:.3f} at {lag}", details=details)


def _aliases(subject: Subject, rng: np.random.Generator) -> list[int]:
    """Large differences at which two ids always score alike and have one code."""
    prf, found = subject.keyed(subject.draw(rng)), []
    for lag in ALIAS_LAGS:
        if 2 * lag > subject.vocabulary:
            break
        windows = subject.random(512, rng)[0]
        tokens = rng.integers(1, subject.vocabulary - lag, 512)
        if np.array_equal(subject.layers(windows, tokens, prf), subject.layers(windows, tokens + lag, prf)):
            found.append(lag)
    return found


def context_lags(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Correlation of the scores of a token in two contexts whose last ids are a fixed difference apart.

    Pairs of contexts with one effective seed are left out: detection scores one of them.
    """
    if not subject.width:
        return unmeasured("context lags", PLACES if subject.whole else "no context is read")
    tokens_each = sizes.tokens
    wanted = min(1 << 20, max(1 << 12, sizes.windows)) // len(CONTEXT_LAGS)
    each = min(wanted, tokens_each * max(8, sizes.contexts(0.1, 1 << 20, tokens_each) // len(CONTEXT_LAGS) // 2))
    prf, worst, at, noise, excess = subject.keyed(subject.draw(rng)), 0.0, 0, 1.0, -math.inf
    for lag in CONTEXT_LAGS:
        if 2 * lag > subject.vocabulary:
            continue
        windows, tokens = subject.spread(each, tokens_each, rng)
        last = rng.integers(1, subject.vocabulary - lag, -(-each // tokens_each))
        windows[:, -1] = np.repeat(last, tokens_each)
        moved = windows.copy()
        moved[:, -1] += lag
        apart = subject.codes(windows, tokens, prf) != subject.codes(moved, tokens, prf)
        if apart.sum() < 64:
            continue
        found = correlate(
            subject.scores(windows[apart], tokens[apart], prf), subject.scores(moved[apart], tokens[apart], prf)
        )
        here = 1.0 / math.sqrt(int(apart.sum()))
        if abs(found) - ERRORS * here > excess:
            worst, at, noise, excess = found, lag, here, abs(found) - ERRORS * here
    limit = max(CORRELATION, ERRORS * noise)
    details = {"lag": at, "pairs": each, "noise": noise}
    if abs(worst) <= limit:
        return Finding("context lags", State.CLEAN, worst, limit, shown=f"{worst:.3f}", details=details)
    words = f"scores of a token in contexts {at} apart have correlation {worst:.3f}"
    return Finding("context lags", _dependent(subject), worst, limit, words, shown=f"{worst:.3f} at {at}", details=details)


def correlate(one: Floats, other: Floats) -> float:
    """Pearson correlation; where nothing varies, 1 for equal arrays and 0 for others."""
    spread = float(one.std() * other.std())
    if spread <= 1e-12:
        return float(np.array_equal(one, other))
    return float(np.mean((one - one.mean()) * (other - other.mean())) / spread)
