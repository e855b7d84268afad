"""What every registered statistic must obey under the null law of every registered scheme."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core.statistics import STATISTICS, Sample
from wmcheck.watermark.scheme import SCHEMES, make_scheme

NULLS = {
    make_scheme(name, parameters).null().describe(1): make_scheme(name, parameters).null()
    for name in SCHEMES for parameters in SCHEMES[name].examples()
}
cases = pytest.mark.parametrize(
    ("statistic", "null"), [(STATISTICS[name](), null) for name in STATISTICS for null in NULLS.values()],
    ids=[f"{name}-{null}" for name in STATISTICS for null in NULLS],
)


@cases
@pytest.mark.parametrize("n", [1, 7, 120])
def test_p_values_are_super_uniform_under_the_null(statistic, null, n):
    documents, rng = 4000, np.random.default_rng(n)
    scores = null.sample(n * documents, rng)
    found = statistic.evaluate(Sample(scores, np.repeat(np.arange(documents), n), documents, null))
    assert (found.n == n).all()
    assert (found.log_p <= 0).all()
    for level in (0.9, 0.5, 0.1, 0.01, 0.001):
        hits = int((found.log_p <= math.log(level)).sum())
        assert binom.sf(hits - 1, documents, level) > 1e-6, level


@cases
def test_larger_scores_never_raise_the_p_value(statistic, null):
    scores = np.sort(null.sample(60, np.random.default_rng(1)))
    halves = [scores[:30], rng_mix(scores), scores[30:]]
    log_p = [float(statistic.evaluate(Sample(half, np.zeros(30, np.int64), 1, null)).log_p[0]) for half in halves]
    assert log_p == sorted(log_p, reverse=True)


def rng_mix(scores):
    return np.sort(scores)[::2]


@cases
def test_documents_do_not_mix_and_empty_ones_say_nothing(statistic, null):
    scores = null.sample(50, np.random.default_rng(2))
    together = statistic.evaluate(Sample(scores, np.repeat([0, 2], [20, 30]), 4, null))
    alone = statistic.evaluate(Sample(scores[20:], np.zeros(30, np.int64), 1, null))
    assert together.log_p[2] == alone.log_p[0]
    assert together.totals[2] == pytest.approx(alone.totals[0])
    assert together.n.tolist() == [20, 0, 30, 0]
    assert together.log_p[1] == together.log_p[3] == 0.0
