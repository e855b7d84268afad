"""Tracing: bulk keys and scores against the one-by-one ones, naming, correction, all records together, worker processes."""

import hashlib
import math
import pickle

import numpy as np
import pytest

from wmcheck.watermark import Document, PeerKey, Profile, SecretKey
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError, KeyFileError
from wmcheck.watermark.core.multiplicity import holm
from wmcheck.watermark.detect import scan_keys
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.tracing.accounts import MAX_ACCOUNTS, check_accounts, read_accounts
from wmcheck.watermark.tracing.bulk import BulkScorer, encryptors
from wmcheck.watermark.tracing.bulk_keys import BulkKeys, derive_keys
from wmcheck.watermark.tracing.cohorts import CohortTracer, account_profile, make_tracer
from wmcheck.watermark.tracing.family import Family, adjusted, needed, reaches, sidak
from wmcheck.watermark.tracing.kernels import kernel_of
from wmcheck.watermark.tracing.search import Tracer
from wmcheck.watermark.tracing.verdicts import NO_ONE, SHORT, Answer, Judge

ROOT = SecretKey(hashlib.sha256(b"a root key for tracing").digest())
NAMES = [f"acct-{number:04d}" for number in range(600)]
KERNELS = [
    ("gumbel", {}), ("gumbel", {"width": 9}), ("redgreen", {"width": 0}), ("redgreen", {"width": 3, "green": 200}),
    ("redgreen", {"width": 1, "window_rule": False}), ("tournament", {}), ("tournament", {"layers": 7}),
    ("reweight", {"width": 5}),
]


def written(profile, account, length, rng, epoch="", best=12):
    """Ids in a strong watermark of an account: the best of some random ids at every place."""
    prf, scheme = Candidate.of(profile, ROOT, account, epoch).prf, profile.scheme
    ids = rng.integers(1, 1024, scheme.width).tolist()
    while len(ids) < length:
        options = rng.choice(np.arange(1, 1024), best, replace=False)
        windows = np.tile(np.array(ids[len(ids) - scheme.width :], np.uint32), (best, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, prf)))]))
    return np.array(ids)


@pytest.mark.parametrize("epoch", ["", "2026-11", "naïve epoch"])
def test_bulk_keys_are_the_tenants_keys(epoch):
    names = ["a", "acct-91", "ünï-çödé", "日本", "x" * 400, " spaced name"]
    keys = derive_keys(ROOT, names, epoch, "gumbel/left/4")
    for place, name in enumerate(names):
        tenant = ROOT.tenant(name, epoch)
        assert keys.contexts(place, place + 1) == [tenant.subkey("gumbel/left/4", "ctx")]
        assert keys.tokens(place, place + 1) == [tenant.subkey("gumbel/left/4", "tok")]


def test_bulk_keys_stay_secret():
    keys = derive_keys(ROOT, NAMES[:3], "", "label")
    assert repr(keys) == "BulkKeys(3 accounts)"
    assert (len(keys), keys.shared) == (3, False)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(keys)
    assert not hasattr(keys, "__dict__")


def test_encryptors_take_a_new_key_each_time():
    keys = [bytes([number] * 15 + [number + 1]) for number in range(5)]
    block = bytes(range(16))
    found = [cipher.update(block) for cipher in encryptors()(keys)]
    expected = [PrfKey(key, key)._token_blocks(np.frombuffer(block[:12], "<u4")[None], np.array([0x0C0D0E0F])) for key in keys]
    assert found == [one.tobytes() for one in expected]


@pytest.mark.parametrize(("name", "parameters"), KERNELS, ids=str)
def test_bulk_totals_are_the_schemes_sums(name, parameters):
    profile = Profile.create(name, parameters)
    scheme, rng = profile.scheme, np.random.default_rng(1)
    windows, tokens = rng.integers(0, 2**31, (251, scheme.width), dtype=np.uint32), rng.integers(0, 2**31, 251)
    starts = np.array([0, 1, 31, 200])
    kernel = kernel_of(scheme)
    totals = BulkScorer(kernel, windows, tokens, starts).totals(derive_keys(ROOT, NAMES[:90], "", scheme.label()), 7, 80)[0]
    for place in (0, 40, 72):
        prf = PrfKey.derive(ROOT.tenant(NAMES[7 + place]), scheme.label())
        expected = np.add.reduceat(scheme.null().reduce(scheme.score(windows, tokens, prf)), starts)
        assert np.abs(totals[place] - expected).max() <= kernel.error(251)


