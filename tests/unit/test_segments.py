"""Segments: intervals against brute force, the proven bound against laws computed another way, error rates by simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core import segments
from wmcheck.watermark.core.dyadic import find_dyadic, windows
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.experts import GreenShare, experts
from wmcheck.watermark.core.karlin import PLAIN, walk
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull
from wmcheck.watermark.core.segments import CERTIFIED, SHARP, Found, Segment, best_interval, find, item_ratios, maximal

NULLS = [ExponentialNull(bound=True), BernoulliNull(1, 4), BernoulliNull(1, 2), WeightedBernoulliNull(tuple(range(30, 0, -1)))]
CASES = [(null, expert) for null in NULLS for expert in experts(null)]
cases = pytest.mark.parametrize(("null", "expert"), CASES, ids=[f"{null.name}-{expert.name}" for null, expert in CASES])
nulls = pytest.mark.parametrize("null", NULLS, ids=[null.name for null in NULLS])


def ruzzo_tompa(values):
    """The algorithm as published: one pass with a list of candidates (left sum, right sum, start, stop)."""
    kept, total = [], 0.0
    for place, value in enumerate(values):
        left, total = total, total + value
        if value <= 0:
            continue
        right, start = total, place
        while True:
            j = next((j for j in range(len(kept) - 1, -1, -1) if kept[j][0] < left), None)
            if j is None or kept[j][1] >= right:
                kept.append((left, right, start, place + 1))
                break
            left, start = kept[j][0], kept[j][2]
            del kept[j:]
    return [(right - left, start, stop) for left, right, start, stop in kept]


def brute(values):
    totals = np.concatenate([[0.0], np.cumsum(values)])
    return max((totals[j] - totals[i], j - i) for i in range(len(totals)) for j in range(i, len(totals)))[0]


def strong(null, n, rng):
    """Scores of the strongest alternative that the law has; of coins, nine greens in ten."""
    if isinstance(null, BernoulliNull):
        return (rng.random(n) < 0.9).astype(float)
    return experts(null)[-1].sample(n, rng)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_interval_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(-0.2, 1.0, rng.integers(1, 60))
    score, start, stop = best_interval(values)
    assert score == pytest.approx(max(brute(values), 0.0))
    assert values[start:stop].sum() == pytest.approx(score)


def test_no_interval_where_nothing_is_positive():
    assert best_interval(np.array([-1.0, 0.0, -2.0])) == (0.0, 0, 0)
    assert best_interval(np.zeros(0)) == (0.0, 0, 0)
    assert maximal(np.array([-1.0, 0.0]), 0.5) == []


@pytest.mark.parametrize("seed", range(60))
def test_maximal_segments_are_those_of_ruzzo_and_tompa(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.choice([-0.5, -0.1, 0.1]), 1.0, rng.integers(1, 400))
    least = float(rng.choice([0.2, 1.0, 4.0]))
    expected = [one for one in ruzzo_tompa(values) if one[0] >= least]
    found = maximal(values, least)
    assert [one[1:] for one in found] == [one[1:] for one in expected]
    assert [one[0] for one in found] == pytest.approx([one[0] for one in expected])


def test_a_segment_of_no_score_is_not_asked_for():
    with pytest.raises(ValueError, match="above 0"):
        maximal(np.ones(3), 0.0)


@cases
def test_tabled_ratios_are_at_most_the_expert(null, expert):
    scores = null.sample(20_000, np.random.default_rng(0))
    exact, found = expert.log_e(scores), item_ratios(null, expert, scores)
    assert (found <= exact + 1e-9).all()
    assert (exact - found).mean() < 5e-4
    assert (exact - found).max() < 0.05
    # Scores beyond the table are worth what its end is.
    if isinstance(null, ExponentialNull):
        assert item_ratios(null, expert, np.array([900.0]))[0] == pytest.approx(expert.log_e(np.array([24.0]))[0])


def exact_coin_max(null, expert, n, x):
    """P(best interval of n coins >= x): the law of max(0, W + s) on the reachable values, by enumeration."""
    loss, gain = expert.log_e(np.array([0.0, 1.0]))
    law, done = {0.0: 1.0}, 0.0
    for _ in range(n):
        moved: dict[float, float] = {}
        for value, mass in law.items():
            for step, chance in ((gain, null.mean()), (loss, 1.0 - null.mean())):
                reached = max(0.0, value + step)
                if reached >= x:
                    done += mass * chance
                else:
                    key = round(reached, 9)
                    moved[key] = moved.get(key, 0.0) + mass * chance
        law = moved
    return done


@pytest.mark.parametrize("expert", experts(BernoulliNull(1, 4))[2:], ids=lambda expert: expert.name)
def test_the_bound_against_exact_laws_of_coins(expert):
    null = BernoulliNull(1, 4)
    for n, x in ((40, 2.0), (40, 5.0), (150, 6.0)):
        exact = exact_coin_max(null, expert, n, x)
        bound = math.exp(walk(null, expert).log_bound(x, n))
        assert exact <= bound <= max(20 * exact, 1e-12)
        assert bound <= n * math.exp(-x)


def test_constants_of_a_fair_coin_of_equal_steps():
    """Steps of +-1 in units of log 2 (p = 1/3 up): gambler's ruin gives u, v and K in closed form."""
    null = BernoulliNull(1, 3)
    found = walk(null, GreenShare("", null, 2.0 / 3.0))
    # P0(never up to 1) = 1 - p / q = 1/2. P1(never below 0) = 1 - q / p = 1/2: a tie with 0 counts as above it.
    assert found.start == pytest.approx(0.5, abs=1e-4)
    assert found.rise == pytest.approx(0.5, abs=1e-4)
    assert found.growth == pytest.approx(math.log(2.0) / 3.0)
    n, x = 100_000, 20 * math.log(2.0)
    assert math.exp(found.log_bound(x, n)) == pytest.approx(n * math.exp(-x) / 4.0, rel=1e-3)


