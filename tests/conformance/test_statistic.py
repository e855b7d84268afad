"""What every registered statistic must obey under the null law of every registered scheme."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core.statistics import STATISTICS, Sample
from wmcheck.watermark.scheme import SCHEMES, make_scheme

sys.path.append(str(Path(__file__).parents[1] / "support"))
from model_terms import some, synthetic_terms

NULLS = {
    make_scheme(name, parameters).null().describe(1): make_scheme(name, parameters).null()
    for name in SCHEMES for parameters in SCHEMES[name].examples()
}
FITTING = {
    f"{name}-{label}": (STATISTICS[name](), null)
    for name in STATISTICS for label, null in NULLS.items() if not STATISTICS[name]().unfit(null)
}
cases = pytest.mark.parametrize(("statistic", "null"), FITTING.values(), ids=FITTING)


def sample_of(statistic, scores, document, documents, null):
    """The items, with the made-up predictions of a model where the statistic reads some."""
    return Sample(scores, document, documents, null, synthetic_terms(null, scores) if statistic.needs_model else None)


def test_every_statistic_fits_some_law_and_says_why_it_does_not_fit_another():
    assert {name.split("-")[0] for name in FITTING} == set(STATISTICS)
    reasons = [STATISTICS[name]().unfit(null) for name in STATISTICS for null in NULLS.values()]
    assert all(reason == reason.strip() and not reason.endswith(".") for reason in reasons)


@cases
@pytest.mark.parametrize("n", [1, 7, 120])
def test_p_values_are_super_uniform_under_the_null(statistic, null, n):
    documents, rng = 4000, np.random.default_rng(n)
    scores = null.sample(n * documents, rng)
    found = statistic.evaluate(sample_of(statistic, scores, np.repeat(np.arange(documents), n), documents, null))
    assert (found.n == n).all()
    assert (found.log_p <= 0).all()
    for level in (0.9, 0.5, 0.1, 0.01, 0.001):
        hits = int((found.log_p <= math.log(level)).sum())
        assert binom.sf(hits - 1, documents, level) > 1e-6, level


@cases
def test_larger_scores_never_raise_the_p_value(statistic, null):
    scores = np.sort(null.sample(60, np.random.default_rng(1)))
    halves = [scores[:30], rng_mix(scores), scores[30:]]
    samples = [sample_of(statistic, half, np.zeros(30, np.int64), 1, null) for half in halves]
    log_p = [float(statistic.evaluate(sample).log_p[0]) for sample in samples]
    assert log_p == sorted(log_p, reverse=True)


def rng_mix(scores):
    return np.sort(scores)[::2]


@cases
def test_documents_do_not_mix_and_empty_ones_say_nothing(statistic, null):
    scores = null.sample(50, np.random.default_rng(2))
    sample = sample_of(statistic, scores, np.repeat([0, 2], [20, 30]), 4, null)
    model = some(sample.model, slice(20, None)) if sample.model else None
    together = statistic.evaluate(sample)
    alone = statistic.evaluate(Sample(scores[20:], np.zeros(30, np.int64), 1, null, model))
    assert together.log_p[2] == alone.log_p[0]
    assert together.totals[2] == pytest.approx(alone.totals[0])
    assert together.n.tolist() == [20, 0, 30, 0]
    assert together.log_p[1] == together.log_p[3] == 0.0
