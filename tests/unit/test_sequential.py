"""E-processes: mean 1 by integration, validity under peeking at every item, and numbers that no cut of the stream changes."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull
from wmcheck.watermark.core.sequential import BLOCK, SHARES, WHOLE, EProcess, first_reached, item_evidence, null_experts
from wmcheck.watermark.scheme import SCHEMES, make_scheme

NULLS = {
    make_scheme(name, parameters).null().describe(1): make_scheme(name, parameters).null()
    for name in SCHEMES for parameters in SCHEMES[name].examples()
}
each_null = pytest.mark.parametrize("null", NULLS.values(), ids=list(NULLS))


def process_of(null, **options):
    return EProcess([expert.name for expert in null_experts(null)], **options)


def exact_means(null):
    """Null means of the e-values of one item, by quadrature or over the whole lattice."""
    if isinstance(null, ExponentialNull):
        breaks = [1e-3, 0.1, 1.0, 8.0]
        return [
            quad(lambda s, bet=bet: math.exp(float(bet.log_e(np.array([s]))[0]) - s), 0, 60, points=breaks, limit=200)[0]
            for bet in null_experts(null)
        ]
    if isinstance(null, BernoulliNull):
        law = np.array([1 - null.mean(), null.mean()])
    else:
        law = np.ones(1)
        for weight in null.weights:
            law = np.convolve(law, [1 - null.p, *[0.0] * (weight - 1), null.p])
    return np.exp(item_evidence(null_experts(null), np.arange(len(law), dtype=float))).T @ law


@each_null
def test_every_expert_has_null_mean_one(null):
    assert exact_means(null) == pytest.approx(np.ones(len(null_experts(null))), rel=1e-6)


@each_null
def test_p_is_super_uniform_under_peeking_at_every_item(null):
    """The supremum over 150 items, records of 50: the share of streams that ever reach 1/alpha is at most alpha."""
    streams, rng = 600, np.random.default_rng(3)
    suprema, ends = np.empty(streams), np.empty(streams)
    for stream in range(streams):
        process = process_of(null)
        path = process.update(item_evidence(null_experts(null), null.sample(150, rng)), [50, 100])
        assert process.log_e_max == max(path.max(), 0.0)
        suprema[stream], ends[stream] = -process.log_p, path[4]
    for level in (0.5, 0.2, 0.05, 0.01):
        hits = int((suprema >= -math.log(level)).sum())
        assert binom.sf(hits - 1, streams, level) > 1e-6, level
    # An e-value after 5 items: its mean, with a margin of 5 standard errors.
    values = np.exp(ends)
    assert values.mean() <= 1 + 5 * values.std() / math.sqrt(streams)


def test_peeking_at_a_fixed_n_p_value_errs_where_the_e_process_does_not():
    null, rng, streams, alpha = BernoulliNull(1, 4), np.random.default_rng(4), 400, 0.01
    scores = null.sample(streams * 400, rng).reshape(streams, 400)
    n = np.broadcast_to(np.arange(1, 401), scores.shape)
    fixed = int((null.log_sf(np.cumsum(scores, 1), n) <= math.log(alpha)).any(1).sum())
    betting = 0
    for row in scores:
        process = process_of(null)
        process.update(item_evidence(null_experts(null), row))
        betting += process.log_p <= math.log(alpha)
    assert binomtest(fixed, streams, 4 * alpha, alternative="greater").pvalue < 1e-3
    assert binom.sf(betting - 1, streams, alpha) > 1e-3


def test_average_of_products_by_direct_arithmetic():
    ratios = np.array([[2.0, 0.5], [3.0, 0.25], [0.5, 4.0], [2.0, 8.0]])
    process = EProcess(["a", "b"], [3.0, 1.0], shares=(0.5,))
    path = np.exp(process.update(np.log(ratios), [2]))
    prior = np.array([0.75, 0.25])
    whole = np.cumprod(ratios, 0) @ prior
    first = 1 - 0.5 + 0.5 * (np.cumprod(ratios[:2], 0) @ prior)
    second = first[1] * (0.5 + 0.5 * (np.cumprod(ratios[2:], 0) @ prior))
    assert path == pytest.approx(WHOLE * whole + (1 - WHOLE) * np.concatenate([first, second]), rel=1e-12)
    assert process.item_max == int(path.argmax()) + 1
    assert process.log_p == -process.log_e_max == pytest.approx(-math.log(path.max()))
    assert {name: math.exp(value) for name, value in process.products.items()} == pytest.approx({"a": 6.0, "b": 4.0})
    alone = EProcess(["a", "b"], [3.0, 1.0], shares=())
    assert np.exp(alone.update(np.log(ratios), [2])) == pytest.approx(whole, rel=1e-12)


@each_null
def test_cuts_change_no_bit(null):
    rng = np.random.default_rng(5)
    log_e, ends = item_evidence(null_experts(null), null.sample(700, rng)), [0, 90, 90, 333, 700]
    whole = process_of(null)
    path = whole.update(log_e, ends)
    for _ in range(5):
        cuts = np.unique([0, *rng.integers(0, 700, 40), 700])
        process, found = process_of(null), []
        for start, stop in pairwise(cuts):
            inside = [end - start for end in ends if start < end <= stop or (start == end == 0)]
            found.append(process.update(log_e[start:stop], inside))
        assert np.array_equal(np.concatenate(found), path)
        assert process.to_dict() == whole.to_dict()


def test_long_streams_are_cut_into_blocks_without_a_trace():
    null = BernoulliNull(1, 2)
    log_e = item_evidence(null_experts(null), null.sample(BLOCK + 70_000, np.random.default_rng(6)))
    whole, cut = process_of(null), process_of(null)
    path = whole.update(log_e)
    assert np.array_equal(np.concatenate([cut.update(log_e[:1000]), cut.update(log_e[1000:])]), path)
    assert whole.n == BLOCK + 70_000


def test_unmarked_records_cost_a_sparse_stream_little():
    """200 unmarked records, then marked ones: the plain product would need as much evidence again as it has lost."""
    null, rng = ExponentialNull(False), np.random.default_rng(7)
    bets = null_experts(null)
    plain, process = process_of(null, shares=()), process_of(null)
    unmarked = item_evidence(bets, null.sample(200 * 100, rng))
    for each in (plain, process):
        each.update(unmarked, np.arange(100, 20001, 100))
    assert plain.log_e < -200
    assert process.log_e > math.log((1 - WHOLE) / len(SHARES)) + 200 * math.log1p(-SHARES[-1]) - 2
    marked = item_evidence(bets, bets[1].sample(400, rng))
    assert process.update(marked, [100, 200, 300, 400]).max() > math.log(1e6)
    assert plain.update(marked).max() < 0


def test_state_goes_on_exactly_through_json():
    null, rng = WeightedBernoulliNull((3, 2, 1)), np.random.default_rng(8)
    log_e = item_evidence(null_experts(null), null.sample(60, rng))
    whole, first, second = process_of(null), process_of(null), process_of(null)
    whole.update(log_e[:25], [10])
    first.update(log_e[:25], [10])
    second.restore(json.loads(json.dumps(first.to_dict())))
    assert np.array_equal(second.update(log_e[25:], [35]), whole.update(log_e[25:], [35]))
    assert second.to_dict() == whole.to_dict()


def test_an_impossible_event_ruins_its_expert_alone():
    process = EProcess(["sure", "careful"], shares=())
    path = process.update(np.array([[0.0, 0.0], [-np.inf, 1.0], [5.0, 1.0]]))
    assert path.tolist() == pytest.approx([0.0, 1 - math.log(2), 2 - math.log(2)])
    again = EProcess(["sure", "careful"], shares=())
    again.restore(json.loads(json.dumps(process.to_dict())))
    assert again.products == {"sure": -math.inf, "careful": 2.0}
    lost = EProcess(["sure"], shares=())
    assert lost.update(np.array([[-np.inf]])).tolist() == [-math.inf]
    assert lost.log_p == 0.0


def test_first_reached():
    assert first_reached(np.array([0.0, 3.0, 1.0, 3.0]), 3.0) == 1
    assert first_reached(np.array([0.0]), 1.0) is None
    assert first_reached(np.zeros(0), 0.0) is None


def test_a_law_without_experts_is_refused():
    with pytest.raises(ValueError, match="no experts"):
        null_experts(type("Other", (), {"name": "other"})())


@pytest.mark.parametrize(("change", "message"), [
    ({"experts": ["b"]}, "other experts"), ({"log_share": [0.1]}, "other experts"), ({"n": None}, "impossible"),
    ({"n": 1}, "impossible"), ({"log_e_max": -1.0}, "impossible"), ({"products": []}, "impossible"),
    ({"record": ["nan"]}, "impossible"), ({"closed": [math.inf] * 4}, "impossible"), ({"products": None}, "malformed"),
])
def test_states_that_do_not_fit_are_refused(change, message):
    process = EProcess(["a"])
    process.update(np.array([[0.1], [0.2]]))
    before = process.to_dict()
    with pytest.raises(ValueError, match=message):
        process.restore(before | change)
    assert process.to_dict() == before


@pytest.mark.parametrize("call", [
    lambda: EProcess([]), lambda: EProcess(["a"], [0.0]), lambda: EProcess(["a"], [1.0, 1.0]),
    lambda: EProcess(["a"], shares=(1.0,)),
    lambda: EProcess(["a"]).update(np.zeros((2, 2))), lambda: EProcess(["a"]).update(np.array([[math.nan]])),
    lambda: EProcess(["a"]).update(np.array([[math.inf]])), lambda: EProcess(["a"]).update(np.zeros((2, 1)), [3]),
    lambda: EProcess(["a"]).update(np.zeros((2, 1)), [2, 1]), lambda: EProcess(["a"]).update(np.zeros(2)),
])
def test_impossible_input_is_refused(call):
    with pytest.raises(ValueError):
        call()