@cases
def test_the_bound_holds_and_the_sharp_law_is_close_in_simulation(null, expert):
    n, rounds, rng = 1000, 1500, np.random.default_rng(3)
    law = walk(null, expert)
    values = item_ratios(null, expert, null.sample(n * rounds, rng)).reshape(rounds, n)
    totals = np.concatenate([np.zeros((rounds, 1)), np.cumsum(values, 1)], axis=1)
    best = (totals - np.minimum.accumulate(totals, 1)).max(1)
    for level in (0.3, 0.1, 0.03):
        x = law.least(math.log(level), n)
        assert binom.sf(int((best >= x).sum()) - 1, rounds, level) > 1e-6
        if law.growth > 0.05:
            # Slow walks need longer texts than this for the asymptotic law; it is larger than the truth there.
            sharp = int((best >= law.least(math.log(level), n, sharp=True)).sum())
            assert 0.4 * level - 0.01 < sharp / rounds < 1.5 * level + 0.01


@cases
def test_the_bound_is_better_than_counting_all_starts_and_worse_than_the_sharp_law(null, expert):
    law = walk(null, expert)
    x = np.array([12.0, 25.0, 60.0, 800.0])
    for n in (1, 10, 1000, 1_000_000):
        bound, plain, sharp = law.log_bound(x, n), PLAIN.log_bound(x, n), law.log_sharp(x, n)
        assert (bound <= plain).all()
        assert plain == pytest.approx(np.minimum(math.log(n) - x, 0.0))
        assert (np.diff(bound) <= 0).all()
        if n >= 1000:
            assert (sharp < bound + 1e-6).all()
    assert law.log_bound(-1.0, 100) == law.log_bound(0.0, 100) == law.log_bound(5.0, 0) == 0.0
    assert law.k < 0.2