def test_long_batches_are_cut(monkeypatch):
    profile = Profile.create("gumbel", {"width": 6})
    scheme, rng = profile.scheme, np.random.default_rng(2)
    windows, tokens = rng.integers(0, 999, (1000, 6), dtype=np.uint32), rng.integers(0, 999, 1000)
    starts = np.array([0, 64, 100, 700])
    keys = derive_keys(ROOT, NAMES[:9], "", scheme.label())
    whole = BulkScorer(kernel_of(scheme), windows, tokens, starts).totals(keys, 0, 9)
    monkeypatch.setattr("wmcheck.watermark.tracing.bulk.MAX_ITEMS", 64)
    monkeypatch.setattr("wmcheck.watermark.tracing.bulk.BLOCK_BYTES", 3000)
    parts = BulkScorer(kernel_of(scheme), windows, tokens, starts)
    assert len(parts._chunks) == 16
    np.testing.assert_allclose(parts.totals(keys, 0, 9), whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gumbel", {}), ("redgreen", {"width": 2}), ("tournament", {"layers": 10}), ("reweight", {}),
        ("redgreen", {"rule": "self"}),
    ],
    ids=str,
)
def test_the_author_is_named_and_nobody_else(name, parameters):
    profile, rng = Profile.create(name, parameters), np.random.default_rng(3)
    names = NAMES if kernel_of(profile.scheme) else NAMES[:60]
    documents = [
        Document(written(profile, "acct-0017", 150, rng, "b")), Document(rng.integers(1, 1024, 200)),
        Document(np.arange(2)), Document(written(profile, "acct-0042", 150, rng, "a")),
    ]
    with Tracer(profile, ROOT, names, ["a", "b"]) as tracer:
        found = [*tracer.test(documents[:1]), *tracer.test(documents[1:])]
        judge = Judge(profile, alpha=1e-6, tests=5, keys=tracer.family.size)
        traces = [judge.trace(one) for one in found]
    assert [(one.account, one.epoch) for one in traces] == [("acct-0017", "b"), (None, None), (None, None), ("acct-0042", "a")]
    assert [len(one.named) for one in traces] == [1, 0, 0, 1]
    for document, trace in zip(documents, traces, strict=True):
        keys = [ROOT.tenant(account, epoch) for epoch in ("a", "b") for account in names[:60]]
        evidence = scan_keys(document, profile, keys)
        if trace.account:
            assert trace.log10_p * math.log(10) == pytest.approx(float(evidence.log_p.min()), rel=1e-12)
            assert trace.named[0]["total"] == pytest.approx(float(evidence.totals[evidence.log_p.argmin()]), rel=1e-12)
            assert trace.margin > 5
            assert trace.runner_up["account"] != trace.account
        assert trace.n_scored + trace.n_repeated + trace.n_excluded == len(document.ids)
    assert traces[1].runner_up is None


def test_every_account_of_a_spliced_text_is_named():
    profile, rng = Profile.create("gumbel"), np.random.default_rng(4)
    authors = ["acct-0001", "acct-0300", "acct-0599"]
    parts = [written(profile, name, 120, rng) for name in authors]
    found = Tracer(profile, ROOT, NAMES).test([Document(np.concatenate(parts))])[0]
    trace = Judge(profile, alpha=1e-6, tests=1, keys=len(NAMES)).trace(found)
    assert sorted(one["account"] for one in trace.named) == authors
    assert trace.named_all
    assert trace.runner_up["account"] in authors


def test_all_records_together_count_each_item_once():
    profile, rng = Profile.create("gumbel"), np.random.default_rng(5)
    text = written(profile, "acct-0009", 60, rng, best=3)
    documents = [Document(text[:40]), Document(text[20:]), Document(text), Document(text[:10])]
    tracer = Tracer(profile, ROOT, NAMES)
    for document in documents:
        tracer.test([document])
    pooled = tracer.together()
    whole = Tracer(profile, ROOT, NAMES).test([Document(text)])[0]
    assert pooled.n_scored == whole.n_scored == 56
    assert [one.account for one in pooled.ranked] == [one.account for one in whole.ranked]
    assert pooled.ranked[0].log_p == pytest.approx(whole.ranked[0].log_p, rel=1e-12)
    # The same records in one batch.
    at_once = Tracer(profile, ROOT, NAMES)
    at_once.test(documents)
    assert at_once.together().ranked[0].total == pytest.approx(pooled.ranked[0].total, rel=1e-12)
    assert at_once.together().n_repeated == pooled.n_repeated


def test_ties_are_broken_by_the_list_and_all_named():
    """Equal scores of whole numbers: the first of the list leads, whatever the number of workers."""
    profile = Profile.create("redgreen", {"width": 2})
    document = Document(np.array([5, 6, 7]))
    found = Tracer(profile, ROOT, NAMES).test([document])[0]
    evidence = scan_keys(document, profile, [ROOT.tenant(name) for name in NAMES])
    best = np.flatnonzero(evidence.totals == evidence.totals.max())
    assert [one.account for one in found.ranked[:2]] == [NAMES[place] for place in best[:2]]


