"""The key-permutation null: rank p-values, their floor and ties, and the labelled extrapolation."""

import math

import numpy as np
import pytest
from scipy import stats

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.statistics import STATISTICS
from wmcheck.watermark.decoys import decoy_keys, decoy_test, extrapolate, log_p_by_key, rank
from wmcheck.watermark.detect import Detector, detect_ids
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import SCHEMES
from wmcheck.watermark.windows import Document

GUMBEL = Profile.create("gumbel", {"width": 2})
PROFILES = [(name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples()]


def seeded(seed):
    return np.random.default_rng(seed).bytes


@pytest.mark.parametrize(("scheme", "parameters"), PROFILES, ids=str)
def test_every_key_gives_the_p_value_of_detection(scheme, parameters):
    profile = Profile.create(scheme, parameters, special_ids=(4,))
    rng = np.random.default_rng(3)
    documents = [Document(rng.integers(0, 40, size), min(3, size)) for size in (0, 2, 60, 300)]
    keys = decoy_keys(5, seeded(1))
    found = log_p_by_key(documents, [Candidate(profile, key) for key in keys])
    detector = Detector([Candidate(profile, key) for key in keys])
    expected = [tested.evidence.log_p for tested in detector.test(documents)]
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("statistic", [name for name in STATISTICS if not STATISTICS[name].needs_model])
def test_every_statistic_runs_under_many_keys(statistic):
    documents = [Document(np.random.default_rng(4).integers(0, 5000, 120))]
    candidates = [Candidate(GUMBEL, key) for key in decoy_keys(4, seeded(2))]
    found = log_p_by_key(documents, candidates, statistic=statistic)
    expected = [Detector([one], statistic=statistic).test(documents)[0].evidence.log_p[0] for one in candidates]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_chunks_do_not_show(monkeypatch):
    documents = [Document(np.random.default_rng(5).integers(0, 900, 100)) for _ in range(3)]
    candidates = [Candidate(GUMBEL, key) for key in decoy_keys(7, seeded(3))]
    whole = log_p_by_key(documents, candidates)
    monkeypatch.setattr("wmcheck.watermark.decoys.CHUNK_ITEMS", 500)
    np.testing.assert_array_equal(log_p_by_key(documents, candidates), whole)


def test_keys_are_fresh_and_repeatable():
    first, again, other = decoy_keys(3, seeded(6)), decoy_keys(3, seeded(6)), decoy_keys(3)
    assert [key.id for key in first] == [key.id for key in again]
    assert len({key.id for key in first + other}) == 6
    with pytest.raises(ConfigError, match="too few decoy keys"):
        decoy_keys(0)


def test_rank_counts_ties_against_the_key():
    others = np.array([-3.0, -2.0, -2.0, -1.0, 0.0])
    assert [rank(own, others).at_least for own in (-4.0, -3.0, -2.0, -1.5, 0.0)] == [0, 1, 3, 3, 5]
    assert math.exp(rank(-2.0, others).log_p) == pytest.approx(4 / 6)
    floor = rank(-4.0, others)
    assert (floor.at_floor, floor.log_p) == (True, pytest.approx(floor.log_floor))
    assert math.exp(floor.log_floor) == pytest.approx(1 / 6)
    assert math.exp(rank(0.0, others).log_p) == pytest.approx(1.0)


@pytest.mark.parametrize(("own", "others"), [(math.nan, [0.0]), (0.0, []), (0.0, [math.nan]), (0.0, [[0.0]])])
def test_rank_of_no_numbers(own, others):
    with pytest.raises(ValueError, match="rank"):
        rank(own, np.array(others))


@pytest.mark.parametrize("coarse", [False, True], ids=["continuous", "ties"])
def test_rank_is_super_uniform(coarse):
    rng = np.random.default_rng(8)
    values = rng.standard_normal((20_000, 20))
    values = np.round(values) if coarse else values
    p = np.array([(1 + np.count_nonzero(row[1:] <= row[0])) / 20 for row in values])
    direct = np.array([math.exp(rank(row[0], row[1:]).log_p) for row in values[:200]])
    np.testing.assert_allclose(direct, p[:200])
    for k in range(1, 21):
        bound = stats.binom.isf(1e-6, len(p), k / 20)
        hits = np.count_nonzero(p <= k / 20 + 1e-12)
        assert hits <= bound
        if not coarse:
            # Exactly uniform on its grid without ties.
            assert hits >= stats.binom.isf(1 - 1e-6, len(p), k / 20)


def test_rank_holds_where_the_statistic_does_not(monkeypatch):
    """Text that repeats itself, scored without leaving out repeats: the exact tail fails, the rank among decoys does not."""
    everything = Profile.create("redgreen", {"width": 1, "window_rule": False})
    monkeypatch.setattr(
        "wmcheck.watermark.detect.Batch.select", lambda batch, candidate: np.flatnonzero(batch.items.scored)
    )
    rng = np.random.default_rng(9)
    documents = [Document(np.tile(rng.integers(0, 1000, 12), 20)) for _ in range(60)]
    own = decoy_keys(10, seeded(10))
    exact, ranked = [], []
    for key in own:
        for test in decoy_test(documents, Candidate(everything, key), decoy_keys(19, seeded(int(key.id[:8], 16)))):
            exact.append(test.own_log_p)
            ranked.append(test.log_p)
    assert np.mean(np.array(exact) <= math.log(0.05)) > 0.2
    hits = np.count_nonzero(np.array(ranked) <= math.log(0.05) + 1e-9)
    assert hits <= stats.binom.isf(1e-6, len(ranked), 0.05)


def test_marked_text_sinks_to_the_floor_and_is_extrapolated():
    key = decoy_keys(1, seeded(15))[0]
    rng, candidate = np.random.default_rng(11), Candidate(GUMBEL, key)
    ids = rng.integers(0, 5000, 2).tolist()
    while len(ids) < 60:
        options = rng.integers(0, 5000, 3)
        windows = np.tile(np.array(ids[-2:], np.uint32), (3, 1))
        ids.append(int(options[GUMBEL.scheme.score(windows, options, candidate.prf).argmax()]))
    test = decoy_test([Document(np.array(ids))], candidate, decoy_keys(1999, seeded(12)))[0]
    assert test.at_floor
    assert math.exp(test.log_p) == pytest.approx(1 / 2000)
    assert test.own_log_p / math.log(10) == pytest.approx(detect_ids(ids, GUMBEL, key).log10_p, abs=1e-9)
    guess = test.extrapolated
    assert guess.excesses == 250
    assert guess.log10_p_extrapolated == pytest.approx(test.own_log_p / math.log(10), abs=4 * guess.log10_se)


def test_extrapolation_of_an_exponential_tail():
    """log p of a calibrated statistic: -log10 p is exponential with mean 1 / ln 10, so the truth is known."""
    rng = np.random.default_rng(13)
    errors, shapes = [], []
    for _ in range(60):
        guess = extrapolate(-12.0, np.log(rng.random(5000)))
        if guess is None:
            # The fitted tail ended before the own value.
            continue
        errors.append((guess.log10_p_extrapolated + 12.0 / math.log(10)) / guess.log10_se)
        shapes.append(guess.shape / guess.shape_se)
        assert guess.excesses == 250
        assert guess.threshold == pytest.approx(math.log10(20), abs=0.15)
    assert len(errors) >= 55
    # Standard errors are right to first order: most guesses lie within two of them.
    assert np.mean(np.abs(errors) < 2) > 0.8
    assert abs(np.mean(shapes)) < 0.6
    assert 0.6 < np.std(shapes) < 1.5


def test_extrapolation_is_left_out_where_the_rank_answers_or_nothing_can_be_fitted():
    others = np.log(np.random.default_rng(14).random(1000))
    assert extrapolate(math.log(0.05), others) is None
    assert extrapolate(-30.0, others[:100]) is None
    assert extrapolate(-30.0, np.zeros(1000)) is None
    counts = np.random.default_rng(15).binomial(200, 0.25, 5000)
    assert extrapolate(-30.0, stats.binom.logsf(counts - 1, 200, 0.25)) is None
    assert extrapolate(-math.inf, others) is None
    # A bounded tail: the surprise of a decoy is at most 3, that of the own key is 10.
    assert extrapolate(-10.0, -3.0 * np.random.default_rng(16).random(1000)) is None
    assert extrapolate(-9.0, others) is not None


def test_what_it_refuses():
    document = Document(np.arange(50))
    candidate = Candidate(GUMBEL, decoy_keys(1)[0])
    with pytest.raises(ConfigError, match="too few decoy keys"):
        decoy_test([document], candidate, [])
    with pytest.raises(ConfigError, match="unknown statistic"):
        decoy_test([document], candidate, decoy_keys(2), statistic="none")
    with pytest.raises(ConfigError, match="one profile"):
        log_p_by_key([document], [candidate, Candidate(Profile.create("gumbel"), decoy_keys(1)[0])])
    with pytest.raises(InputError, match="out of range"):
        decoy_test([Document(np.array([-1, 2, 3]))], candidate, decoy_keys(2))
