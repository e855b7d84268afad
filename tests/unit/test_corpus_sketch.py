"""Sketches: merging in any order gives one exact sum, the one that a detector finds in memory; reducing them on disk too."""

import hashlib
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError, KeyFileError
from wmcheck.watermark.corpus.outcome import outcome
from wmcheck.watermark.corpus.scan import Mapper
from wmcheck.watermark.corpus.settings import Settings, automatic_sample
from wmcheck.watermark.corpus.sketch import CodeSet, Sketch, Totals, exact_sum, fixed, unfixed
from wmcheck.watermark.corpus.sources import plan
from wmcheck.watermark.detect import Detector
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.windows import Document

KEYS = [SecretKey(hashlib.sha256(f"a corpus test: {name}".encode()).digest()) for name in "ab"]


def candidates():
    """Two keys of a scheme whose selection needs no key, another scheme with the same windows, and one with a keyed selection."""
    gumbel, red = Profile.create("gumbel", {"width": 2}), Profile.create("redgreen", {"width": 2, "green": 64})
    selfhash = Profile.create("redgreen", {"width": 3, "rule": "self", "green": 64})
    pairs = [(gumbel, KEYS[0]), (gumbel, KEYS[1]), (red, KEYS[0]), (selfhash, KEYS[0])]
    return [Candidate.of(profile, key) for profile, key in pairs]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two files of documents that repeat one another, as records of ids."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(3)
    shared = rng.integers(1, 60, (4, 50))
    documents = []
    for name in ("a", "b"):
        lines = []
        for i in range(60):
            ids = np.concatenate([shared[rng.integers(4)], rng.integers(1, 60, rng.integers(0, 90))])
            documents.append(ids)
            lines.append(json.dumps({"id": f"{name}{i}", "tokens": ids.tolist()}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder, documents


def sketches(folder, found, size=4000, **options):
    setting = Settings.of(found, **options)
    tasks = plan([str(folder / "a.jsonl"), str(folder / "b.jsonl")], None, size)
    assert len(tasks) > 4
    return [Mapper(found, setting).sketch(task) for task in tasks]


def merged(parts):
    whole = Sketch(parts[0].settings)
    for part in parts:
        whole.merge(part)
    return whole


def results(whole, alpha=1e-3):
    return outcome(whole.settings, whole.units, whole.best, whole.finish(), alpha=alpha)


def test_the_whole_is_what_a_detector_finds(corpus):
    folder, documents = corpus
    found = candidates()
    result = results(merged(sketches(folder, found, top=1000)))
    detector = Detector(found)
    tested = detector.test([Document(ids.astype(np.int64)) for ids in documents])
    for mine, theirs in zip(result.tests, detector.corpus(), strict=True):
        assert (mine.n_scored, mine.n_repeated, mine.n_excluded) == (theirs.n_scored, theirs.n_repeated, theirs.n_excluded)
        assert mine.total == pytest.approx(theirs.total, rel=1e-10)
        assert mine.log10_p == pytest.approx(theirs.log10_p, rel=1e-6)
        assert mine.log10_p >= theirs.log10_p - 1e-12 * abs(theirs.log10_p)
    singles = {}
    for i in range(len(documents)):
        for test in detector.detections(tested, i):
            singles[f"{'ab'[i // 60]}{i % 60}", test.key_id, test.scheme, json.dumps(test.null)] = test
    assert len(result.documents) == len(documents) * len(found)
    for test in result.documents:
        same = singles[test.document, test.key_id, test.scheme, json.dumps(test.null)]
        assert (test.total, test.n_scored, test.log10_p) == (same.total, same.n_scored, same.log10_p)
        assert test.where == f"{folder}/{test.document[0]}.jsonl:{int(test.document[1:]) + 1}"


def test_any_order_and_any_repetition_give_the_same_bits(corpus):
    parts = sketches(corpus[0], candidates(), top=7, sample=2)
    whole = merged(parts)
    expected, totals = results(whole).to_dict(), whole.finish()
    rng = np.random.default_rng(1)
    for _ in range(6):
        order = [parts[i] for i in rng.permutation(len(parts))]
        assert results(merged([*order, order[0], order[-1]])).to_dict() == expected
    left = merged([merged(parts[:2]), merged(parts[2:])])
    right = merged([merged(parts[3:]), merged([merged(parts[:1]), merged(parts[1:3])])])
    left.merge(whole)
    assert results(left).to_dict() == results(right).to_dict() == expected
    assert left.finish() == right.finish() == totals


def test_other_ranges_give_the_same_results(corpus):
    expected = results(merged(sketches(corpus[0], candidates(), size=4000, top=9))).to_dict()
    other = results(merged(sketches(corpus[0], candidates(), size=2500, top=9))).to_dict()
    for one in (expected, other):
        del one["counts"]["units"]
    assert other == expected


def test_a_sample_is_the_same_part_of_every_document(corpus):
    found = candidates()
    full, half = (merged(sketches(corpus[0], found, sample=rate)) for rate in (1, 4))
    (all_codes, all_scores), (codes, scores) = full.sets[0].settle(), half.sets[0].settle()
    keep = all_codes <= np.uint64((2**64 - 1) // 4)
    np.testing.assert_array_equal(all_codes[keep], codes)
    np.testing.assert_array_equal(all_scores[keep], scores)
    assert 0.2 < len(codes) / len(all_codes) < 0.3
    # Several n-grams share one effective seed of a self hash, so more than a quarter of the seeds are met.
    (all_codes, _), (codes, _) = full.sets[1].settle(), half.sets[1].settle()
    assert set(codes.tolist()) < set(all_codes.tolist())
    test = results(half).tests[0]
    assert test.assumptions[-1] == "items are a sample, 1 in 4, chosen by an unkeyed hash of the n-gram"
    # Documents are tested in full whatever the sample.
    assert [one.log10_p for one in results(full).documents] == [one.log10_p for one in results(half).documents]


def test_a_sample_of_documents_is_tested_as_if_the_others_were_not_there(corpus):
    folder, documents = corpus
    # A scheme and a key tell these apart.
    found = candidates()[:3]
    full, part = (results(merged(sketches(folder, found, documents=rate, top=500))) for rate in (1, 3))
    assert 20 < part.counted < 60
    assert part.counted + sum(counts.passed for _, counts in part.units.values()) == full.counted == len(documents)
    assert part.to_dict()["counts"]["left_out"] == full.counted - part.counted
    assert part.tests[0].assumptions[-1] == "documents are a sample, 1 in 3, chosen by an unkeyed hash of the text"
    # The choice is by the document alone: other ranges and other keys read the same ones, with the same p-values.
    every = {(one.document, one.key_id, one.total, one.log10_p) for one in full.documents}
    assert {(one.document, one.key_id, one.total, one.log10_p) for one in part.documents} < every
    other = results(merged(sketches(folder, found[:1], size=9000, documents=3, top=500)))
    assert {one.document for one in other.documents} == {one.document for one in part.documents}


def test_candidates_share_codes_where_selection_needs_no_key():
    setting = Settings.of(candidates())
    assert setting.sets == ((0, 1, 2), (3,))
    again = Settings.from_dict(json.loads(json.dumps(setting.to_dict())), "x")
    assert again.digest == setting.digest
    assert again.sets == setting.sets
    # No key is in the settings, so they go to workers.
    assert KEYS[0]._secret not in pickle.dumps(setting)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-50, 50)), max_size=40), st.randoms())