def test_workers_find_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_key_file(ROOT, "lab.wmk")
    profile, rng = Profile.create("gumbel"), np.random.default_rng(6)
    documents = [Document(written(profile, "acct-0333", 80, rng)), Document(rng.integers(1, 1024, 80))]
    alone = Tracer(profile, ROOT, NAMES, ["a", ""])
    done = []
    with Tracer(profile, ROOT, NAMES, ["a", ""], workers=2, source="file:lab.wmk") as tracer:
        assert tracer.test(documents, progress=done.append) == alone.test(documents)
        assert tracer.together() == alone.together()
    assert sum(done) == 2 * len(NAMES)
    with pytest.raises(ConfigError, match="load the key themselves"):
        Tracer(profile, ROOT, NAMES, workers=2)


def test_a_worker_that_cannot_load_the_key_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Tracer(Profile.create("gumbel"), ROOT, NAMES, workers=2, source="file:gone.wmk") as tracer:
        with pytest.raises(KeyFileError):
            tracer.test([Document(np.arange(50))])
        assert not tracer.intact


def test_the_two_ways_to_score_are_compared(monkeypatch):
    profile = Profile.create("gumbel")
    tracer = Tracer(profile, ROOT, NAMES[:5])
    monkeypatch.setattr(BulkScorer, "totals", lambda self, keys, start, stop: np.full((1, stop - start, self.segments), 30.0))
    with pytest.raises(RuntimeError, match="disagree"):
        tracer.test([Document(np.arange(40))])


def test_an_interrupted_batch_spoils_the_test_of_all_records(monkeypatch):
    tracer = Tracer(Profile.create("gumbel"), ROOT, NAMES[:5])
    tracer.test([Document(np.arange(40))])

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(BulkScorer, "totals", stop)
    with pytest.raises(KeyboardInterrupt):
        tracer.test([Document(np.arange(100, 140))])
    with pytest.raises(RuntimeError, match="interrupted"):
        tracer.together()


def test_sidak_is_exact_and_never_below():
    for log_p in (-1e-9, -0.5, -3.0, -20.0, -100.0, -650.0, -5000.0):
        for m in (1, 2, 1 << 20):
            found = sidak(log_p, m)
            assert log_p - 1e-12 <= found <= min(0.0, log_p + math.log(m)) + 1e-11
    assert sidak(math.log(0.3), 2) == pytest.approx(math.log(1 - 0.7**2), abs=1e-11)
    assert sidak(0.0, 5) == 0.0
    assert adjusted(math.log(1e-9), 1000, 10) == pytest.approx(math.log(1e-5), abs=1e-6)
    # Never more lenient than Holm over the whole family by more than what independence gives.
    assert adjusted(-30.0, 1000, 7) <= float(holm([-30.0], family=7000)[0]) + 1e-12


def test_verdicts_say_why_not():
    profile, rng = Profile.create("gumbel", entropy_bits=2.0), np.random.default_rng(8)
    judge = Judge(profile, alpha=1e-6, tests=1, keys=len(NAMES))
    short, long = (judge.trace(Tracer(profile, ROOT, NAMES).test([Document(rng.integers(1, 9999, n))])[0]) for n in (30, 400))
    assert (short.verdict, short.reason) == (Answer.CANNOT_SAY, SHORT)
    assert (long.verdict, long.reason) == (Answer.CANNOT_SAY, NO_ONE)
    assert 30 < short.tokens_needed < 400
    bar = math.log(1e-6 / len(NAMES))
    assert reaches(profile, short.tokens_needed, bar)
    assert not reaches(profile, short.tokens_needed - 1, bar)
    assert short.account is None
    with pytest.raises(TypeError, match="truth value"):
        bool(short)


def test_a_profile_whose_text_scores_like_any_other_never_names():
    assert needed(Profile.create("gumbel", entropy_bits=1e-9), math.log(1e-12)) is None


def test_family_numbers_accounts_within_epochs():
    family = Family(["x", "y", "z"], ["a", "b"])
    assert family.size == 6
    assert [family.account(index) for index in (0, 2, 3, 5)] == [("x", "a"), ("z", "a"), ("x", "b"), ("z", "b")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no accounts"), (b"\n\n", "no accounts"),
        (b"a\nb\n\na\n", r":4: .*stand in the list twice \(got line 4 repeats line 1"),
        (b"a\n\xff\n", ":2: .*not UTF-8"), (b"a\nb \n", ":2: .*begins or ends with a space"),
        (b"ok\n" + b"x" * 600 + b"\n", ":2: no key can have this name"), (b"a\nb\0c\n", ":2: no key can have this name"),
    ],
)
def test_bad_lists(tmp_path, data, message):
    path = tmp_path / "accounts.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_accounts(path)


