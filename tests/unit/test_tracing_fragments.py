"""Fragments: e-values against the formula, small shares found, no item twice, bulk screens that never understate."""

import hashlib
import math

import numpy as np
import pytest

from wmcheck.watermark import Document, Profile, SecretKey
from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.schemes.gumbel import Gumbel
from wmcheck.watermark.tracing.bulk import BulkScorer
from wmcheck.watermark.tracing.bulk_keys import derive_keys
from wmcheck.watermark.tracing.evalues import SHARES, average_log, evidence_kernel, mixed
from wmcheck.watermark.tracing.fragments import FragmentTracer
from wmcheck.watermark.tracing.search import Tracer
from wmcheck.watermark.tracing.verdicts import NO_ONE, SHORT, Answer, judge_mixture

ROOT = SecretKey(hashlib.sha256(b"a root key for fragments").digest())
NAMES = [f"acct-{number:04d}" for number in range(300)]
SCHEMES = [("gumbel", {}), ("redgreen", {"width": 2, "green": 128}), ("tournament", {"layers": 12}), ("reweight", {})]


def written(profile, account, length, rng, best=6):
    prf, scheme = Candidate.of(profile, ROOT, account).prf, profile.scheme
    ids = rng.integers(1, 5000, scheme.width).tolist()
    while len(ids) < length:
        options = rng.choice(np.arange(1, 5000), best, replace=False)
        windows = np.tile(np.array(ids[len(ids) - scheme.width :], np.uint32), (best, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, prf)))]))
    return Document(np.array(ids))


def corpus(profile, rng, *, own=6, others=120, length=34):
    documents = [Document(rng.integers(1, 5000, length)) for _ in range(others)]
    return [*documents, *(written(profile, "acct-0123", length, rng) for _ in range(own))]


@pytest.mark.parametrize(("name", "parameters"), SCHEMES, ids=str)
def test_screens_never_understate(name, parameters):
    profile, rng = Profile.create(name, parameters), np.random.default_rng(0)
    scheme = profile.scheme
    bets = experts(scheme.null())
    kernel = evidence_kernel(scheme, bets)
    windows, tokens = rng.integers(0, 5000, (400, scheme.width), dtype=np.uint32), rng.integers(0, 5000, 400)
    starts = np.array([0, 5, 40, 41, 300])
    keys = derive_keys(ROOT, NAMES[:40], "", scheme.label())
    found = BulkScorer(kernel, windows, tokens, starts).totals(keys, 0, 40)
    assert found.shape == (len(bets), 40, 5)
    sizes = np.diff(starts, append=400)
    for place in range(0, 40, 7):
        scores = scheme.null().reduce(scheme.score(windows, tokens, PrfKey.derive(ROOT.tenant(NAMES[place]), scheme.label())))
        for row, bet in zip(found, bets, strict=True):
            over = row[place] - np.add.reduceat(bet.log_e(scores), starts)
            assert (over >= -1e-9).all()
            assert (over <= kernel._error * sizes + 1e-9).all()
            assert np.abs(over).sum() < 0.01 * 400


def test_gumbel_table_at_the_ends_of_the_lane():
    null = Gumbel().null()
    kernel = evidence_kernel(Gumbel(), experts(null))
    words = np.array([0, 1, 1 << 21, 1 << 31, (1 << 32) - 2, (1 << 32) - 1], np.uint32)
    lanes = np.repeat(words, 2)[None]
    starts = np.arange(0, 12, 2)
    found = kernel.fold(lanes, starts, np.arange(6))[:, 0] / 2
    for row, bet in zip(found, experts(null), strict=True):
        exact = bet.log_e(-np.log1p(-words.astype(np.float64) / 2.0**32))
        assert ((row >= exact - 1e-12) & (row <= exact + kernel._error)).all()


