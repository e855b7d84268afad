"""How many canaries a detection needs: exact, and near what the normal approximation says."""


import numpy as np
import pytest
from scipy import stats

from wmcheck.fingerprint.canaries.evaluate import power, smallest_n
from wmcheck.watermark.core.errors import ConfigError


@pytest.mark.parametrize(
    ("n", "rate", "alpha"), [(200, 0.6, 1e-5), (50, 0.9, 1e-6), (1000, 0.55, 0.01), (3, 1.0, 1e-3), (1, 1.0, 0.6)]
)
def test_power_is_that_of_scipy(n, rate, alpha):
    counts = np.arange(n + 2)
    critical = counts[stats.binom.sf(counts - 1, n, 0.5) <= alpha][0]
    assert power(n, rate, alpha) == pytest.approx(stats.binom.sf(critical - 1, n, rate), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("rate", "alpha", "target"), [(0.75, 1e-5, 0.9), (0.9, 1e-3, 0.8), (1.0, 1e-6, 0.99), (0.65, 1e-6, 0.5)])
def test_the_smallest_number(rate, alpha, target):
    found = smallest_n(rate, alpha, target)
    assert power(found, rate, alpha) >= target
    assert all(power(n, rate, alpha) < target for n in range(1, found))


@pytest.mark.parametrize(("excess", "expected"), [(0.2, 219.6), (0.1, 902.7), (0.05, 3634.4)])
def test_numbers_of_the_normal_approximation(excess, expected):
    """``((z(1e-6) / 2 + z(0.1) sqrt(r (1 - r))) / excess)**2`` with r the rate, for p = 1e-6 with power 0.9."""
    assert smallest_n(0.5 + excess, 1e-6, 0.9) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.5, 0.01, 0.9), "no practical number"), ((0.5005, 0.01, 0.9), "no practical number"), ((1.2, 0.01, 0.9), "rate out of"),
     ((0.7, 0.0, 0.9), "alpha out of range"), ((0.7, 0.01, 1.0), "power out of range")],
)
def test_power_questions_without_an_answer(arguments, message):
    with pytest.raises(ConfigError, match=message):
        smallest_n(*arguments)
    with pytest.raises(ConfigError, match="number of triggers out of range"):
        power(0, 0.6)