def test_the_least_score_is_where_the_bound_meets_the_bar():
    law = walk(NULLS[0], experts(NULLS[0])[0])
    for n in (10, 10_000):
        x = law.least(-12.0, n)
        assert law.log_bound(x, n) == pytest.approx(-12.0, abs=1e-4)
        assert math.log(law.k * n) - law.least(-12.0, n, sharp=True) == pytest.approx(-12.0, abs=1e-6)


@nulls
def test_error_rate_of_the_whole_search(null):
    """Three to five experts, 1,500 null texts: no more than the bar allows, by either rule."""
    rng, rounds = np.random.default_rng(8), 1500
    counts = {CERTIFIED: 0, SHARP: 0}
    for _ in range(rounds):
        scores = null.sample(400, rng)
        for rule in counts:
            counts[rule] += bool(find(scores, null, log_bar=math.log(0.05), rule=rule)[1])
    assert binom.sf(counts[CERTIFIED] - 1, rounds, 0.05) > 1e-6
    assert binom.sf(counts[SHARP] - 1, rounds, 0.05) > 1e-6
    assert counts[SHARP] >= counts[CERTIFIED]


@nulls
def test_unmarked_pieces_are_safe_beside_marked_ones(null):
    """Of the spans reported in half marked texts, those without any marked item stay below the bar."""
    rng, rounds, wrong, right = np.random.default_rng(9), 400, 0, 0
    bar = math.log(0.05)
    for _ in range(rounds):
        scores = null.sample(600, rng)
        scores[200:260] = strong(null, 60, rng)
        spans = [one for each in find(scores, null, log_bar=bar)[1] for one in each.settle(bar, CERTIFIED)]
        wrong += any(one.stop <= 200 or one.start >= 260 for one in spans)
        right += any(one.start < 260 and one.stop > 200 for one in spans)
    assert binom.sf(wrong - 1, rounds, 0.05) > 1e-6
    assert right > 0.9 * rounds


@nulls
def test_several_segments_are_found_apart_and_in_order(null):
    rng = np.random.default_rng(4)
    scores = null.sample(6000, rng)
    truth = [(500, 700), (2500, 2700), (5000, 5200)]
    for start, stop in truth:
        scores[start:stop] = strong(null, stop - start, rng)
    best, found = find(scores, null, log_bar=math.log(1e-5))
    spans = [one for each in found for one in each.settle(math.log(1e-5), CERTIFIED)]
    assert len(spans) == 3
    for one, (start, stop) in zip(spans, truth, strict=True):
        # A fair coin wins every other time beyond the ends.
        assert abs(one.start - start) < 50
        assert abs(one.stop - stop) < 50
    assert best == min((each.segment for each in found), key=lambda one: one.log_p)
    assert all(a.stop <= b.start for a, b in pairwise(spans))


def test_a_deep_fall_splits_a_segment_and_a_stricter_bar_may_join_it_again():
    null, rng = NULLS[0], np.random.default_rng(2)
    # Both sides gain more than the fall between them costs, so that the best interval spans all three.
    scores = np.concatenate([strong(null, 300, rng), null.sample(60, rng), strong(null, 300, rng)])
    bar = math.log(1e-5)
    _, (found,) = find(scores, null, log_bar=bar)
    assert (found.segment.start, found.segment.stop) == (pytest.approx(0, abs=3), pytest.approx(660, abs=3))
    left, right = found.settle(bar, CERTIFIED)
    assert abs(left.stop - 300) < 10
    assert abs(right.start - 360) < 10
    beyond = min(left.log_p, right.log_p) + 1.0
    assert found.settle(beyond, CERTIFIED) != [left, right] or max(left.log_p, right.log_p) <= beyond
    assert found.settle(max(left.log_p, right.log_p) - 1.0, CERTIFIED) == [found.segment]
    assert found.settle(found.segment.log_p - 1.0, CERTIFIED) == []


