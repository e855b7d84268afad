"""Calibration on ordinary text: error rates, certificates, templates, spread over keys, blocklists."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from wmcheck.watermark.calibration import (
    Calibrator,
    Certificate,
    error_rate,
    rank_large,
)
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.decoys import decoy_keys
from wmcheck.watermark.detect import Detector
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.templates import (
    Blocklist,
    corpus_contexts,
    find_templates,
    propose_blocklist,
    spread_ratio,
)
from wmcheck.watermark.windows import Document

GUMBEL = Profile.create("gumbel", {"width": 2})
SELF = Profile.create("redgreen", {"width": 3, "rule": "self"})
COIN = Profile.create("reweight", {"width": 4})
VOCABULARY = 3000


def keys(count, seed):
    return decoy_keys(count, np.random.default_rng(seed).bytes)


def ordinary(count, length=80, seed=0):
    rng = np.random.default_rng(seed)
    return [Document(rng.integers(0, VOCABULARY, length)) for _ in range(count)]


def templated(count, seed=1):
    """Every other document holds a header with a slot, its own text and a footer; the others are ordinary."""
    rng = np.random.default_rng(seed)
    head, foot = rng.integers(0, VOCABULARY, 50), rng.integers(0, VOCABULARY, 20)
    found = []
    for place in range(count):
        body = rng.integers(0, VOCABULARY, 60)
        parts = [head[:30], rng.integers(0, VOCABULARY, 2), head[30:], body, foot] if place % 2 else [body, body[::-1]]
        found.append(Document(np.concatenate(parts)))
    return found


def calibrated(documents, profile, own=1, decoys=99, **options):
    calibrator = Calibrator([Candidate(profile, key) for key in keys(own, 5)], keys(decoys, 6), **options)
    for start in range(0, len(documents), 30):
        calibrator.add(documents[start : start + 30])
    return calibrator.result()


def test_clopper_pearson_is_that_of_scipy():
    for hits, tests in [(0, 10), (3, 10), (10, 10), (1, 200_000)]:
        expected = stats.binomtest(hits, tests).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(clopper_pearson(hits, tests), [expected.low, expected.high], rtol=1e-7)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_error_rates_of_independent_and_of_clustered_tests():
    rng = np.random.default_rng(2)
    tests = np.full(500, 100)
    fair = error_rate(0.05, rng.binomial(100, 0.05, 500), tests)
    assert (fair.tests, fair.verdict) == (50_000, "agrees")
    assert fair.design_effect < 1.3
    # All of a key's tests fail together: 500 independent tests, not 50,000.
    clustered = error_rate(0.05, 100 * rng.binomial(1, 0.05, 500), tests)
    assert clustered.design_effect == pytest.approx(100, rel=0.05)
    width = np.diff(clustered.interval_keys)[0]
    assert width == pytest.approx(np.diff(clopper_pearson(clustered.hits / 100, 500))[0], rel=0.05)
    assert clustered.verdict == "agrees"
    assert error_rate(0.05, rng.binomial(100, 0.07, 500), tests).verdict == "above"
    assert error_rate(0.05, rng.binomial(100, 0.03, 500), tests).verdict == "below"
    assert error_rate(0.05, np.array([0]), np.array([0])).verdict == "agrees"


def test_ranks_column_by_column():
    found = np.exp(rank_large(np.array([2.0, 5.0]), np.array([[1.0, 5.0], [2.0, 4.0], [3.0, 3.0]])))
    np.testing.assert_allclose(found, [3 / 4, 2 / 4])


@pytest.mark.parametrize("profile", [GUMBEL, SELF, COIN], ids=lambda one: one.scheme_name)
def test_ordinary_text(profile):
    documents = ordinary(100)
    found = calibrated(documents, profile, own=2)
    assert (found.documents, found.decoys, found.whole.documents) == (100, 99, 100)
    for rate in found.whole.rates:
        assert rate.tests == 101 * 100
        assert rate.verdict != "above"
    assert found.whole.spread.ratio == pytest.approx(1.0, abs=0.3)
    assert abs(found.whole.spread.mean) < 0.05
    assert [(key.certificate, key.ordinary) for key in found.keys] == [(Certificate.INSUFFICIENT, True)] * 2
    assert found.keys[0].levels == (0.1, 0.01)
    assert found.keys[0].family == 6
    detector = Detector([key.candidate for key in found.keys])
    tested = detector.test(documents)
    for place, key in enumerate(found.keys):
        log_p = tested[place].evidence.log_p
        assert [rate.hits for rate in key.rates] == [int((log_p <= math.log(rate.level)).sum()) for rate in key.rates]
        assert key.corpus.log10_p == pytest.approx(detector.corpus()[place].log10_p)


def test_certificates_of_sound_keys_fail_rarely():
    """Each own key is exchangeable with the decoys: at 0.01 over all questions of a run, hardly one run in 100 fails."""
    documents, failed = templated(20), 0
    for seed in range(30):
        pool = keys(400, 100 + seed)
        calibrator = Calibrator([Candidate(GUMBEL, pool[0])], pool[1:], levels=(0.1,))
        calibrator.add(documents)
        report = calibrator.result().keys[0]
        assert report.certificate in (Certificate.PASS, Certificate.FAIL)
        failed += report.certificate is Certificate.FAIL
    assert failed <= stats.binom.isf(1e-4, 30, 0.01)


def test_a_key_that_is_off_fails():
    """Text whose documents all hold one passage on which the key scores high: right for most keys, wrong for this one."""
    rng, key = np.random.default_rng(3), Candidate(GUMBEL, keys(1, 7)[0])
    passages = rng.integers(0, VOCABULARY, (4000, 24))
    totals = [
        float(GUMBEL.scheme.score(np.lib.stride_tricks.sliding_window_view(one[:-1].astype(np.uint32), 2).copy(), one[2:],
                                  key.prf).sum())
        for one in passages
    ]
    lucky = passages[int(np.argmax(totals))]
    documents = [Document(np.concatenate([lucky, rng.integers(0, VOCABULARY, 40)])) for _ in range(60)]
    calibrator = Calibrator([key], keys(499, 8))
    calibrator.add(documents)
    report = calibrator.result().keys[0]
    assert report.certificate is Certificate.FAIL
    assert report.mean_z > 1
    # No document is watermarked, and the corpus test, which counts the passage once, does not say so either.
    assert report.ordinary


def test_watermarked_text_is_not_ordinary():
    key = Candidate(GUMBEL, keys(1, 5)[0])
    rng, documents = np.random.default_rng(4), ordinary(30)
    for place in (3, 17):
        ids = rng.integers(0, VOCABULARY, 2).tolist()
        while len(ids) < 80:
            options = rng.integers(0, VOCABULARY, 8)
            windows = np.tile(np.array(ids[-2:], np.uint32), (8, 1))
            ids.append(int(options[GUMBEL.scheme.score(windows, options, key.prf).argmax()]))
        documents[place] = Document(np.array(ids))
    report = calibrated(documents, GUMBEL).keys[0]
    assert report.detected.tolist() == [3, 17]
    assert not report.ordinary


def test_templates_are_found_with_their_slots():
    documents = templated(60)
    found = find_templates(documents)
    assert len(found) == 1
    assert found[0].documents.tolist() == list(range(1, 60, 2))
    # 50 of the header and 20 of the footer among 132 tokens.
    assert (found[0].tokens, found[0].share, found[0].place) == (70, pytest.approx(70 / 132), "start and end")
    assert found[0].example.tolist() == documents[1].ids[:30].tolist()
    assert find_templates(ordinary(60)) == []
    assert find_templates([]) == []
    assert find_templates([Document(np.arange(4))] * 5) == []
    assert [len(one.documents) for one in find_templates([Document(np.arange(40))] * 5 + ordinary(5))] == [5]
    assert find_templates(templated(60), min_documents=31) == []


def test_two_templates_are_told_apart_and_prompts_are_not_read():
    rng = np.random.default_rng(5)
    heads = rng.integers(0, VOCABULARY, (2, 30))
    bodies = rng.integers(0, VOCABULARY, (40, 50))
    found = find_templates([Document(np.concatenate([heads[int(place % 4 == 0)], body])) for place, body in enumerate(bodies)])
    assert [len(one.documents) for one in found] == [30, 10]
    assert [one.place for one in found] == ["start", "start"]
    prompted = [Document(np.concatenate([heads[0], body]), prompt_length=30) for body in bodies]
    assert find_templates(prompted) == []


@pytest.mark.parametrize("profile", [GUMBEL, COIN], ids=lambda one: one.scheme_name)
def test_the_spread_over_keys_is_the_one_computed_without_keys(profile):
    documents = templated(60)
    found = calibrated(documents, profile, decoys=799)
    expected = spread_ratio(corpus_contexts(documents, profile))
    assert expected > 2.5
    # The standard deviation of 800 normals has a relative standard error of 2.5%.
    assert found.whole.spread.ratio == pytest.approx(expected, rel=0.1)
    # Sums of fair coins are discrete, and their p-values lie above the nominal ones.
    assert found.whole.rates[0].verdict == ("agrees" if profile is GUMBEL else "below")
    assert found.whole.rates[0].design_effect > 3


def test_spread_of_copies_by_hand():
    """m equal documents: every key's mean z is that of one document, so the ratio is the root of m."""
    ids = np.random.default_rng(6).integers(0, VOCABULARY, 70)
    assert spread_ratio(corpus_contexts([Document(ids)] * 9, GUMBEL)) == pytest.approx(3.0)
    assert spread_ratio(corpus_contexts(ordinary(9), GUMBEL)) == pytest.approx(1.0)
    assert math.isnan(spread_ratio(corpus_contexts([], GUMBEL)))
    assert math.isnan(spread_ratio(corpus_contexts([Document(np.arange(2))], GUMBEL)))


