"""Payloads: the law of the best message, what is embedded and read back, the code, and what cannot be."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import binom

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, MissingExtraError, ProfileError
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull
from wmcheck.watermark.detect import Detector, detect_ids
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.law import Law
from wmcheck.watermark.payload import AnyMessage, Payload, parse_message, shown
from wmcheck.watermark.payload_codes import ReedSolomon, agreements, sums_over
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import keyed, make_scheme
from wmcheck.watermark.windows import Document

KEY = SecretKey(bytes((71 * i * i + 3 * i + 9) % 256 for i in range(32)))
SHIFT = make_scheme("payload-shift", {"width": 2, "messages": 300, "vocabulary": 4000})
CODE = make_scheme("payload-code", {"width": 2, "bits": 20, "vocabulary": 4000})
INNER = [{"scheme": "gumbel", "width": 2}, {"scheme": "redgreen", "width": 1, "green": 100, "delta": 3.0}]


def windows_of(n, rng, width=2):
    """Distinct windows."""
    numbers = rng.choice(900**width if width < 3 else 10**6, n, replace=False)
    return np.stack([numbers // 900**place % 900 for place in range(width)], axis=1).astype(np.uint32)


def marked(scheme, key, n, rng, message=None, vocabulary=500, spread=1.0):
    """Windows and the tokens that a scheme draws there from random logits; no window comes twice."""
    windows = windows_of(n, rng, scheme.width)
    prf = keyed(scheme, key if message is None else Payload(key, message))
    logits = torch.from_numpy(rng.normal(0, spread, (n, vocabulary)))
    out = scheme.transform(torch.from_numpy(windows.astype(np.int64)), logits, RowKeys([prf] * n))
    return windows, torch.multinomial(out.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()


# The law


@pytest.mark.parametrize("choices", [2, 1000, 2**20, 2**32])
@pytest.mark.parametrize("total", [0.0, 5.0, 12.0, 30.0, 200.0, 900.0, 5000.0])
def test_the_best_of_many_has_the_tail_of_sidak(choices, total):
    null, n = AnyMessage(ExponentialNull(bound=True), choices), 12
    found = float(null.log_sf([total], [n])[0])
    with mpmath.workdps(60):
        one = mpmath.gammainc(n, total, mpmath.inf, regularized=True)
        exact = mpmath.log(-mpmath.expm1(choices * mpmath.log1p(-one))) if one < 1 else mpmath.mpf(0)
    assert found == pytest.approx(float(exact), rel=1e-9, abs=1e-9)
    assert found <= 0.0


def test_no_items_are_no_evidence_and_the_tail_falls():
    null = AnyMessage(BernoulliNull(64, 256), 77)
    assert null.log_sf([0.0, 0.0], [0, 5]).tolist() == [0.0, 0.0]
    tail = null.log_sf(np.arange(201.0), np.full(201, 200))
    assert (np.diff(tail) <= 0).all()
    assert "best of 77 messages" in null.describe(9)


@pytest.mark.parametrize("shared", [0, 3, 10])
def test_sums_that_share_scores_stay_within_the_bound(shared):
    """Of 10 items of each of 40 sums, some are the same for all: the share of small p falls below its level, never above."""
    rng = np.random.default_rng(1)
    own = rng.exponential(size=(4000, 40, 10 - shared)).sum(2)
    best = (own + rng.exponential(size=(4000, 1, shared)).sum(2)).max(1)
    p = np.exp(AnyMessage(ExponentialNull(bound=False), 40).log_sf(best, np.full(4000, 10)))
    for level in (0.3, 0.05, 0.01):
        hits = int((p <= level).sum())
        assert binom.sf(hits - 1, 4000, level) > 1e-5
        if shared == 0:
            assert binom.cdf(hits, 4000, level) > 1e-5


@pytest.mark.parametrize("parameters", INNER, ids=lambda one: one["scheme"])
def test_p_values_of_the_shift_are_exact_for_unmarked_text(parameters):
    scheme = make_scheme("payload-shift", {**parameters, "messages": 64, "vocabulary": 64})
    rng, tests = np.random.default_rng(2), 900
    best = [scheme.totals(windows_of(30, rng, scheme.width), rng.integers(0, 64, 30),
                          keyed(scheme, KEY.tenant(str(test)))).max() for test in range(tests)]
    p = np.exp(scheme.null().log_sf(np.array(best), np.full(tests, 30)))
    for level in (0.5, 0.1, 0.02):
        hits = int((p <= level).sum())
        assert binom.sf(hits - 1, tests, level) > 1e-4
        if parameters["scheme"] == "gumbel":
            assert binom.cdf(hits, tests, level) > 1e-4


@pytest.mark.parametrize("name", ["payload-shift", "payload-code"])
def test_p_values_of_texts_are_super_uniform(name):
    """Zipf texts with repeats, by the whole pipeline."""
    parameters = {"messages": 50} if name == "payload-shift" else {"bits": 9, "length": 5}
    profile, rng = Profile.create(name, {"width": 1, "vocabulary": 300, **parameters}), np.random.default_rng(3)
    log_p = []
    for number in range(400):
        ids = np.minimum(rng.zipf(1.3, 60), 299)
        found = Detector([Candidate.of(profile, KEY, str(number))], corpus=False).test([Document(ids)])[0].evidence
        log_p.append(found.log_p[0])
    for level in (0.5, 0.1, 0.01):
        assert binom.sf(int((np.array(log_p) <= math.log(level)).sum()) - 1, 400, level) > 1e-4


# Messages in text


@pytest.mark.parametrize("parameters", INNER, ids=lambda one: one["scheme"])
@pytest.mark.parametrize(("messages", "vocabulary"), [(40, 1000), (900, 1000), (1000, 1000)])
def test_totals_are_the_sums_of_scores_under_each_message(parameters, messages, vocabulary):
    """By single lanes and by keystreams, round the end of the vocabulary, and of ids beyond it."""
    scheme = make_scheme("payload-shift", {**parameters, "messages": messages, "vocabulary": vocabulary})
    rng = np.random.default_rng(4)
    windows, tokens = windows_of(25, rng, scheme.width), rng.integers(0, 1100, 25)
    tokens[:3] = 999, 0, 1000
    totals = scheme.totals(windows, tokens, keyed(scheme, KEY.tenant()))
    for message in (0, 1, messages // 2, messages - 1):
        scores = scheme.score(windows, tokens, keyed(scheme, Payload(KEY, message)))
        assert totals[message] == pytest.approx(scores.sum(), rel=1e-12)
    assert len(np.unique(totals)) > (5 if scheme.inner.name == "redgreen" else messages - 1)


@pytest.mark.parametrize("parameters", INNER, ids=lambda one: one["scheme"])
@pytest.mark.parametrize("vocabulary", [256, 500, 777, 4000])
@pytest.mark.parametrize("name", ["payload-shift", "payload-code"])
def test_rows_with_their_own_messages_read_the_lanes_that_are_scored(name, parameters, vocabulary):
    """Logits narrower than, as wide as and wider than the modulus: of two equal tokens the one with the better score gains."""
    scheme = make_scheme(name, {**parameters, "vocabulary": vocabulary} | ({"messages": 250} if name == "payload-shift" else {}))
    rng, top = np.random.default_rng(5), scheme.messages
    messages = [top - 1, 0, 7, top - 2, top // 2, 7]
    windows = windows_of(6, rng, scheme.width)
    prfs = [keyed(scheme, Payload(KEY, message)) for message in messages]
    logits = torch.full((6, 500), -math.inf)
    pairs = np.array([[0, 499], [255, 256], [3, 4], [450, 20], [300, 301], [499, 498]])
    for row, pair in enumerate(pairs):
        logits[row, pair] = 0.3
    law = scheme.transform(torch.from_numpy(windows.astype(np.int64)), logits, RowKeys(prfs)).softmax(1).numpy()
    for row, pair in enumerate(pairs):
        scores = scheme.score(windows[[row, row]], pair, prfs[row])
        assert law[row, pair].sum() == pytest.approx(1.0, abs=1e-5)
        if scores[0] != scores[1]:
            assert (law[row, pair[0]] > law[row, pair[1]]) == (scores[0] > scores[1])


@pytest.mark.parametrize("parameters", INNER, ids=lambda one: one["scheme"])
@pytest.mark.parametrize("name", ["payload-shift", "payload-code"])
def test_what_is_embedded_is_decoded(name, parameters):
    scheme, rng = make_scheme(name, parameters), np.random.default_rng(6)
    message = scheme.messages - 3
    windows, tokens = marked(scheme, KEY, 260, rng, message)
    total, words = scheme._decoded(windows, tokens, keyed(scheme, KEY.tenant()))
    assert words.split(" (")[0] == f"payload {shown(message, scheme.messages)}"
    assert total == pytest.approx(scheme.score(windows, tokens, keyed(scheme, Payload(KEY, message))).sum())
    assert scheme.null().log_sf([total], [260])[0] < math.log(1e-9)
    other, _ = scheme._decoded(windows, tokens, keyed(scheme, KEY.tenant("b")))
    assert scheme.null().log_sf([other], [260])[0] > math.log(1e-4)


def test_a_profile_of_one_message_tests_it_without_a_correction():
    parameters = {**SHIFT.parameters(), "message": 41}
    known = Profile.create("payload-shift", parameters)
    ids = np.random.default_rng(7).integers(0, 4000, 80)
    found = detect_ids(ids, known, KEY)
    assert found.null == "Gamma(78, 1), as an upper bound"
    assert found.decoded is None
    best = detect_ids(ids, Profile.create("payload-shift", {**parameters, "message": None}), KEY)
    assert best.total >= found.total
    assert best.decoded is not None
    windows, tokens = marked(SHIFT, KEY, 60, np.random.default_rng(8), 41)
    assert known.scheme.score(windows, tokens, keyed(known.scheme, KEY.tenant())).sum() > 150


def test_predictions_are_moved_with_the_message():
    scheme = make_scheme("payload-shift", {**SHIFT.parameters(), "message": 299})
    rng, prf = np.random.default_rng(9), keyed(SHIFT, KEY.tenant())
    windows, tokens = windows_of(20, rng), rng.integers(0, 4000, 20)
    others = (tokens[:, None] + np.array([1, 3990, 7])) % 4000
    others[:5, 1] = -1
    law = Law.of(tokens, others, np.full(20, -1.0), np.full((20, 3), -1.5))
    moved = replace(law, candidates=np.where(law.candidates < 0, -1, (law.candidates + 299) % 4000))
    found = scheme.aided(windows, tokens, law, prf)
    expected = scheme.inner.aided(windows, (tokens + 299) % 4000, moved, prf)
    assert np.array_equal(found.log_e, expected.log_e)


def test_the_corpus_names_a_message_and_does_not_say_how_surely():
    profile, rng = Profile.create("payload-code", {"width": 1, "bits": 12, "length": 6}), np.random.default_rng(10)
    prf = keyed(profile.scheme, Payload(KEY, 0xABC))
    detector = Detector([Candidate.of(profile, KEY)])
    tested = detector.test([Document(np.array(walk(profile.scheme, prf, 150, rng))) for _ in range(3)])
    results = detector.detections(tested, 0)
    assert results[0].decoded.startswith("payload 0xabc (wrong: log10 p -")
    assert detector.corpus()[0].decoded == "payload 0xabc"


def walk(scheme, prf, length, rng):
    """Ids of few tokens, the best of 30 at every place, so that texts share contexts."""
    ids = [int(rng.integers(200))]
    for _ in range(length):
        choices = rng.permutation(200)[:30]
        windows = np.full((30, 1), ids[-1], np.uint32)
        ids.append(int(choices[scheme.score(windows, choices, prf).argmax()]))
    return ids


# The right message


@pytest.mark.parametrize("parameters", INNER, ids=lambda one: one["scheme"])
def test_wrong_messages_of_marked_text_look_no_better_than_chance(parameters):
    """Likely tokens beside each other, so that the lanes of losers are the ones that wrong messages read."""
    scheme = make_scheme("payload-shift", {**parameters, "messages": 12, "vocabulary": 12})
    rng, wrong = np.random.default_rng(11), []
    for text in range(250):
        windows, tokens = marked(scheme, KEY.tenant(str(text)), 15, rng, 5, vocabulary=12)
        totals = np.delete(scheme.totals(windows, tokens, keyed(scheme, KEY.tenant(str(text)))), 5)
        wrong.append(scheme.inner.null().log_sf([totals.max()], [15])[0] + math.log(11))
    for level in (0.3, 0.1, 0.02):
        assert binom.sf(int((np.array(wrong) <= math.log(level)).sum()) - 1, 250, level) > 1e-4


def test_naming_a_wrong_codeword_is_bounded():
    """Weak texts, whose decoder errs often: the wrong ones that it calls sure are rare."""
    scheme = make_scheme("payload-code", {"width": 2, "bits": 12, "length": 5, "vocabulary": 600})
    rng, errors, rights, texts = np.random.default_rng(12), [], [], 150
    for text in range(texts):
        key, message = KEY.tenant(str(text)), int(rng.integers(2**12))
        windows, tokens = marked(scheme, key, 12, rng, message, spread=4.0)
        table, counts = scheme.table(windows, tokens, keyed(scheme, key))
        found = scheme.code.decode(table)
        surety = scheme.log_wrong(table, counts, scheme.code.encode(np.array([found]))[0])
        (rights if found == message else errors).append(surety)
    assert len(errors) > 10
    assert len(rights) > 10
    for level in (0.3, 0.1):
        assert binom.sf(int((np.array(errors) <= math.log(level)).sum()) - 1, texts, level) > 1e-4


def test_removed_places_are_all_sets_of_those_that_hold_items():
    out = agreements(np.array([3, 0, 1, 2]), 2)
    assert out.shape == (1 + 3 + 3, 4)
    assert not out[:, 1].any()
    assert out.sum(1).max() == 2
    assert len(np.unique(out, axis=0)) == 7


# The code


@pytest.mark.parametrize(("bits", "length"), [(2, 2), (8, 4), (12, 5), (20, 16), (27, 16), (32, 32)])
def test_codewords_are_those_of_the_library_and_far_apart(bits, length):
    from reedsolo import RSCodec

    code, rng = ReedSolomon(bits, length), np.random.default_rng(13)
    messages = rng.integers(0, 2**bits, 30)
    found = code.encode(messages)
    plain = RSCodec(length - code.size)
    for message, codeword in zip(messages.tolist(), found, strict=True):
        assert bytes(codeword) == bytes(plain.encode(message.to_bytes(code.size, "big")))
    distinct = np.unique(messages)
    words = code.encode(distinct)
    agree = (words[:, None] == words[None]).sum(2) - length * np.eye(len(words), dtype=int)
    assert agree.max() <= code.size - 1


def test_the_format_of_codewords_is_fixed():
    assert ReedSolomon(20, 16).encode(np.array([0x2F3A1]))[0].tobytes().hex() == "02f3a1046b04f7971b87f816dfdf775e"


@pytest.mark.parametrize("bits", [2, 8, 11])
def test_short_messages_are_decoded_by_trying_all(bits):
    code, rng = ReedSolomon(bits, 6), np.random.default_rng(14)
    for _ in range(10):
        table = rng.exponential(size=(6, 256))
        totals = sums_over(table, code.encode(np.arange(2**bits)))
        assert totals[code.decode(table)] == pytest.approx(totals.max(), rel=1e-6)


@pytest.mark.parametrize(("bits", "length"), [(21, 12), (24, 12), (28, 16), (32, 16)])
def test_long_messages_survive_places_that_say_nothing_or_lie(bits, length):
    code, rng = ReedSolomon(bits, length), np.random.default_rng(15)
    for trial in range(4):
        message = int(rng.integers(2**bits))
        codeword = code.encode(np.array([message]))[0]
        table = rng.gamma(10.0, size=(length, 256))
        table[np.arange(length), codeword] += 14.0
        order = rng.permutation(length)
        table[order[:3]] = 0.0
        # A place that shouts a wrong symbol.
        table[order[3], codeword[order[3]] ^ 1] += 20.0
        asked = []
        assert code.decode(table, lambda best, word, asked=asked: bool(asked.append(best))) == message
        assert len(asked) > 1, trial
        assert code.decode(table, lambda best, word, message=message: best == message) == message


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reedsolo", None)
    scheme = make_scheme("payload-code", {})
    with pytest.raises(MissingExtraError, match="reedsolo") as caught:
        keyed(scheme, KEY.tenant())
    assert caught.value.hint == "pip install 'wmcheck[payload]'"
    with pytest.raises(MissingExtraError):
        detect_ids(list(range(40)), Profile.create("payload-code"), KEY)


# Keys and bad input


def test_a_payload_is_a_key_with_a_message():
    one, same, other = Payload(KEY, 5, "acct-17"), Payload(KEY.tenant("acct-17"), 5), Payload(KEY, 6, "acct-17")
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, other, KEY.tenant("acct-17")}) == 3
    assert KEY.tenant("acct-17") != one
    assert one.commitment == KEY.tenant("acct-17").commitment
    assert "message=0x5" in repr(one)
    assert one.reveal()[5:40] not in repr(one)
    prf = keyed(SHIFT, one)
    assert prf.message == 5
    assert repr(prf) == "PrfKey(...)"
    for secret in (one, prf):
        with pytest.raises(TypeError):
            pickle.dumps(secret)
    assert keyed(SHIFT, KEY.tenant()).secrets() != PrfKey.derive(KEY.tenant(), SHIFT.inner.label()).secrets()


@pytest.mark.parametrize("message", [-1, 1.5, True, "7", None])
def test_what_is_no_message(message):
    with pytest.raises(ConfigError, match="not a message"):
        Payload(KEY, message)


def test_a_payload_of_another_tenant():
    with pytest.raises(KeyFileError):
        Payload(KEY.tenant("a"), 1, "b")


@pytest.mark.parametrize(("text", "message"), [("0x2f3a", 0x2F3A), ("12090", 12090), ("0b101", 5), ("0", 0)])
def test_messages_as_people_write_them(text, message):
    assert parse_message(text) == message


@pytest.mark.parametrize("text", ["", "-3", "0x", "2f3a", "1e3", "9" * 5000])
def test_texts_that_are_no_message(text):
    with pytest.raises(ConfigError, match="--payload"):
        parse_message(text)


def test_messages_that_a_profile_cannot_carry():
    with pytest.raises(ConfigError, match="does not fit the profile") as caught:
        keyed(SHIFT, Payload(KEY, 300))
    assert (caught.value.got, caught.value.expected) == ("0x12c", "at most 0x12b")
    with pytest.raises(ConfigError, match="at most 0xfffff"):
        keyed(CODE, Payload(KEY, 2**20))
    with pytest.raises(ConfigError, match="carries no payload"):
        keyed(make_scheme("gumbel", {}), Payload(KEY, 1))
    one = make_scheme("payload-shift", {"message": 3})
    assert keyed(one, Payload(KEY, 3)).message == 3
    with pytest.raises(ConfigError, match="that of one message"):
        keyed(one, Payload(KEY, 4))


@pytest.mark.parametrize(
    ("name", "parameters", "what"),
    [
        ("payload-shift", {"messages": 1001, "vocabulary": 1000}, "more messages than the vocabulary has ids"),
        ("payload-shift", {"messages": 1}, "impossible parameter"),
        ("payload-shift", {"message": 1024}, "impossible parameter"),
        ("payload-shift", {"scheme": "tournament"}, "impossible parameter"),
        ("payload-shift", {"scheme": ["gumbel"]}, "impossible parameter"),
        ("payload-shift", {"scheme": "redgreen", "width": 0}, "a message needs windows"),
        ("payload-shift", {"scheme": "redgreen", "rule": "self"}, "a message needs windows"),
        ("payload-shift", {"scheme": "redgreen", "window_rule": False}, "a message needs windows"),
        ("payload-shift", {"green": 3}, "bad parameters for scheme 'payload-shift'"),
        ("payload-code", {"bits": 33}, "impossible parameter"),
        ("payload-code", {"bits": 20, "length": 3}, "a codeword no longer than its message"),
        ("payload-code", {"vocabulary": 255}, "impossible parameter"),
        ("payload-code", {"bits": 20, "message": 2**20}, "impossible parameter"),
    ],
)
def test_profiles_that_cannot_be(name, parameters, what):
    with pytest.raises(ProfileError, match=what):
        Profile.create(name, parameters)


@pytest.mark.parametrize("name", ["payload-shift", "payload-code"])
def test_a_profile_survives_its_file(name, tmp_path):
    profile = Profile.create(name, {"scheme": "redgreen", "width": 3, "message": 9})
    profile.save(tmp_path / "p.json")
    loaded = Profile.load(tmp_path / "p.json")
    assert loaded == profile
    assert loaded.scheme.label() == Profile.create(name, {"scheme": "redgreen", "width": 3}).scheme.label()
    assert loaded.scheme.unbiased is False
    assert Profile.create(name).scheme.unbiased is True