@settings(max_examples=100)
def test_a_code_counts_once_with_its_smallest_score(rows, random):
    expected = {}
    for code, score in rows:
        expected[code] = min(score, expected.get(code, score))
    random.shuffle(rows)
    held = CodeSet(1)
    for start in range(0, len(rows), 7):
        part = rows[start : start + 7]
        held.add(np.array([code for code, _ in part], np.uint64), np.array([[score] for _, score in part], np.int64))
        if random.random() < 0.3:
            held.settle()
    codes, scores = held.settle()
    assert dict(zip(codes.tolist(), scores[:, 0].tolist(), strict=True)) == expected


@given(st.lists(st.floats(0, 30), max_size=30))
def test_fixed_sums_are_exact_and_never_above(values):
    scores = fixed(np.array(values, np.float64))
    total = exact_sum(scores)
    assert total == sum(scores.tolist())
    back, true = Fraction(unfixed(total)), sum(map(Fraction, values))
    assert back <= Fraction(total, 1 << 40) <= true
    assert true - back <= Fraction(len(values) + 1, 1 << 40) + true * Fraction(1, 1 << 52)
    whole = fixed(np.floor(np.array(values, np.float64)))
    assert unfixed(exact_sum(whole)) == sum(int(value) for value in values)


def test_sums_beyond_64_bits():
    held = np.full(1000, 2**62, np.int64)
    assert exact_sum(held) == 1000 * 2**62
    assert exact_sum(-held) == -1000 * 2**62