def test_the_blocklist_evens_the_keys_out():
    documents = templated(60)
    contexts = corpus_contexts(documents, GUMBEL)
    proposal = propose_blocklist(contexts)
    assert proposal.spread_left < 1.25 < proposal.spread
    templates = find_templates(documents)
    found = calibrated(documents, GUMBEL, decoys=399, templates=templates, blocklist=proposal.blocklist)
    assert found.blocked.spread.ratio == pytest.approx(proposal.spread_left, rel=0.15)
    assert found.whole.spread.ratio > 2.5
    before, after = found.templates[0], found.blocked_templates[0]
    assert before.documents == after.documents == 30
    assert before.spread.ratio > 3.5 > 1.5 > after.spread.ratio
    assert all(rate.verdict != "above" for rate in found.blocked.rates)
    held = contexts.held_by()
    assert len(proposal.blocklist.codes) == (held >= proposal.blocklist.min_documents).sum()


def test_the_windows_of_a_blocklist_are_the_shared_ones():
    documents = templated(40)
    blocklist = propose_blocklist(corpus_contexts(documents, GUMBEL), min_documents=20).blocklist
    # Header and footer make 27 + 1 + 18 + ... windows of two ids that stand in all 20 documents.
    windows = np.lib.stride_tricks.sliding_window_view(documents[1].ids.astype(np.uint32), 2)
    blocked = blocklist.blocked(windows)
    inside = np.zeros(len(windows), bool)
    inside[np.r_[0:29, 32:51, 112:131]] = True
    # The last window has no token after it, hence no item.
    inside[-1] = False
    assert blocked[inside].all()
    assert not blocked[~inside].any()


