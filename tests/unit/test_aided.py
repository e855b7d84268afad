"""The model-aided test: gaps, universal ratios and colours against other ways to compute them; how the statistic mixes them."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import gamma, kstest, logistic

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey
from wmcheck.watermark.colours import colour_terms, mean_inverse
from wmcheck.watermark.core.aided import LEAST_SUM_SHARE, MODEL_SHARE, SUM_SHARE, ModelAided, sum_share
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.graded import Graded
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.core.statistics import ModelTerms, Sample
from wmcheck.watermark.gaps import EXPERTS, _tables, gap_terms, gaps
from wmcheck.watermark.law import Law
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.ratios import (
    MIXTURES,
    candidate_words,
    distinct,
    likeliest,
    probabilities,
    ratio_terms,
    reweight_ratio,
    tournament_ratio,
)
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import SCHEMES, make_scheme

sys.path.append(str(Path(__file__).parents[1] / "support"))
from proxies import law_of, proxies

KEY = SecretKey(bytes((91 * i * i + 7 * i + 3) % 256 for i in range(32)))
VOCABULARY = 40


def some_law(n, seed=0, candidates=12):
    """Tokens i64[n] and the law of a model that has nothing to do with them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCABULARY, n)
    return tokens, law_of(tokens, 2.0 * rng.standard_normal((n, VOCABULARY)), candidates)


def keyed(scheme, tenant="a"):
    return PrfKey.derive(KEY.tenant(tenant), scheme.label())


# Gaps


def test_gaps_are_logistic_whatever_the_model():
    _, law = some_law(4000)
    noise = np.random.default_rng(1).gumbel(size=law.candidates.shape)
    ahead, place = gaps(noise[:, 0], noise[:, 1:], law)
    share = np.exp(law.log_p[:, 0])
    assert place == pytest.approx(np.log(share) - np.log1p(-share))
    assert kstest(ahead - place, logistic.cdf).pvalue > 0.01


def test_every_cell_of_the_gap_table_has_mean_one():
    p, log_l = _tables()
    assert p.sum(1) == pytest.approx(np.ones(len(p)), abs=1e-12)
    assert (p[:, :, None] * np.exp(log_l)).sum(1) == pytest.approx(np.ones((len(p), len(EXPERTS))), abs=1e-9)
    assert (np.diff(log_l, axis=1) >= 0).all()


def test_the_gap_of_an_exact_model_is_worth_one_over_the_probability():
    law = Law.of(np.array([1]), np.array([[2, 3]]), np.log([0.2]), np.log([[0.5, 0.3]]))
    found = gap_terms(np.array([5.0]), np.array([[0.0, 1.0]]), law)
    slack, share = np.array([0.25, 0.5, 1.0, 2.0, 3.0]), np.array([0.12, 0.10, 0.04, 0.02, 0.01])
    gain = 0.70 / 0.2 + share @ (1.0 + np.exp(-slack) / 0.25)
    # The location is rounded up by at most 1/32.
    assert found.log_e[0, 0] == pytest.approx(math.log(0.01 + gain), abs=1 / 32)
    assert found.log_e[0, 0] <= math.log(0.01 + gain)
    assert found.pivot[0] == pytest.approx(-logistic.logsf(math.log(0.2) + 5.0 - (math.log(0.3) + 1.0), loc=math.log(0.25)))


@pytest.mark.parametrize(
    ("own", "others", "top"), [(-math.inf, [0.0, 0.0], False), (0.0, [math.inf, 0.0], False), (9.0, [0.0, 0.0], True)]
)
def test_the_ends_of_the_grid_of_uniforms(own, others, top):
    law = Law.of(np.array([1]), np.array([[2, 3]]), np.log([0.2]), np.log([[0.5, 0.3]]))
    found = gap_terms(np.array([own]), np.array([others], float), law)
    assert (found.log_e[0] > 0).all() == top
    assert (found.graded.step[0] == 8) == top
    assert np.isfinite(found.log_e).all()
    assert top or found.pivot[0] == 0.0


def test_nothing_to_choose_is_no_evidence():
    alone = Law.of(np.array([1, 1]), np.array([[-1], [2]]), np.zeros(2), np.array([[0.0], [-np.inf]]))
    for own in (-math.inf, 0.0, math.inf):
        found = gap_terms(np.full(2, own), np.zeros((2, 1)), alone)
        assert (found.log_e == 0).all()
        assert (found.pivot == 0).all()
        assert (found.graded.values[found.graded.group, found.graded.step] == 0).all()


