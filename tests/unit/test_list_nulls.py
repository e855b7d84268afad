import math

import mpmath
import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from wmcheck.watermark.core.list_nulls import FixedListNull, HypergeometricNull

mpmath.mp.dps = 80


def exact(total, vocabulary, green, n):
    ways = sum(
        mpmath.binomial(green, k) * mpmath.binomial(vocabulary - green, n - k) for k in range(total, min(n, green) + 1)
    )
    return float(mpmath.log(ways / mpmath.binomial(vocabulary, n)))


@pytest.mark.parametrize(("vocabulary", "green"), [(2, 1), (5, 4), (10, 3), (1000, 250), (50257, 25128), (151936, 37984)])
def test_the_hypergeometric_tail_to_twelve_digits(vocabulary, green):
    null, checked, smallest = HypergeometricNull(green, vocabulary), 0, 0.0
    for n in {1, 2, 3, vocabulary // 2, vocabulary - 1, vocabulary, min(vocabulary, 40), min(vocabulary, 300)}:
        low, high, mean = max(0, n - vocabulary + green), min(n, green), n * green // vocabulary
        for total in {low, low + 1, mean, mean + 1, mean + 7, (mean + high) // 2, high - 1, high}:
            if low < total <= high and high - total < 3000:
                want = exact(total, vocabulary, green, n)
                assert float(null.log_sf(total, n)) == pytest.approx(want, rel=1e-10, abs=1e-12)
                checked, smallest = checked + 1, min(smallest, want)
    assert checked
    if vocabulary > 1000:
        assert smallest < -200


def test_the_hypergeometric_tail_over_arrays_and_at_its_ends():
    null, totals = HypergeometricNull(30, 100), np.arange(-2, 45)
    want = hypergeom.sf(totals - 1, 100, 30, 40)
    found = null.log_sf(totals, 40)
    assert np.allclose(np.exp(found), want, rtol=1e-10, atol=0)
    assert found.max() == 0.0
    assert null.log_sf(31, 40) == -math.inf
    assert null.log_sf(0, 0) == 0.0
    assert null.log_sf(np.array([[1.0], [2.0]]), np.array([5, 6])).shape == (2, 2)
    # More items than ids: some are outside, and the whole list is the bound.
    assert null.log_sf(30, 150) == 0.0
    with pytest.raises(ValueError, match="whole"):
        null.log_sf(1.5, 10)


def test_sums_over_several_lists_stay_below_the_bound():
    """Exact laws of sums of hypergeometric counts, by convolution, for random lists and numbers of ids."""
    rng, checked, gap = np.random.default_rng(0), 0, 0.0
    for _ in range(200):
        vocabulary = int(rng.integers(3, 60))
        green = int(rng.integers(1, vocabulary))
        law = np.ones(1)
        sizes = rng.integers(1, vocabulary + 1, rng.integers(1, 6))
        for size in sizes:
            law = np.convolve(law, hypergeom.pmf(np.arange(size + 1), vocabulary, green, size))
        n, tail = int(sizes.sum()), np.cumsum(law[::-1])[::-1]
        totals = np.arange(n + 1)
        log_p = FixedListNull(green, vocabulary).log_sf(totals, np.full(n + 1, n))
        assert (np.exp(log_p) >= tail - 1e-12).all()
        checked += n + 1
        gap = max(gap, float((np.exp(log_p) - tail).min()))
    assert checked > 5000
    assert gap < 1.0


def test_with_one_id_a_list_the_bound_is_the_binomial():
    null = FixedListNull(37984, 151936)
    totals = np.arange(52, 201)
    assert np.allclose(null.log_sf(totals, 200), binom.logsf(totals - 1, 200, 0.25), rtol=1e-9)
    assert null.log_sf(51, 200) == pytest.approx(binom.logsf(50, 200, 0.25))
    assert null.log_sf(50, 200) == 0.0
    assert null.log_sf(3000, 3000) == pytest.approx(3000 * math.log(0.25))
    assert null.log_sf(0, 0) == 0.0


@pytest.mark.parametrize("law", [FixedListNull, HypergeometricNull])
def test_laws_say_what_they_are(law):
    null, rng = law(30, 100), np.random.default_rng(2)
    assert null.mean() == 0.3
    assert null.variance() == pytest.approx(0.21)
    assert "30" in null.name
    assert "100" in null.name
    assert "40" in null.describe(40)
    drawn = null.sample(250, rng)
    assert drawn.shape == (250,)
    assert set(drawn) <= {0.0, 1.0}
    assert null.reduce(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="0 or 1"):
        null.reduce(np.array([0.5]))
    for green, vocabulary in ((0, 5), (5, 5), (6, 5)):
        with pytest.raises(ValueError, match="0 < green < vocabulary"):
            law(green, vocabulary)


def test_samples_of_one_list_hold_each_id_once():
    drawn = HypergeometricNull(30, 100).sample(350, np.random.default_rng(1))
    assert drawn[:300].reshape(3, 100).sum(1).tolist() == [30, 30, 30]


def test_p_values_of_samples_are_super_uniform():
    rng, null = np.random.default_rng(4), HypergeometricNull(500, 1000)
    totals = np.array([null.sample(40, rng).sum() for _ in range(2000)])
    for law in (null, FixedListNull(500, 1000)):
        p = np.exp(law.log_sf(totals, 40))
        for level in (0.5, 0.1, 0.01):
            assert (p <= level).mean() <= level + 4 * math.sqrt(level / 2000)