def test_lists(tmp_path):
    path = tmp_path / "accounts.txt"
    path.write_bytes("\ufeffa\r\n\nb c\nünï\n".encode())
    assert read_accounts(path) == ("a", "b c", "ünï")
    with pytest.raises(InputError, match="cannot read"):
        read_accounts(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="cannot read"):
        read_accounts(tmp_path)
    with pytest.raises(InputError, match="at most 1048576") as raised:
        check_accounts([str(number) for number in range(MAX_ACCOUNTS + 1)])
    assert "epoch" in raised.value.hint


def test_what_cannot_be_traced():
    with pytest.raises(ConfigError, match="not derived from a root key"):
        Tracer(Profile.create("vllm-gumbel"), ROOT, NAMES)
    with pytest.raises(ConfigError, match="accounts' keys derive from the root key"):
        Tracer(Profile.create("gumbel"), ROOT.tenant("acct-1"), NAMES)
    with pytest.raises(ConfigError, match="accounts' keys derive from the root key"):
        Tracer(Profile.create("gumbel"), PeerKey(7), NAMES)
    with pytest.raises(KeyFileError, match="unusable"):
        Tracer(Profile.create("gumbel"), ROOT, ["x" * 500], ["e" * 100])


class TestCohorts:
    """Layered profiles: cohorts weigh, accounts are named."""

    layers = ({"name": "cohort", "share": 0.4, "width": 2}, {"name": "account", "share": 0.6, "width": 4})

    def profile(self, **more):
        return Profile.create("layered", {"cohorts": 16, "layers": list(self.layers), **more})

    def test_account_keys_share_the_contexts(self):
        profile = account_profile(self.profile())
        tracer = Tracer(profile, ROOT, NAMES[:40])
        tracer.derive()
        keys = tracer._pool._slice._keys[0]
        assert keys.shared
        function = tracer.candidate(7).prf.layers[0]
        assert (keys.contexts(7, 8)[0], keys.tokens(7, 8)[0]) == function.secrets()

    def test_weights_sum_to_one_and_follow_the_cohort(self):
        rng = np.random.default_rng(9)
        tracer = make_tracer(self.profile(), ROOT, NAMES, ["a", "b"])
        assert isinstance(tracer, CohortTracer)
        documents = [Document(written(self.profile(), "acct-0005", 300, rng, "a")), Document(rng.integers(1, 999, 300)),
                     Document(np.arange(2))]
        weights = np.exp(tracer.weights(documents))
        counts = np.bincount(tracer._of_account, minlength=16)
        np.testing.assert_allclose(2 * weights @ counts, 1.0, rtol=1e-12)
        assert weights[0].argmax() == tracer._of_account[5]
        assert weights[0].max() * 2 * counts[tracer._of_account[5]] > 0.9
        # Without evidence all accounts weigh the same.
        np.testing.assert_allclose(weights[2], 1 / (2 * len(NAMES)), rtol=1e-12)

    @pytest.mark.parametrize("inner", ["gumbel", "redgreen"])
    def test_the_author_is_named_with_less_to_pay(self, inner):
        rng, profile = np.random.default_rng(10), self.profile(scheme=inner)
        documents = [Document(written(profile, "acct-0005", 250, rng, "b")), Document(rng.integers(1, 999, 300))]
        tracer = make_tracer(profile, ROOT, NAMES, ["a", "b"])
        found = tracer.test(documents)
        judge = Judge(tracer.profile, alpha=1e-6, tests=2, keys=tracer.family.size)
        named, other = (judge.trace(one) for one in found)
        assert (named.account, named.epoch, len(named.named)) == ("acct-0005", "b", 1)
        assert other.account is None
        plain = Tracer(tracer.profile, ROOT, NAMES, ["a", "b"]).test(documents)[0].ranked[0]
        assert plain.log_p == pytest.approx(named.log10_p * math.log(10))
        # Sixteen cohorts: up to 1.2 decades less to correct for.
        assert named.log10_p_adjusted < adjusted(plain.log_p, tracer.family.size, 2) / math.log(10) - 0.9

    def test_innocents_of_the_authors_cohort_are_not_named(self):
        """The author is not on the list; accounts of the same cohort share its cohort layer, and nothing else."""
        rng, profile = np.random.default_rng(11), self.profile()
        text = Document(written(profile, "acct-0005", 600, rng))
        tracer = make_tracer(profile, ROOT, [name for name in NAMES if name != "acct-0005"])
        found = tracer.test([text])[0]
        assert np.exp(tracer.weights([text])[0]).max() > 0.02
        assert Judge(tracer.profile, alpha=0.001, tests=1, keys=tracer.family.size).trace(found).account is None


def test_bulk_keys_of_one_account():
    keys = BulkKeys(b"c" * 16, b"t" * 16)
    assert (keys.shared, keys.contexts(0, 1), keys.tokens(0, 1)) == (False, [b"c" * 16], [b"t" * 16])