def test_gaps_by_grid_cells_lie_below_those_of_the_scheme():
    scheme, (tokens, law) = make_scheme("gumbel", {"width": 2}), some_law(500)
    windows = np.random.default_rng(2).integers(0, 99, (500, 2)).astype(np.uint32)
    words = candidate_words(windows, law, keyed(scheme))
    noise = -np.log(-np.log((words + 0.5) / 2.0**32))
    ahead, place = gaps(noise[:, 0], noise[:, 1:], law)
    found = scheme.aided(windows, tokens, law, keyed(scheme))
    assert (found.pivot <= np.logaddexp(0.0, ahead - place) + 1e-9).all()
    assert found.pivot == pytest.approx(np.logaddexp(0.0, ahead - place), abs=1e-5)


# Universal ratios


@pytest.mark.parametrize(
    ("name", "parameters"), [(name, one) for name in ("tournament", "reweight") for one in SCHEMES[name].examples()]
)
def test_ratios_are_those_of_the_transform_on_the_candidates(name, parameters):
    scheme, (tokens, law) = make_scheme(name, parameters), some_law(40)
    windows = np.random.default_rng(3).integers(0, 99, (40, scheme.width)).astype(np.uint32)
    logits = torch.full((40, VOCABULARY), -math.inf)
    rows, columns = np.nonzero(law.candidates >= 0)
    logits[rows, law.candidates[rows, columns]] = torch.tensor(law.log_p[rows, columns], dtype=torch.float32)
    key = keyed(scheme)
    after = scheme.transform(torch.from_numpy(windows.astype(np.int64)), logits, RowKeys([key] * 40)).softmax(1).numpy()
    words = candidate_words(windows, law, key)
    if name == "tournament":
        ratio = tournament_ratio(words, law.log_p, scheme.layers)
    else:
        ratio = reweight_ratio(words, law.log_p, scheme.alpha)
    assert ratio * np.exp(law.log_p[:, 0]) == pytest.approx(after[np.arange(40), tokens], abs=1e-5)
    assert ratio.std() > 0.2


