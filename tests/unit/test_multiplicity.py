"""Holm by hand, Benjamini-Hochberg against scipy, e-BH by definition, and p-values no double can hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from wmcheck.watermark.core.multiplicity import benjamini_hochberg, e_bh, holm


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, made monotone: .02 .03 .06 .06 (Holm 1979, procedure).
    adjusted = np.exp(holm(np.log([0.01, 0.04, 0.03, 0.005])))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)


def test_holm_family_larger_than_what_is_given():
    p = np.array([0.2, 1e-4, 0.9])
    padded = holm(np.log(np.concatenate([p, np.ones(97)])))[:3]
    assert holm(np.log(p), family=100) == pytest.approx(padded, rel=1e-12)
    assert holm(np.log([1e-4]), family=100) == pytest.approx([math.log(1e-2)])


def test_holm_is_the_smallest_level_of_the_step_down_procedure():
    rng = np.random.default_rng(2)
    for _ in range(200):
        p = rng.random(6) ** 3
        adjusted, order = np.exp(holm(np.log(p))), np.argsort(p)
        for alpha in (0.01, 0.05, 0.3):
            rejected = np.zeros(6, dtype=bool)
            for rank, i in enumerate(order):
                if p[i] * (6 - rank) > alpha:
                    break
                rejected[i] = True
            assert np.array_equal(rejected, adjusted <= alpha)


def test_benjamini_hochberg_against_scipy():
    rng = np.random.default_rng(4)
    for m in (1, 2, 17, 400):
        p = rng.random(m) ** 2
        assert np.exp(benjamini_hochberg(np.log(p))) == pytest.approx(false_discovery_control(p), rel=1e-12)
    padded = false_discovery_control(np.concatenate([p, np.ones(100)]))[: len(p)]
    assert np.exp(benjamini_hochberg(np.log(p), family=500)) == pytest.approx(padded, rel=1e-12)


def test_nothing_underflows():
    log_p = np.array([-50_000.0, -3.0, -20_000.0])
    assert holm(log_p) == pytest.approx([-50_000 + math.log(3), -3.0, -20_000 + math.log(2)], rel=1e-15)
    assert benjamini_hochberg(log_p)[0] == pytest.approx(-50_000 + math.log(3), rel=1e-15)
    assert e_bh(-log_p + [0, -3, 0], 0.01).tolist() == [True, False, True]
    assert holm([-math.inf, -1.0])[0] == -math.inf


def test_e_bh_by_definition():
    rng = np.random.default_rng(6)
    for _ in range(200):
        e = np.exp(rng.normal(1.0, 2.5, 8))
        alpha = float(rng.choice([0.05, 0.2]))
        ranked = np.sort(e)[::-1]
        k = max((j for j in range(1, 9) if ranked[j - 1] >= 8 / (j * alpha)), default=0)
        assert e_bh(np.log(e), alpha).tolist() == [bool(k) and value >= ranked[k - 1] for value in e]
    assert e_bh(np.log([1000.0]), 0.05, family=49).tolist() == [True]
    assert e_bh(np.log([1000.0]), 0.05, family=51).tolist() == [False]
    assert e_bh([-math.inf], 0.5).tolist() == [False]


def test_empty_and_capped():
    assert holm([]).shape == benjamini_hochberg([]).shape == e_bh([], 0.1).shape == (0,)
    assert holm([], family=5).shape == (0,)
    assert holm([-0.1, 0.0, -0.2]).tolist() == benjamini_hochberg([0.0, 0.0, 0.0]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_nonsense_is_refused(correct):
    for bad in ([0.1], [math.nan], [[-1.0]]):
        with pytest.raises(ValueError):
            correct(bad)
    with pytest.raises(ValueError, match="smaller"):
        correct([-1.0, -2.0], family=1)
    for alpha in (0.0, 1.5):
        with pytest.raises(ValueError, match="alpha"):
            e_bh([1.0], alpha)