def test_what_does_not_merge(corpus):
    folder, _ = corpus
    found = candidates()[:2]
    parts = sketches(folder, found)
    for other, name in (
        (sketches(folder, found[:1]), "keys differ"), (sketches(folder, found, sample=2), "sample differs"),
        (sketches(folder, found, documents=2), "documents differ"),
        (sketches(folder, candidates()[2:3]), "profile differs"), (sketches(folder, found, top=3), "top differs"),
    ):
        with pytest.raises(InputError, match=name):
            merged(parts).merge(other[0])
    unit, counts = next(iter(parts[0].units.values()))
    changed = Sketch(parts[0].settings)
    changed.units[unit.name] = (unit, type(counts).from_dict({**counts.to_dict(), "sha256": "0" * 64}))
    with pytest.raises(InputError, match="changed between two sketches"):
        merged(parts).merge(changed)


def test_settings_that_make_no_scan():
    found = candidates()
    with pytest.raises(ConfigError, match="too many keys"):
        Settings.of([Candidate.of(found[0].profile, KEYS[0], f"acct-{i}") for i in range(65)])
    for options in ({"sample": 0}, {"documents": 0}, {"top": 0}):
        with pytest.raises(ConfigError, match="out of range"):
            Settings.of(found, **options)
    with pytest.raises(KeyFileError, match="other keys than the scan began with"):
        Mapper(found[1:2], Settings.of(found[:1]))


def test_automatic_samples_aim_at_twenty_million():
    assert [automatic_sample(size, 1) for size in (0, 10**6, 4 * 10**7)] == [1, 1, 1]
    assert automatic_sample(10**10, 1) == 256
    assert automatic_sample(10**10, 64) == 2048


def test_e_values_and_counts_of_documents(corpus):
    whole = merged(sketches(corpus[0], candidates(), top=5))
    result = results(whole)
    documents = result.counted
    assert documents == 120
    data = result.to_dict()
    for which, (one, listed) in enumerate(zip(data["corpus"], whole.best, strict=True)):
        assert sum(one["documents_by_log10_p"].values()) == documents
        mean = sum(np.exp(ranked.log_e) for ranked in listed) / documents
        assert 10 ** one["log10_e_any_document"] == pytest.approx(mean)
        assert one["documents_below_bar"] == sum(ranked.log_p <= np.log(1e-3 / (8 * documents)) for ranked in whole.best[which])
    assert all(test.family == 2 * 4 * documents for test in result.documents)
    assert all(test.family == 2 * 4 for test in result.tests)
    p = [test.log10_p for test in result.documents]
    assert p == sorted(p)


def test_nothing_at_all():
    setting = Settings.of(candidates())
    empty = Sketch(setting)
    assert empty.finish() == Totals((0, 0), (0, 0, 0, 0))
    result = results(empty)
    assert [test.log10_p for test in result.tests] == [0.0] * 4
    assert result.documents == ()
    assert result.log_e_any == (None,) * 4
