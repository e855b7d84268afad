"""Scanning documents: token places, families, candidates, and characters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wmcheck.watermark import Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.scan import CHUNK, Scanner, characters
from wmcheck.watermark.scheme import SCHEMES

ROOT = SecretKey(bytes((31 * i * i + 7 * i + 3) % 256 for i in range(32)))
CASES = [(name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples() if name in
         ("gumbel", "redgreen", "reweight", "tournament")]
cases = pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)


@pytest.fixture(scope="module")
def bundled():
    return load_tokenizer("bundled:stories2m")


def candidate(name="gumbel", parameters=None, tenant=""):
    return Candidate(Profile.create(name, parameters or SCHEMES[name].examples()[0]), ROOT.tenant(tenant))


def marked(one, length, rng, before=()):
    """Ids of which every one has the best score among 16 random ones."""
    scheme, prf = one.profile.scheme, PrfKey.derive(one.key, one.profile.scheme.label())
    ids = list(before) or rng.integers(1, 1000, max(scheme.width, 1)).tolist()
    start = len(ids)
    while len(ids) < start + length:
        options = rng.choice(np.arange(1, 1000), 16, replace=False)
        windows = np.tile(np.array(ids[len(ids) - scheme.width :], np.uint32), (16, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, prf)))]))
    return ids


def document(one, rng, *, before=800, length=200, after=800, prompt=0):
    ids = marked(one, length, rng, rng.integers(1, 1000, before).tolist())
    return Document(np.array(ids + rng.integers(1, 1000, after).tolist()), prompt)


@cases
def test_every_scheme_has_its_span_found_in_token_places(name, parameters):
    rng, one = np.random.default_rng(1), candidate(name, parameters)
    scanner = Scanner([one, candidate(name, parameters, "another")], alpha=1e-5)
    mine, other = scanner.scan(document(one, rng))
    (span,) = mine.spans(scanner.log_bar)
    # Coarse scores have coarse ends.
    assert abs(span.start - 800) < 40
    assert abs(span.stop - 1000) < 40
    assert span.log10_p < -10
    assert span.items <= span.stop - span.start
    assert mine.best.log10_p == span.log10_p
    assert other.spans(scanner.log_bar) == []
    assert mine.n_scored + mine.n_repeated + mine.n_excluded == 1800


def test_places_count_from_the_output_whatever_the_prompt():
    rng, one = np.random.default_rng(2), candidate()
    whole = document(one, rng)
    plain = Scanner([one], alpha=1e-5)
    (span,) = plain.scan(whole)[0].spans(plain.log_bar)
    prompted = Scanner([one], alpha=1e-5)
    (moved,) = prompted.scan(Document(whole.ids, 300))[0].spans(prompted.log_bar)
    assert (moved.start, moved.stop, moved.items) == (span.start - 300, span.stop - 300, span.items)
    assert moved.score == pytest.approx(span.score)


def test_a_repeated_stretch_counts_once():
    rng, one = np.random.default_rng(3), candidate()
    ids = marked(one, 200, rng)
    scanner = Scanner([one], alpha=1e-5)
    found = scanner.scan(Document(np.array(ids * 5)))[0]
    (span,) = found.spans(scanner.log_bar)
    assert span.stop <= len(ids) + 10
    assert found.n_repeated > 3.9 * len(ids)


def test_the_family_grows_with_documents_and_candidates_and_settles_earlier_spans():
    rng, one = np.random.default_rng(4), candidate()
    scanner = Scanner([one, candidate(tenant="b")], alpha=1e-3)
    weak = scanner.scan(document(one, rng, before=50, length=12, after=50))[0]
    (span,) = weak.spans(scanner.log_bar)
    assert scanner.family == 2
    for _ in range(500):
        scanner.scan(Document(rng.integers(1, 1000, 12)))
    assert scanner.family == 1002
    assert scanner.log_bar == pytest.approx(math.log(1e-3 / 1002))
    assert scanner.adjusted(-5.0) == pytest.approx(-5.0 + math.log10(1002))
    assert -3 - math.log10(1002) < span.log10_p <= -3 - math.log10(2)
    assert weak.spans(scanner.log_bar) == []
    assert weak.spans(math.log(1e-3 / 2)) == [span]
    assert weak.spans(-300.0) == []
    assert Scanner([one], alpha=1e-3, family=10**6).log_bar == pytest.approx(math.log(1e-9))


def test_the_rule_decides_which_p_value_counts():
    rng, one = np.random.default_rng(5), candidate()
    text = document(one, rng)
    certified, sharp = Scanner([one], alpha=1e-5), Scanner([one], alpha=1e-5, rule="sharp")
    (span,), (other,) = certified.scan(text)[0].spans(certified.log_bar), sharp.scan(text)[0].spans(sharp.log_bar, "sharp")
    assert (span.by("certified"), span.by("sharp")) == (span.log10_p, span.log10_p_sharp)
    assert other.log10_p_sharp == pytest.approx(span.log10_p_sharp)
    # n e^-x is an upper bound of either, and the sharp law lies below the proven one.
    assert span.log10_p_sharp < span.log10_p < math.log10(3 * 1800) - span.score / math.log(10)


def test_more_items_than_a_chunk_are_scored_alike(monkeypatch):
    rng, one = np.random.default_rng(6), candidate("tournament")
    text = document(one, rng)
    found = Scanner([one], alpha=1e-5).scan(text)[0].best
    monkeypatch.setattr("wmcheck.watermark.scan.CHUNK", 100)
    assert Scanner([one], alpha=1e-5).scan(text)[0].best == found
    assert CHUNK > 100


def test_short_and_empty_texts():
    one = candidate()
    scanner = Scanner([one], alpha=1e-5)
    (found,) = scanner.scan(Document(np.zeros(0, np.int64)))
    assert (found.best, found.found, found.n_scored) == (None, (), 0)
    assert scanner.too_short(one, 0)
    assert scanner.too_short(one, 5)
    assert not scanner.too_short(one, 5000)


def test_wrong_settings_are_refused():
    one = candidate()
    for settings, message in (
        ({"alpha": 1e-5, "rule": "z"}, "unknown rule"), ({"alpha": 1e-5, "method": "z"}, "unknown method"),
        ({"alpha": 0.0}, "alpha out of range"),
    ):
        with pytest.raises(ConfigError, match=message):
            Scanner([one], **settings)
    with pytest.raises(InputError, match="token id out of range"):
        Scanner([one], alpha=1e-5).scan(Document(np.array([-1, 2])))


def test_characters_of_encoded_and_recorded_ids(bundled):
    text = "The naïve café, said Tom: “it is 3 o'clock” 🙂 and went home again.\n" * 4
    ids = bundled.encode([text])[0]
    ranges = [(0, 3), (5, 20), (len(ids) - 4, len(ids))]
    for encoded in (True, False):
        found = characters(bundled, ids, text, ranges, encoded=encoded)
        for (start, stop), place in zip(ranges, found, strict=True):
            spelled = bundled.decode(ids[start:stop].tolist()).strip("\ufffd ")
            assert spelled in text[slice(*place)]
            assert len(text[slice(*place)]) <= len(spelled) + 3
    assert characters(bundled, ids[:-1], text, [(0, 3)], encoded=False) == [None]
    # Many ranges go by offsets, which agree but for characters that a token only begins or ends.
    many = [(start, start + 3) for start in range(0, len(ids) - 3, 3)]
    few = [characters(bundled, ids, text, [one], encoded=True)[0] for one in many]
    for one, other in zip(few, characters(bundled, ids, text, many, encoded=True), strict=True):
        assert abs(one[0] - other[0]) <= 1
        assert abs(one[1] - other[1]) <= 1
    assert characters(bundled, ids[:-1], text, many, encoded=True) == [None] * len(many)
    assert characters(bundled, ids, "another text", [(0, 3)], encoded=True) == [None]