@pytest.mark.parametrize("p", [(0.2, 0.5, 0.3), (0.98, 0.01, 0.01), (1e-9, 0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (1.0, 0.0, 0.0)])
def test_ratios_have_mean_one_over_all_keyed_noise(p):
    """Every 4-bit lane of three candidates."""
    lanes = np.array(list(itertools.product(range(16), repeat=3)), dtype=np.uint32)
    with np.errstate(divide="ignore"):
        log_p = np.log(np.tile(p, (len(lanes), 1)))
    assert tournament_ratio(lanes, log_p, 4).mean() == pytest.approx(1.0, abs=1e-9)
    for alpha in (0.5, 0.4):
        ratio = reweight_ratio(lanes, log_p, alpha)
        # Equal lanes count as above: at most 1 with them, and 1 without.
        distinct_lanes = (np.diff(np.sort(lanes, axis=1), axis=1) > 0).all(1)
        assert ratio.mean() <= 1.0 + 1e-12
        assert ratio[distinct_lanes].mean() == pytest.approx(1.0, abs=2e-3)


def test_blurred_ratios_have_mean_one_too():
    lanes = np.array(list(itertools.product(range(16), repeat=3)), dtype=np.uint32)
    law = Law.of(np.zeros(4096, np.int64), np.tile([1, 2], (4096, 1)), np.full(4096, -1.5), np.tile([-0.5, -2.0], (4096, 1)))
    found = ratio_terms(lanes, law, lambda words, p: tournament_ratio(words, p, 4), np.ones(4096))
    assert np.exp(found.log_e).mean(0) == pytest.approx(np.ones(len(MIXTURES)), abs=1e-9)


def test_the_shares_of_the_experts_sum_to_one():
    assert np.array(list(MIXTURES.values())).sum(1) == pytest.approx(np.ones(3))
    assert np.array(list(EXPERTS.values())).sum(1) == pytest.approx(np.ones(3))


def test_repeated_candidates_lose_their_mass():
    law = Law.of(np.array([5]), np.array([[7, 7, 8]]), np.log([0.4]), np.log([[0.3, 0.2, 0.1]]))
    found = distinct(law, np.array([5]))
    assert np.exp(found.log_p[0]) == pytest.approx(np.array([0.4, 0.3, 0.0, 0.1]) / 0.8)
    with pytest.raises(ValueError, match="token that came"):
        distinct(law, np.array([6]))


def test_the_likeliest_keep_their_lanes_and_the_token_stays_first():
    rng = np.random.default_rng(0)
    words, log_p = rng.integers(0, 1 << 32, (6, 50), dtype=np.uint32), rng.standard_normal((6, 50))
    few, kept = likeliest(words, log_p)
    assert few.shape == (6, 20)
    assert (few[:, 0] == words[:, 0]).all()
    for row in range(6):
        best = 1 + np.argsort(-log_p[row, 1:])[:19]
        assert set(few[row, 1:]) == set(words[row, best])
        assert set(kept[row, 1:]) == set(log_p[row, best])


@pytest.mark.parametrize(("name", "parameters"), [(name, SCHEMES[name].examples()[0]) for name in SCHEMES])
def test_empty_batches_and_tokens_a_model_calls_impossible(name, parameters):
    scheme = make_scheme(name, parameters)
    tokens = np.zeros(0, np.int64)
    none = scheme.aided(np.zeros((0, scheme.width), np.uint32), tokens, Law.unknown(tokens), keyed(scheme))
    assert none.log_e.shape == (0, len(none.experts))
    tokens = np.arange(5)
    law = proxies(tokens, np.random.default_rng(0).standard_normal((5, VOCABULARY)), np.random.default_rng(1))["never the token"]
    law.log_p[:, 0] = -800.0
    found = scheme.aided(np.arange(5 * scheme.width, dtype=np.uint32).reshape(5, scheme.width), tokens, law, keyed(scheme))
    assert np.isfinite(found.log_e).all()
    assert sum(found.shares) == pytest.approx(1.0)


# Colours


@pytest.mark.parametrize("delta", [0.5, 2.0, 4.0, 12.0, 50.0])
def test_mean_inverse_is_a_close_upper_bound(delta):
    p = probabilities(2.0 * np.random.default_rng(4).standard_normal((6, 9)))
    colours = np.array(list(itertools.product((0, 1), repeat=9)))
    weight = np.prod(np.where(colours, 0.25, 0.75), axis=1)
    inverse = 1.0 / (1.0 + np.expm1(delta) * p @ colours.T)
    red, green = mean_inverse(p, 0.25, delta)
    for found, colour in ((red, 0), (green, 1)):
        own = colours[:, 0] == colour
        true = (inverse[:, own] @ weight[own]) / weight[own].sum()
        assert (found >= true * (1 - 1e-12)).all()
        assert (found <= true * (1 + 2e-4)).all()


@pytest.mark.parametrize("shared", [False, True])
def test_colour_e_values_have_mean_one_over_all_colours(shared):
    log_p = np.log(probabilities(1.5 * np.random.default_rng(5).standard_normal((1, 9))))
    colours = np.array(list(itertools.product((False, True), repeat=9)))
    weight = np.prod(np.where(colours, 0.25, 0.75), axis=1)
    others, rest = np.tile(np.arange(1, 9), (512, 1)), np.tile(log_p[0, 1:], (512, 1))
    law = Law.of(np.zeros(512, np.int64), others, np.full(512, log_p[0, 0]), rest)
    found = colour_terms(colours, law, 0.25, 2.0, shared=shared)
    means = weight @ np.exp(found.log_e)
    assert (means <= 1.0 + 1e-9).all()
    assert means == pytest.approx(np.ones(len(means)), abs=2e-3)
    assert (weight @ found.log_e < 0).all()
    if shared:
        # Nobody's colour but that of the token.
        assert len(np.unique(found.log_e)) == 2


def test_all_colours_is_the_probability_under_the_transform():
    """The ratio of two colourings is the ratio of the probabilities that the transform gives."""
    scheme, (tokens, law) = make_scheme("redgreen", {"width": 4}), some_law(30, candidates=VOCABULARY)
    windows = np.random.default_rng(6).integers(0, 99, (30, 4)).astype(np.uint32)
    logits = torch.full((30, VOCABULARY), -math.inf)
    rows, columns = np.nonzero(law.candidates >= 0)
    logits[rows, law.candidates[rows, columns]] = torch.tensor(law.log_p[rows, columns], dtype=torch.float32)
    change = []
    for tenant in ("a", "b"):
        key = keyed(scheme, tenant)
        after = scheme.transform(torch.from_numpy(windows.astype(np.int64)), logits, RowKeys([key] * 30)).log_softmax(1).numpy()
        found = scheme.aided(windows, tokens, law, key)
        ratio = (np.exp(found.log_e[:, 1]) - 0.01) / 0.99
        change.append(np.log(ratio) - after[np.arange(30), tokens])
    assert change[0] == pytest.approx(change[1], abs=1e-5)


# The statistic


def terms(n, log_e, graded=None, shares=()):
    log_e = np.asarray(log_e, float).reshape(n, -1)
    return ModelTerms(log_e, tuple("abc"[: log_e.shape[1]]), None, np.zeros(n), np.zeros(n), shares, graded)


def top(n, step, chance):
    """Bits that are 1 with probability ``chance``."""
    p = np.array([[1 - chance, chance]])
    return Graded(np.zeros(n, np.int64), np.full(n, step), p, np.array([[[0], [20]]]), 0.05, ("one",), (1.0,))


def test_the_p_value_is_the_weighted_minimum():
    null, scores = ExponentialNull(bound=True), np.full(30, 1.2)
    alone = float(null.log_sf([36.0], [30])[0]) - math.log(SUM_SHARE)
    sample = Sample(scores, np.zeros(30, np.int64), 1, null, terms(30, np.zeros(30)))
    assert ModelAided().evaluate(sample).log_p[0] == pytest.approx(alone, abs=1e-7)
    sample = Sample(scores, np.zeros(30, np.int64), 1, null, terms(30, np.full((30, 2), 0.5), shares=(0.25, 0.75)))
    assert ModelAided().evaluate(sample).log_p[0] == pytest.approx(-15.0 - math.log1p(-SUM_SHARE), abs=1e-7)
    sample = Sample(scores, np.zeros(30, np.int64), 1, null, terms(30, np.zeros(30), top(30, 1, 0.2)))
    assert ModelAided().evaluate(sample).log_p[0] == pytest.approx(30 * math.log(0.2) - math.log1p(-SUM_SHARE), abs=0.05)


def test_the_e_value_is_a_mean_of_products():
    null, scores = ExponentialNull(bound=True), np.random.default_rng(7).exponential(2.0, 20)
    sample = Sample(scores, np.repeat([0, 1], 10), 2, null, terms(20, np.full((20, 2), [0.1, -0.2]), shares=(0.25, 0.75)))
    found = ModelAided().evaluate(sample).log_e
    alone = np.array([[expert.log_e(scores[:10]).sum(), expert.log_e(scores[10:]).sum()] for expert in experts(null)])
    expected = logsumexp([np.full(2, logsumexp([1.0, -2.0], b=[0.25, 0.75])), logsumexp(alone - math.log(3), axis=0)], axis=0,
                         b=[[MODEL_SHARE], [1 - MODEL_SHARE]])
    assert found == pytest.approx(expected)


def test_the_share_of_the_sum_falls_where_only_the_model_can_reach():
    middle = (SUM_SHARE + LEAST_SUM_SHARE) / 2
    for n, share in ((0, SUM_SHARE), (2, SUM_SHARE), (10, LEAST_SUM_SHARE), (16, LEAST_SUM_SHARE), (21, middle), (40, SUM_SHARE)):
        sample = Sample(np.ones(n), np.zeros(n, np.int64), 1, ExponentialNull(True))
        assert sum_share(sample, top(n, 1, math.exp(-1.0)))[0] == pytest.approx(share)
    assert sum_share(Sample(np.ones(2), np.arange(2), 2, ExponentialNull(True)), None).tolist() == [SUM_SHARE] * 2


def test_marked_text_needs_few_tokens_with_the_model_that_wrote_it():
    profile, rng = Profile.create("gumbel", {"width": 2}), np.random.default_rng(8)
    candidate = Candidate.of(profile, KEY.tenant("a"))
    true = 4.0 * rng.standard_normal((40, VOCABULARY))
    true -= np.logaddexp.reduce(true, axis=1, keepdims=True)
    ids = [1, 2]
    for place in range(2, 40):
        plain = torch.tensor(true[place : place + 1])
        logits = profile.scheme.transform(torch.tensor([ids[-2:]]), plain, RowKeys([candidate.prf]))
        ids.append(int(logits.argmax()))
    ids = np.array(ids)
    found = {}
    for name, law in proxies(ids, true, rng).items():
        tested = Detector([candidate], statistic="aided", corpus=False).test([Document(ids, 0, law)])[0].evidence
        found[name] = float(tested.log_p[0])
        assert tested.n[0] == 38
    alone = float(gamma.logsf(profile.scheme.score(*windows_of(ids), candidate.prf).sum(), 38))
    surprise = -true[np.arange(2, 40), ids[2:]].sum()
    assert alone - 5.0 > found["noisy"] > found["exact"]
    assert found["exact"] == pytest.approx(-surprise, abs=2.0)
    assert max(found.values()) <= alone - math.log(LEAST_SUM_SHARE) + 1e-6


def windows_of(ids):
    return np.lib.stride_tricks.sliding_window_view(ids, 2)[:-1].astype(np.uint32), ids[2:]


def test_reports_say_what_the_p_value_is():
    assert ModelAided().unfit(ExponentialNull(bound=True)) == ""
    assert "Gamma(7, 1)" in ModelAided().describe(ExponentialNull(bound=True), 7)