def test_one_part_alone_is_reported_where_the_whole_does_not_hold():
    weak, good, whole = (Segment(a, b, 1.0, "", p, p) for a, b, p in ((0, 5, -3.0), (8, 20, -30.0), (0, 20, -20.0)))
    found = Found(whole, (Found(weak), Found(good)))
    assert found.settle(-10.0, CERTIFIED) == [whole]
    assert found.settle(-25.0, CERTIFIED) == [good]
    assert found.settle(-2.0, CERTIFIED) == [weak, good]


def test_empty_and_hopeless_texts():
    assert find(np.zeros(0), NULLS[0], log_bar=-5.0) == (None, [])
    best, found = find(np.zeros(10), NULLS[0], log_bar=-5.0)
    assert (best, found) == (None, [])
    assert find_dyadic(np.zeros(0), NULLS[0], log_bar=-5.0) == (None, [])


def test_wrong_questions_are_refused():
    with pytest.raises(ConfigError, match="unknown rule"):
        find(np.ones(3), NULLS[0], log_bar=-5.0, rule="z")
    with pytest.raises(ValueError, match="bar"):
        find(np.ones(3), NULLS[0], log_bar=0.0)

    @dataclass(frozen=True)
    class Foreign:
        name: str = "foreign"

    with pytest.raises(ConfigError, match="no segments for this scheme"):
        find(np.ones(3), Foreign(), log_bar=-5.0)
    assert walk(Foreign(), experts(NULLS[0])[0]) is PLAIN


def test_windows_of_the_dyadic_scan():
    found = windows(100)
    assert [(length, list(starts[:3]), len(starts)) for length, starts in found] == [
        (16, [0, 4, 8], 22), (32, [0, 8, 16], 9), (64, [0, 16, 32], 3), (100, [0], 1),
    ]
    assert windows(0) == []


@nulls
def test_dyadic_windows_find_a_segment_and_no_more_than_allowed(null):
    rng = np.random.default_rng(6)
    scores = null.sample(3000, rng)
    scores[1000:1200] = strong(null, 200, rng)
    best, found = find_dyadic(scores, null, log_bar=math.log(1e-5))
    assert best.log_p < math.log(1e-5)
    assert best.start < 1200
    assert best.stop > 1000
    assert best.score == pytest.approx(scores[best.start : best.stop].sum())
    count = sum(len(starts) for _, starts in windows(3000))
    assert best.log_p == pytest.approx(float(null.log_sf([best.score], [best.stop - best.start])[0]) + math.log(count))
    assert all(one.segment.start < 1210 and one.segment.stop > 990 for one in found)
    hits = sum(bool(find_dyadic(null.sample(200, rng), null, log_bar=math.log(0.05))[1]) for _ in range(300))
    assert binom.sf(hits - 1, 300, 0.05) > 1e-6


def test_a_million_items_and_rounding():
    """Sums over a long text lose no digits that matter: the score is the interval's own sum."""
    null, rng = NULLS[0], np.random.default_rng(0)
    scores = null.sample(1_000_000, rng)
    scores[700_000:700_200] = strong(null, 200, rng)
    best, found = find(scores, null, log_bar=math.log(1e-5))
    assert len(found) == 1
    assert abs(best.start - 700_000) < 10
    assert abs(best.stop - 700_200) < 10
    expert = next(expert for expert in experts(null) if expert.name == best.expert)
    values = item_ratios(null, expert, scores[best.start : best.stop])
    assert best.score == pytest.approx(math.fsum(values), abs=1e-9)


def test_a_ratio_of_zero_ends_a_segment_and_breaks_no_sum():
    class Certain:
        name = "certain"

        def log_e(self, scores):
            with np.errstate(divide="ignore"):
                return np.log(np.asarray(scores, float))

        def sample(self, n, rng):
            return np.ones(n)

    @dataclass(frozen=True)
    class Foreign:
        name: str = "foreign"

    values = item_ratios(Foreign(), Certain(), np.array([2.0, 0.0, 3.0, 4.0]))
    assert values[1] == segments.LEAST
    assert best_interval(values) == (pytest.approx(math.log(12.0)), 2, 4)
