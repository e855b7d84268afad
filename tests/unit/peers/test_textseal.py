"""TextSeal: the project's own hashes, and what the dependence between tokens does to sums and p-values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import gammaincc

from wmcheck.watermark import Candidate, Detector, Document, Profile, detect_ids
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.textseal import FACTOR, PRIMES, SECOND, TOKEN, TextSealDual, TextSealGumbel
from wmcheck.watermark.peers.textseal_dependence import SCORES, Widened, hashes, random_sums

CASES = json.loads((Path(__file__).parents[2] / "vectors/peers/textseal_prf.json").read_text())["cases"]
SINGLE, DUAL = "textseal-gumbel", "textseal-dual"


def signed(number):
    """A whole number as 64 bits with a sign hold it."""
    return (number + 2**63) % 2**64 - 2**63


def reference(window, token, key):
    """The hash in whole numbers of any size."""
    mixed = signed((sum(p * w for p, w in zip(PRIMES, window, strict=False)) + TOKEN * token + 500001713 * key) * FACTOR)
    return (mixed ^ (mixed >> 13)) % 8191


def forms(ids, width):
    """u64: points of the distinct items of a text."""
    windows = np.lib.stride_tricks.sliding_window_view(ids, width + 1)
    form = TOKEN * windows[:, -1] + (windows[:, :-1] * np.array(PRIMES[:width])).sum(1)
    return np.unique(form).astype(np.uint64) * np.uint64(FACTOR)


def chain(scheme, key, count, seed=0, prompt=5):
    """A text of random next-token laws, marked by ``transform``."""
    rng, function = np.random.default_rng(seed), scheme.keyed(key)
    torch.manual_seed(seed)
    ids = list(rng.integers(0, 300, prompt))
    for _ in range(count):
        logits = torch.from_numpy(rng.normal(0, 1.5, (1, 300)))
        window = torch.tensor([ids[-scheme.width :]])
        ids.append(int(scheme.transform(window, logits, [function]).argmax()))
    return np.array(ids)


def log_p(ids, profile, key):
    """Natural log, without the slow commitment of the key that a full result has."""
    document = Document(np.asarray(ids, np.int64))
    return Detector([Candidate.of(profile, key)], corpus=False).test([document])[0].evidence.log_p[0]


def test_every_hash_of_the_vectors():
    assert len(CASES) == 36
    for case in CASES:
        width = len(case["w"])
        scheme = TextSealGumbel(ngram=width)
        windows, token = np.array([case["w"]], np.uint32), np.array([case["x"]])
        function = scheme.keyed(PeerKey(case["sk"]))
        score = scheme.score(windows, token, function)[0]
        assert np.float32(case["h"]) / np.float32(8191) == np.float32(case["u"])
        assert score == SCORES[case["h"]] == pytest.approx(-math.log1p(-case["u"]), rel=1e-5)
        assert reference(case["w"], case["x"], case["sk"]) == case["h"]


@pytest.mark.parametrize("ngram", [1, 4, 10])
def test_large_ids_and_negative_keys_wrap_as_64_bits_do(ngram):
    rng = np.random.default_rng(1)
    windows, tokens = rng.integers(0, 2**31, (40, ngram)).astype(np.uint32), rng.integers(0, 2**31, 40)
    for key in (-(2**63), -5, 2**63 - 1):
        function = TextSealGumbel(ngram=ngram).keyed(PeerKey(key))
        found = TextSealGumbel(ngram=ngram).score(windows, tokens, function)
        expected = [SCORES[reference(w.tolist(), int(x), key)] for w, x in zip(windows, tokens, strict=True)]
        np.testing.assert_array_equal(found, expected)


def test_different_windows_with_one_form_are_one_item():
    windows, tokens = np.array([[TOKEN, 5], [0, 5]], np.uint32), np.array([7, 7 + PRIMES[0]])
    scheme = TextSealGumbel(ngram=2)
    function = scheme.keyed(PeerKey(99))
    assert len(np.unique(scheme.codes(windows, tokens, function))) == 1
    assert len(np.unique(scheme.score(windows, tokens, function))) == 1


def test_scores_are_below_exponential_ones():
    h = np.arange(8191)
    # P(score >= s_h) = (8191 - h) / 8191 = exp(-s_h).
    np.testing.assert_allclose(np.exp(-SCORES), (8191 - h) / 8191, rtol=1e-12)
    points = np.random.default_rng(2).integers(0, 2**64, 200_000, dtype=np.uint64)
    counts = np.bincount(hashes(points), minlength=8191)
    assert ((counts - len(points) / 8191) ** 2).sum() / (len(points) / 8191) < 8191 + 6 * math.sqrt(2 * 8191)


def test_random_sums_are_sums_of_scores_under_random_keys():
    rng = np.random.default_rng(3)
    windows, tokens = rng.integers(0, 500, (70, 2)).astype(np.uint32), rng.integers(0, 500, 70)
    points = (TOKEN * tokens + (windows * np.array(PRIMES[:2])).sum(1)).astype(np.uint64) * np.uint64(FACTOR)
    for scheme in (TextSealGumbel(ngram=2), TextSealDual(ngram=2, mixing_alpha=0.3)):
        offsets = scheme.keyed(PeerKey(0)).offsets
        found = random_sums(points, scheme.weights, offsets, 4000, rng)
        keys = rng.integers(-(2**63), 2**63 - 1, 2000)
        direct = [scheme.null().reduce(scheme.score(windows, tokens, scheme.keyed(PeerKey(int(key))))).sum() for key in keys]
        assert np.mean(found) == pytest.approx(np.mean(direct), abs=5 * np.std(direct) / math.sqrt(2000))
        assert np.var(found) == pytest.approx(np.var(direct), rel=0.2)
    # In parts as in one: many items, few random keys at a time.
    long = rng.integers(0, 2**64, 70_000, dtype=np.uint64)
    uniform = np.random.default_rng(9).integers(0, 1 << 64, 3, dtype=np.uint64)
    expected = [SCORES[hashes(long + x)].sum() for x in uniform]
    np.testing.assert_allclose(random_sums(long, (1.0,), (0,), 3, np.random.default_rng(9)), expected)


@pytest.mark.parametrize("lag", [743, 160, 110886, 1])
def test_dependent_tokens_widen_the_tail_as_much_as_they_must(lag):
    """One window and ids in steps of ``lag``: the plain tail is too small by far for some, the widened one for none."""
    points = ((7 * PRIMES[0] + TOKEN * (1000 + lag * np.arange(200))).astype(np.uint64)) * np.uint64(FACTOR)
    drawn, sums = (random_sums(points, (1.0,), (0,), 20_000, np.random.default_rng(seed)) for seed in (lag, lag + 1))
    law = Widened(ExponentialNull(bound=True), drawn, 200, 2.0)
    plain = gammaincc(200, sums)
    assert ((plain <= 1e-3).mean() > 5e-3) == (lag in (743, 110886))
    for level in (0.1, 0.01, 1e-3):
        cut = np.quantile(sums, 1.0 - level)
        # The cut has an error of its own: 4 standard errors of a share of 20,000.
        assert law.log_sf(float(cut)) > math.log(level) - 4 / math.sqrt(20_000 * level)


def test_the_widened_tail_is_never_below_the_plain_one():
    rng = np.random.default_rng(5)
    points = forms(rng.integers(0, 3000, 300), 1)
    law = Widened(ExponentialNull(bound=True), random_sums(points, (1.0,), (0,), 4096, rng), len(points), 2.0)
    variance, third = law.moments()
    assert variance >= len(points)
    assert third >= 2 * len(points)
    totals = len(points) * np.array([0.5, 1.0, 1.2, 1.5, 2.0, 4.0])
    tails = [law.log_sf(float(total)) for total in totals]
    assert tails == sorted(tails, reverse=True)
    assert (np.array(tails) >= law.base.log_sf(totals, np.full(6, len(points)))).all()
    assert tails[-1] < -100
    assert law.log_rank(1e9) == pytest.approx(-math.log(4097))
    assert law.log_rank(0.0) == 0.0


@pytest.mark.parametrize("name", [SINGLE, DUAL])
@pytest.mark.parametrize("method", ["measured", "rank"])
def test_p_values_of_a_structured_text_over_random_keys(name, method):
    ids = np.stack([np.full(60, 7), 1000 + 743 * np.arange(60)], axis=1).ravel()
    profile = Profile.create(name, {"method": method, "keys": 2048})
    rng = np.random.default_rng(6)
    p = np.exp([log_p(ids, profile, profile.scheme.draw(rng)) for _ in range(200)])
    for level in (0.5, 0.1, 0.02):
        assert np.mean(p <= level) <= level + 4 * math.sqrt(level / 200)
    if method == "rank":
        assert min(p) >= 1 / 2049


@pytest.mark.parametrize(("name", "parameters", "bar"), [
    (SINGLE, {"ngram": 1}, -30.0), (SINGLE, {"ngram": 4}, -30.0), (DUAL, {"ngram": 2}, -8.0),
    (DUAL, {"mixing_alpha": 0.1}, -15.0),
])
def test_marked_text_is_found(name, parameters, bar):
    profile, key = Profile.create(name, parameters), PeerKey(123456789)
    ids = chain(profile.scheme, key, 250)
    found = detect_ids(ids, profile, key, prompt_length=5)
    assert found.log10_p < bar
    assert found.n_scored + found.n_repeated == 250
    assert "not proven" in found.null
    assert detect_ids(ids, profile, PeerKey(987654321), prompt_length=5).log10_p > -3
    unmarked = np.random.default_rng(3).integers(0, 300, 250)
    assert detect_ids(unmarked, profile, key).log10_p > -3


def test_ranks_have_a_floor():
    profile, key = Profile.create(SINGLE, {"method": "rank", "keys": 2048}), PeerKey(5)
    found = detect_ids(chain(profile.scheme, key, 120), profile, key)
    assert found.log10_p == pytest.approx(-math.log10(2049))
    assert found.null.startswith("rank among 2,048 random keys")


def test_documents_and_corpora():
    profile, key = Profile.create(SINGLE, {"keys": 2048}), PeerKey(5)
    ids = chain(profile.scheme, key, 120)
    detector = Detector([Candidate.of(profile, key)])
    evidence = detector.test([Document(ids), Document(ids[:0]), Document(ids[60:])])[0].evidence
    assert evidence.n.tolist()[1] == 0
    assert evidence.log_p[1] == 0.0
    assert detector.corpus()[0].n_scored == evidence.n[0]
    assert detector.corpus()[0].log10_p == pytest.approx(evidence.log_p[0] / math.log(10))


def test_a_single_number_stands_for_two_keys():
    scheme = TextSealDual(ngram=1)
    windows, tokens = np.arange(50, dtype=np.uint32)[:, None], np.arange(50)
    one = scheme.score(windows, tokens, scheme.keyed(PeerKey(1000)))
    two = scheme.score(windows, tokens, scheme.keyed(PeerKey((1000, 1000 + SECOND))))
    np.testing.assert_array_equal(one, two)
    single = TextSealGumbel(ngram=1)
    np.testing.assert_array_equal(one[:, 1], single.score(windows, tokens, single.keyed(PeerKey(1000 + SECOND))))


@pytest.mark.parametrize("wrong", [
    {"ngram": 0}, {"ngram": 11}, {"vocabulary": 1}, {"method": "exact"}, {"keys": 100}, {"keys": True}, {"other": 1},
])
@pytest.mark.parametrize("name", [SINGLE, DUAL])
def test_impossible_parameters_are_refused(name, wrong):
    with pytest.raises(ProfileError):
        Profile.create(name, wrong)


@pytest.mark.parametrize("alpha", [0.0, 1.0, True, "half", float("nan")])
def test_impossible_mixtures_are_refused(alpha):
    with pytest.raises(ProfileError, match="mixing_alpha"):
        Profile.create(DUAL, {"mixing_alpha": alpha})


def test_impossible_keys_are_refused():
    for key in (PeerKey(2**63), PeerKey(-(2**63) - 1), PeerKey(b"x"), PeerKey((1, 2, 3))):
        for scheme in (TextSealGumbel(), TextSealDual()):
            with pytest.raises(KeyFileError):
                scheme.keyed(key)
    with pytest.raises(KeyFileError):
        TextSealDual().keyed(PeerKey((4, 4)))
    with pytest.raises(KeyFileError):
        TextSealGumbel().keyed(PeerKey((4, 5)))