def test_no_blocklist_where_none_is_needed_or_none_can_help():
    plain = propose_blocklist(corpus_contexts(ordinary(30), GUMBEL))
    assert (len(plain.blocklist.codes), plain.blocked) == (0, 0.0)
    unigram = Profile.create("redgreen", {"width": 0})
    alone = propose_blocklist(corpus_contexts([Document(np.arange(60))] * 9, unigram), min_documents=2)
    assert len(alone.blocklist.codes) == 0
    assert alone.spread == pytest.approx(3.0)
    assert not plain.blocklist.blocked(np.zeros((3, 2), np.uint32)).any()


def test_a_blocklist_comes_back_from_its_file(tmp_path):
    made = propose_blocklist(corpus_contexts(templated(40), GUMBEL), tokenizer="ab").blocklist
    path = tmp_path / "b.json"
    path.write_text(json.dumps(made.to_dict()))
    back = Blocklist.load(str(path))
    assert (back.width, back.min_documents, back.documents, back.tokenizer) == (2, made.min_documents, 40, "ab")
    np.testing.assert_array_equal(back.codes, made.codes)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": "wmcheck.blocklist/2"}', '{"schema": "wmcheck.blocklist/1"}',
                                  '{"schema": "wmcheck.blocklist/1", "width": 1, "min_documents": 1, "documents": 1, '
                                  '"tokenizer": "", "contexts": ["xyz"]}'])
def test_files_that_are_no_blocklist(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a blocklist"):
        Blocklist.load(str(path))
    with pytest.raises(InputError, match="no such file"):
        Blocklist.load(str(tmp_path / "gone.json"))


def test_documents_without_items_count_for_nothing():
    found = calibrated([*ordinary(40), *[Document(np.arange(2))] * 5], GUMBEL)
    assert (found.documents, found.whole.documents) == (45, 40)
    assert found.whole.rates[0].tests == 40 * 100


def test_what_it_refuses():
    own = [Candidate(GUMBEL, keys(1, 5)[0])]
    for candidates in ([], [own[0], Candidate(COIN, own[0].key)]):
        with pytest.raises(ConfigError, match="one profile"):
            Calibrator(candidates, keys(30, 6))
    with pytest.raises(ConfigError, match="too few decoy keys"):
        Calibrator(own, keys(1, 6))
    with pytest.raises(ConfigError, match="unknown statistic"):
        Calibrator(own, keys(2, 6), statistic="none")
    empty = Calibrator(own, keys(2, 6))
    empty.add([Document(np.arange(2))])
    with pytest.raises(ConfigError, match="no document has a scored token"):
        empty.result()
    with pytest.raises(InputError):
        empty.add([Document(np.array([-5, 1, 2]))])
    assert empty.documents == 1