@pytest.mark.parametrize(("name", "parameters"), [*SCHEMES, ("redgreen", {"rule": "min", "green": 128})], ids=str)
def test_a_small_share_is_found(name, parameters):
    profile, rng = Profile.create(name, parameters), np.random.default_rng(1)
    own = 25 if name == "reweight" else 12
    documents = corpus(profile, rng, own=own)
    names = NAMES if "rule" not in parameters else NAMES[120:127]
    tracer = FragmentTracer(profile, ROOT, names)
    tracer.add(documents[:50])
    tracer.add(documents[50:])
    found = tracer.finish()
    result = judge_mixture(found, profile, alpha=1e-6)
    assert (result.verdict, result.account, len(result.named)) == (Answer.NAMED, "acct-0123", 1)
    assert result.share in (0.03, 0.1, 0.3)
    assert found.fragments == len(documents)
    # By the formula, fragment by fragment.
    scheme = profile.scheme
    prf = Candidate.of(profile, ROOT, "acct-0123").prf
    bets = experts(scheme.null())
    total, seen = np.zeros((len(bets) + 1, len(SHARES))), set()
    for document in documents:
        batch = Batch([document], profile)
        kept = batch.select(Candidate.of(profile, ROOT, "acct-0123"))
        codes = scheme.codes(batch.items.windows[kept], batch.items.tokens[kept], prf).tolist()
        kept = kept[[place for place, code in enumerate(codes) if code not in seen]]
        seen.update(codes)
        scores = scheme.null().reduce(scheme.score(batch.items.windows[kept], batch.items.tokens[kept], prf))
        values = [math.exp(bet.log_e(scores).sum()) for bet in bets]
        for row, value in zip(total, [*values, np.mean(values)], strict=True):
            row += np.log(1.0 - np.array(SHARES) + np.array(SHARES) * value)
    assert found.ranked[0].log_e == pytest.approx(float(average_log(total.ravel())), rel=1e-9)
    assert found.ranked[0].log_p == -found.ranked[0].log_e


def test_a_sum_over_the_corpus_would_not_find_it():
    profile, rng = Profile.create("gumbel"), np.random.default_rng(2)
    documents = corpus(profile, rng, own=4, others=200)
    tracer = Tracer(profile, ROOT, NAMES)
    tracer.test(documents)
    assert tracer.together().ranked[0].log_p > math.log(1e-9)
    fragments = FragmentTracer(profile, ROOT, NAMES)
    fragments.add(documents)
    assert judge_mixture(fragments.finish(), profile, alpha=1e-6).account == "acct-0123"


def test_repeats_count_once_and_long_records_are_cut():
    profile, rng = Profile.create("gumbel"), np.random.default_rng(3)
    text = written(profile, "acct-0001", 254, rng, best=3)
    results = []
    for documents in ([text], [text, text], [text, Document(text.ids[50:])]):
        tracer = FragmentTracer(profile, ROOT, NAMES, length=100)
        for document in documents:
            tracer.add([document])
        results.append(tracer.finish())
    assert [one.fragments for one in results] == [3, 3, 3]
    assert [one.n_scored for one in results] == [250, 250, 250]
    assert len({one.ranked[0].log_e for one in results}) == 1
    assert [one.n_repeated for one in results] == [0, 250, 200]


def test_workers_and_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_key_file(ROOT, "lab.wmk")
    profile = Profile.create("gumbel")
    documents = corpus(profile, np.random.default_rng(4))
    found = []
    for options in ({}, {"workers": 2, "source": "file:lab.wmk"}):
        with FragmentTracer(profile, ROOT, NAMES, ["", "b"], **options) as tracer:
            tracer.add(documents)
            found.append(tracer.finish())
    assert found[0] == found[1]
    assert (found[0].keys, found[0].ranked[0].account, found[0].ranked[0].epoch) == (600, "acct-0123", "")


def test_nothing_found_says_why():
    profile, rng = Profile.create("gumbel", entropy_bits=2.0), np.random.default_rng(5)
    answers = []
    for count in (1, 40):
        tracer = FragmentTracer(profile, ROOT, NAMES)
        tracer.add([Document(rng.integers(1, 5000, 34)) for _ in range(count)])
        answers.append(judge_mixture(tracer.finish(), profile, alpha=1e-6))
    assert [one.reason for one in answers] == [SHORT, NO_ONE]
    assert [one.account for one in answers] == [None, None]
    assert all(one.log10_p_adjusted <= 0.0 for one in answers)
    empty = FragmentTracer(profile, ROOT, NAMES)
    empty.add([Document(np.arange(3))])
    result = judge_mixture(empty.finish(), profile, alpha=1e-6)
    assert (result.n_scored, result.account, result.log10_p) == (0, None, 0.0)


def test_mixed_neither_overflows_nor_loses():
    log_e = np.array([-np.inf, -50.0, -1.0, 0.0, 3.0, 590.0, 610.0, 5000.0])
    for share, row in list(zip(SHARES, mixed(log_e), strict=True))[1:]:
        expected = np.logaddexp(math.log1p(-share), math.log(share) + log_e)
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(average_log(np.full((3, 2), -np.inf)), [-np.inf, -np.inf])


def test_refusals():
    with pytest.raises(ConfigError, match="impossible fragment length"):
        FragmentTracer(Profile.create("gumbel"), ROOT, NAMES, length=0)
