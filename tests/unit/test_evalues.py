"""Combinations of e-values by direct arithmetic, calibrators by numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from wmcheck.watermark.core.evalues import as_log_p, average, calibrate, calibrate_mixture, product


def test_average_and_product_by_hand():
    log_e = np.log([2.0, 0.5, 8.0])
    assert math.exp(average(log_e)) == pytest.approx(3.5)
    assert math.exp(average(log_e, [1, 2, 1])) == pytest.approx((2 + 1 + 8) / 4)
    assert math.exp(product(log_e)) == pytest.approx(8.0)
    assert average([5000.0, -np.inf]) == pytest.approx(5000.0 - math.log(2))
    assert average([-np.inf, 3.0], [1, 0]) == product([1.0, -np.inf]) == -math.inf


def test_average_of_dependent_e_values_is_one_and_their_product_is_not():
    """Two documents with the same content under one key: e-value 2 or 0, both or none."""
    log_e = np.log([[2.0, 2.0], [1e-300, 1e-300]])
    assert np.mean([math.exp(average(row)) for row in log_e]) == pytest.approx(1.0)
    assert np.mean([math.exp(product(row)) for row in log_e]) == pytest.approx(2.0)


@pytest.mark.parametrize("kappa", [0.1, 0.5, 0.9])
def test_calibrator_integrates_to_one(kappa):
    # In the variable log p the integrand is smooth.
    total = quad(lambda t: math.exp(float(calibrate([-t], kappa)[0]) - t), 0, np.inf)[0]
    assert total == pytest.approx(1.0, rel=1e-7)


@pytest.mark.parametrize("p", [0.999, 0.5, 0.01, 1e-10, 1e-300])
def test_mixture_calibrator_is_the_average_over_kappa(p):
    expected = quad(lambda k: k * math.exp((k - 1) * math.log(p) + math.log(p)), 0, 1, points=[0.001, 0.01, 0.1])[0] / p
    assert math.exp(float(calibrate_mixture([math.log(p)])[0])) == pytest.approx(expected, rel=1e-8)


def test_mixture_calibrator_integrates_to_one_and_has_its_limit():
    total = quad(lambda t: math.exp(float(calibrate_mixture([-t])[0]) - t), 0, 1)[0]
    # The rest of the integral is in closed form: the antiderivative of (1 - (1 + t) e^-t) / t^2 is (e^-t - 1) / t.
    assert total + (1 - math.exp(-1)) == pytest.approx(1.0, rel=1e-9)
    assert calibrate_mixture([0.0, -1e-200]) == pytest.approx([math.log(0.5)] * 2)
    assert calibrate_mixture([-1e6])[0] == pytest.approx(1e6 - 2 * math.log(1e6), rel=1e-12)


def test_e_values_give_p_values_by_markov():
    assert as_log_p([3.0, -1.0, -np.inf]).tolist() == [-3.0, 0.0, 0.0]


@pytest.mark.parametrize("call", [
    lambda: average([]), lambda: average([math.nan]), lambda: product([]), lambda: product([math.inf]),
    lambda: average([0.0, 0.0], [0, 0]), lambda: average([0.0], [-1.0]), lambda: average([0.0], [1.0, 1.0]),
    lambda: calibrate([-1.0], 1.0), lambda: calibrate([0.1]), lambda: calibrate_mixture([math.nan]),
    lambda: as_log_p([math.nan]), lambda: calibrate([-math.inf]),
])
def test_impossible_input_is_refused(call):
    with pytest.raises(ValueError):
        call()
