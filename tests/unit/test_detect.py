"""Detection on ids: what is scored, pooling, multiplicity, results."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey, Verdict, correct, detect_ids
from wmcheck.watermark.core.errors import InputError, KeyFileError
from wmcheck.watermark.detect import scan_keys
from wmcheck.watermark.layers import LayeredRoot
from wmcheck.watermark.scheme import SCHEMES

KEY = SecretKey(bytes((91 * i * i + 7 * i + 3) % 256 for i in range(32)))
GUMBEL = Profile.create("gumbel", {"width": 2}, entropy_bits=3.0)


def marked(profile, key, length, vocabulary=64, seed=0, prompt=()):
    """Ids whose every token is, among 8 candidates, the one with the best score: a strong watermark of any scheme."""
    rng, scheme = np.random.default_rng(seed), profile.scheme
    ids = list(prompt) or rng.integers(0, vocabulary, scheme.width or 1).tolist()
    prf = Candidate.of(profile, key).prf
    while len(ids) < length:
        window = np.array(ids[len(ids) - scheme.width :], np.uint32)[None].repeat(8, 0)
        choices = rng.permutation(vocabulary)[:8]
        scores = scheme.null().reduce(scheme.score(window, choices, prf))
        ids.append(int(choices[scores.argmax()]))
    return ids


@pytest.mark.parametrize("name", list(SCHEMES))
def test_marked_is_detected_and_the_wrong_key_is_not(name):
    profile, other = Profile.create(name, entropy_bits=3.0), SecretKey(bytes((29 * i * i + 3 * i + 1) % 256 for i in range(32)))
    # Accounts of one root share layers of a layered profile, which has tests of its own.
    own, *wrong = [KEY, other] if name == "layered" else [KEY.tenant("a"), KEY.tenant("b"), KEY.tenant("a", "next")]
    ids = marked(profile, own, 200, vocabulary=5000)
    assert detect_ids(ids, profile, own).verdict(1e-6) is Verdict.DETECTED
    for key in wrong:
        assert detect_ids(ids, profile, key).verdict(1e-6) is Verdict.NOT_DETECTED


def test_short_text_is_insufficient_not_negative():
    assert detect_ids([], GUMBEL, KEY).verdict(0.01) is Verdict.INSUFFICIENT
    assert detect_ids([1, 2], GUMBEL, KEY).verdict(0.01) is Verdict.INSUFFICIENT
    assert detect_ids(list(range(8)), GUMBEL, KEY).verdict(1e-6) is Verdict.INSUFFICIENT
    assert detect_ids(list(range(200)), GUMBEL, KEY).verdict(1e-6) is Verdict.NOT_DETECTED


def test_insufficient_follows_power_not_a_length():
    low, high = (Profile.create("gumbel", {"width": 2}, entropy_bits=bits) for bits in (0.2, 6.0))
    ids = list(range(60))
    assert detect_ids(ids, low, KEY).verdict(1e-4) is Verdict.INSUFFICIENT
    assert detect_ids(ids, high, KEY).verdict(1e-4) is Verdict.NOT_DETECTED


def test_repeats_are_scored_once():
    ids = marked(GUMBEL, KEY, 60, vocabulary=5000)
    once, often = detect_ids(ids, GUMBEL, KEY), detect_ids(ids * 40, GUMBEL, KEY)
    assert once.n_scored == 58
    assert often.n_scored <= 60
    assert often.n_repeated == 60 * 40 - 2 - often.n_scored
    assert often.log10_p > once.log10_p - 1


def test_prompt_is_context_and_never_scored():
    prompt = list(range(100, 140))
    ids = marked(GUMBEL, KEY, 140, prompt=prompt)
    known = detect_ids(ids, GUMBEL, KEY, prompt_length=40)
    unknown = detect_ids(ids[40:], GUMBEL, KEY)
    assert known.n_scored == 100 - known.n_repeated
    assert known.n_scored == unknown.n_scored + 2
    assert known.log10_p < -20
    assert detect_ids(prompt, GUMBEL, KEY, prompt_length=40).n_scored == 0


def test_special_tokens_are_dropped_with_their_windows():
    profile = Profile.create("gumbel", {"width": 2}, special_ids=(7,))
    result = detect_ids([1, 2, 3, 7, 4, 5, 6, 8], profile, KEY)
    # Scored: 3 (after 1 2), 6 (after 4 5), 8 (after 5 6); not 7, nor 4 and 5, whose windows hold it.
    assert (result.n_scored, result.n_excluded) == (3, 5)


def test_batch_equals_one_by_one_and_many_keys_equal_single_tests():
    rng, root = np.random.default_rng(1), LayeredRoot.of(KEY)
    documents = [Document(rng.integers(0, 30, size), min(size, 3)) for size in (0, 1, 3, 50, 200, 7)]
    for name in SCHEMES:
        for parameters in SCHEMES[name].examples():
            profile = Profile.create(name, parameters, special_ids=(4,))
            detector = Detector([Candidate.of(profile, root, "x"), Candidate.of(profile, root, "y")])
            tested = detector.test(documents)
            for i, document in enumerate(documents):
                for j, tenant in enumerate("xy"):
                    single = detect_ids(document.ids, profile, root.tenant(tenant), prompt_length=document.prompt_length)
                    batched = detector.detections(tested, i)[j]
                    assert (batched.total, batched.n_scored, batched.n_repeated, batched.n_excluded, batched.log10_p) == (
                        single.total, single.n_scored, single.n_repeated, single.n_excluded, single.log10_p
                    )
                    keys = scan_keys(document, profile, [root.tenant("x"), root.tenant("y")])
                    assert keys.log_p[j] / math.log(10) == pytest.approx(single.log10_p, abs=1e-12)


def test_corpus_scores_each_distinct_item_once():
    ids = np.array(marked(GUMBEL, KEY, 100, vocabulary=5000))
    other = np.random.default_rng(2).integers(0, 5000, 100)
    detector = Detector([Candidate.of(GUMBEL, KEY)])
    detector.test([Document(ids), Document(other), Document(ids)])
    detector.test([Document(ids), Document(other)])
    pooled = detector.corpus()[0]
    both = detect_ids(np.concatenate([ids, other]), GUMBEL, KEY)
    assert pooled.n_scored == 196
    # The joined text has two more windows, across the seam.
    assert both.n_scored == 198
    assert pooled.n_repeated == 98 * 3


def test_holm_over_the_family():
    results = [detect_ids(marked(GUMBEL, KEY, 40, seed=seed), GUMBEL, KEY) for seed in range(3)]
    results.append(detect_ids(list(range(60)), GUMBEL, KEY))
    fixed = correct(results)
    order = np.argsort([result.log10_p for result in results])
    assert fixed[order[0]].log10_p_adjusted == pytest.approx(results[order[0]].log10_p + math.log10(4))
    assert all(result.correction == "Holm over 4 tests" and result.family == 4 for result in fixed)
    wide = correct(results, family=1000)
    assert wide[order[0]].log10_p_adjusted == pytest.approx(results[order[0]].log10_p + 3)
    assert correct([]) == []


def test_result_is_not_a_boolean_nor_iterable_and_serialises():
    result = detect_ids(list(range(50)), GUMBEL, KEY)
    with pytest.raises(TypeError, match="no truth value"):
        bool(result)
    with pytest.raises(TypeError):
        iter(result)
    with pytest.raises(AttributeError):
        result.log10_p = 0.0
    with pytest.raises(ValueError, match="alpha"):
        result.verdict(0)
    data = json.loads(json.dumps(result.to_dict(1e-3)))
    assert data["schema"] == "wmcheck.detection/1"
    assert data["key_id"] == KEY.tenant().id
    assert data["verdict"] == "NOT_DETECTED"
    assert "verdict" not in result.to_dict()
    assert len(data["assumptions"]) == 4


def test_commitments_are_compared():
    profile = Profile.create("gumbel", keys=(KEY,))
    assert Candidate.of(profile, KEY, "a").committed == "root"
    assert Candidate.of(profile, SecretKey.new(), "a").committed == "no"
    assert Candidate.of(GUMBEL, KEY).committed is None


@pytest.mark.parametrize("ids", [[1, -1, 3], [1, 2**31, 3]])
def test_ids_out_of_range_are_refused(ids):
    with pytest.raises(InputError, match="token id out of range"):
        detect_ids(ids, GUMBEL, KEY)


def test_impossible_prompt_length_is_refused():
    with pytest.raises(InputError, match="prompt length"):
        detect_ids([1, 2, 3], GUMBEL, KEY, prompt_length=4)


def test_a_tenant_key_serves_its_tenant_alone():
    tenant = KEY.tenant("a")
    assert Candidate.of(GUMBEL, tenant).key == tenant
    with pytest.raises(KeyFileError, match="holds that tenant alone"):
        Candidate.of(GUMBEL, tenant, "b")


def test_results_of_a_run_have_no_verdict_before_correction():
    detector = Detector([Candidate.of(GUMBEL, KEY, str(i)) for i in range(3)])
    results = detector.detections(detector.test([Document(np.arange(50))]), 0)
    with pytest.raises(ValueError, match="before correct"):
        results[0].verdict(0.01)
    assert {result.verdict(1e-3) for result in correct(results)} == {Verdict.NOT_DETECTED}


@pytest.mark.parametrize(
    "parameters", [{"width": 0}, {"width": 2, "window_rule": False}, {"width": 4, "rule": "min"}, {"width": 3, "rule": "self"}]
)
def test_quoting_a_marked_prompt_is_no_evidence(parameters):
    """Output that repeats or edits its marked prompt was not necessarily marked itself."""
    profile = Profile.create("redgreen", parameters, entropy_bits=3.0)
    prompt = marked(profile, KEY.tenant(), 300, vocabulary=3000)
    assert detect_ids(prompt, profile, KEY).log10_p < -20
    edited = np.array(prompt)
    edited[::5] = np.random.default_rng(3).integers(0, 3000, 60)
    for copy in (prompt, edited.tolist()):
        assert detect_ids(prompt + copy, profile, KEY, prompt_length=300).log10_p > -3


def test_a_failing_batch_leaves_no_trace_in_the_corpus(monkeypatch):
    detector = Detector([Candidate.of(GUMBEL, KEY, "a"), Candidate.of(GUMBEL, KEY, "b")])
    real, calls = type(GUMBEL.scheme).score, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return real(self, *args)

    monkeypatch.setattr(type(GUMBEL.scheme), "score", failing)
    with pytest.raises(MemoryError):
        detector.test([Document(np.arange(50))])
    detector.test([Document(np.arange(50))])
    assert [result.n_scored for result in detector.corpus()] == [48, 48]


def test_threads_may_share_a_key():
    from concurrent.futures import ThreadPoolExecutor

    candidate = Candidate.of(GUMBEL, KEY)
    ids = np.arange(200)
    expected = detect_ids(ids, GUMBEL, KEY).log10_p

    def test(_):
        detector = Detector([candidate], corpus=False)
        return detector.detections(detector.test([Document(ids)]), 0)[0].log10_p

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(test, range(400))) == {expected}


@pytest.mark.parametrize("ids", [[1.5, 2.0], ["1", "2"], [[1, 2, 3]], np.ones((2, 2)), [True, False]])
def test_what_is_no_list_of_ids_is_refused(ids):
    with pytest.raises(InputError, match="not a list of token ids"):
        detect_ids(ids, GUMBEL, KEY)
