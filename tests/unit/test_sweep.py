"""Sweeps: which candidate marked a record, what leaves the sweep, and what the rest then says."""

import json
from pathlib import Path

import numpy as np
import pytest

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError, WmcheckError
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.core.results import Verdict
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.detect import Detector, correct
from wmcheck.watermark.key_sources import write_key_file, write_secret
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.panel import Panel
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import left_codes
from wmcheck.watermark.screen import Screen, corrected
from wmcheck.watermark.sweep import SweepScreen
from wmcheck.watermark.sweep_file import MAX_CANDIDATES, read_sweep
from wmcheck.watermark.windows import WHOLE, Document, hash64

ALPHA = 1e-5
ROOT = SecretKey(bytes((7 * i * i + 3) % 256 for i in range(32)))
VLLM_KEY, OTHER_KEY = 987654321987, 123456789987


class Fake:
    """A contract whose key is an integer; ``fails`` says how it breaks on text with the id 666."""

    name, project, version, prf, source, differs, ideal = "fake", "Fake", "1.0", "fake/1", "nowhere", "", "the fake is ideal"
    unbiased, context = True, WHOLE

    def __init__(self, *, width=2, fails="", vocabulary=None):
        self.width, self.fails, self.vocabulary = width, fails, vocabulary
        self.window_rule = self.key_free_selection = True

    def parameters(self):
        return {"width": self.width, "fails": self.fails, "vocabulary": self.vocabulary}

    def keyed(self, key):
        return key.integer(self.name) % 2**32

    def draw(self, rng):
        return PeerKey(int(rng.integers(1, 2**62)))

    def score(self, windows, tokens, key):
        if self.fails == "raise" and 666 in tokens:
            raise ValueError(f"the key is {key}")
        noise = hash64(np.column_stack([windows, tokens]), np.uint64(key))
        found = -np.log1p((noise >> np.uint64(12)).astype(np.float64) * -(2.0**-52))
        return found if self.fails != "nan" or 666 not in tokens else found * np.nan

    def codes(self, windows, tokens, key):
        return left_codes(windows, tokens)

    def null(self):
        return ExponentialNull(bound=True)

    def expected(self, entropy_bits):
        return 2.0

    @classmethod
    def examples(cls):
        return [{}]


class Alias(Fake):
    """The same function under another name."""

    name, project = "alias", "Alias"


class Whole(Fake):
    """A contract that judges texts as a whole and reads a payload, but finds nothing."""

    name, project = "whole", "Whole"

    def evaluate(self, chosen, keyed):
        n = np.bincount(chosen.document, minlength=chosen.documents)
        if self.fails == "nan" and 666 in chosen.tokens:
            return Evidence(n * 1.0, n, np.full(len(n), np.nan))
        return Evidence(n * 1.0, n, np.zeros(len(n)), decoded=tuple("0110" for _ in n))


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    for kind in (Fake, Alias, Whole):
        monkeypatch.setitem(PEERS._loaded, kind.name, kind)


def marked(scheme, key, length, seed):
    """Ids that carry a strong watermark: the best of 16 random ids at every place."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 600, scheme.width).tolist()
    while len(ids) < length:
        options = rng.choice(np.arange(1, 600), 16, replace=False)
        windows = np.tile(np.array(ids[-scheme.width :], np.uint32), (16, 1))
        ids.append(int(options[np.argmax(scheme.score(windows, options, key))]))
    return np.array(ids, np.int64)


def records(*texts):
    return [Record(f"r{i}", f"s.jsonl:{i + 1}", tokens=np.asarray(ids, np.int64)) for i, ids in enumerate(texts)]


def ordinary(length=200, seed=0):
    return np.random.default_rng(seed).integers(1, 600, length)


@pytest.fixture
def folder(tmp_path):
    write_secret(f"{VLLM_KEY}\n", str(tmp_path / "a.key"))
    write_secret(f"{OTHER_KEY}\n", str(tmp_path / "b.key"))
    write_secret("[1, 2]\n", str(tmp_path / "list.key"))
    write_key_file(ROOT, str(tmp_path / "lab.wmk"))
    Profile.create("gumbel", {"width": 2}).save(tmp_path / "gumbel.json")
    return tmp_path


def read(folder, text, *, top=""):
    """The entries and the broken candidates of a sweep file."""
    path = folder / "sweep.toml"
    path.write_text(f'schema = "wmcheck.sweep/1"\n{top}\n{text}')
    found = []
    return read_sweep(str(path), on_broken=lambda name, error: found.append((name, error))), found


def sweep(entries, texts, **options):
    """The outcome of a sweep, and what dropped out."""
    dropped, skipped = [], []
    screen = SweepScreen(
        entries, on_error=skipped.append, on_drop=lambda entry, error: dropped.append((entry, error)), origin="sweep.toml",
        **options,
    )
    results = list(screen.run(records(*texts)))
    assert len(results) + len(skipped) == len(texts)
    return screen.outcome("s.jsonl", ALPHA), dropped


TWO = '[[candidate]]\nname = "one"\ncontract = "fake"\nkeys = ["file:a.key", "file:b.key"]\n'


def test_a_grid_of_parameters_and_keys(folder):
    table = '[[candidate]]\ncontract = "fake"\ngrid = {width = [1, 3]}\nkeys = ["file:a.key", "file:b.key"]'
    entries, broken = read(folder, table)
    assert broken == []
    assert [(one.name, one.source, one.candidate.profile.scheme.width) for one in entries] == [
        ("fake-1 width=1", "file:a.key", 1), ("fake-1 width=1", "file:b.key", 1),
        ("fake-1 width=3", "file:a.key", 3), ("fake-1 width=3", "file:b.key", 3),
    ]
    assert entries[0].candidate.key == PeerKey(VLLM_KEY)


def test_profiles_and_tenants_of_ours(folder):
    entries, broken = read(
        folder, '[[candidate]]\nname = "ours"\nprofile = "gumbel.json"\nkey = "file:lab.wmk"\ntenants = ["", "a"]\nepochs = ["1"]'
    )
    assert broken == []
    assert [(one.name, one.candidate.key.tenant_name, one.candidate.key.epoch) for one in entries] == [
        ("ours", "", "1"), ("ours", "a", "1"),
    ]


def test_the_tokenizer_and_the_special_ids_of_the_file(folder):
    entries, _ = read(folder, TWO, top='tokenizer = "bundled:stories2m"\nentropy_bits = 2.5')
    profile = entries[0].candidate.profile
    assert profile.tokenizer["name"] == "bundled:stories2m"
    assert (profile.entropy_bits, profile.special_ids != ()) == (2.5, True)
    entries, _ = read(folder, TWO, top='tokenizer = "bundled:stories2m"\nspecial_ids = [5]')
    assert entries[0].candidate.profile.special_ids == (5,)


@pytest.mark.parametrize(
    ("table", "kind", "words"),
    [
        ('contract = "fakes"\nkey = "file:a.key"', ConfigError, "unknown contract"),
        ('contract = "fake"\nkey = "file:a.key"\nwidth = 3', ConfigError, "unknown fields (got width, expected name, "),
        ('contract = "fake"\nparameters = {wdth = 3}\nkey = "file:a.key"', ProfileError, "bad parameters for scheme 'fake'"),
        ('contract = "gumbel"\nparameters = {width = 99}\nkey = "file:lab.wmk"', ProfileError, "impossible parameter (got 99"),
        ('contract = "fake"\nkey = "file:gone.key"', KeyFileError, "no such key file"),
        ('contract = "fake"\nkey = "env:WMCHECK_TEST_NOT_SET"', KeyFileError, "env:WMCHECK_TEST_NOT_SET: the environment"),
        ('contract = "fake"\nkey = "file:list.key"', KeyFileError, "file:list.key: a key that fake cannot take (got a list of 2"),
        ('contract = "fake"\nkey = "file:lab.wmk"', KeyFileError, "a wmcheck key under a peer's contract"),
        ('contract = "gumbel"\nkey = "file:a.key"', KeyFileError, "not a wmcheck key"),
        ('contract = "fake"\nkey = "987654321987"', KeyFileError, "not a key source (got 12 characters"),
        ('contract = "fake"\nkey = 987654321987', KeyFileError, "bad value of 'key' (expected file:PATH"),
        ('contract = "fake"\nkeys = []', KeyFileError, "bad value of 'keys'"),
        ('contract = "fake"\nkeys = ["file:a.key", 987654321987]', KeyFileError, "bad value of 'keys'"),
        ('contract = "fake"', ConfigError, "neither 'key' nor 'keys'"),
        ('contract = "fake"\nkey = "file:a.key"\nkeys = ["file:b.key"]', ConfigError, "both 'key' and 'keys'"),
        ('key = "file:a.key"', ConfigError, "neither 'profile' nor 'contract'"),
        ('contract = "fake"\nprofile = "gumbel.json"\nkey = "file:a.key"', ConfigError, "both 'profile' and 'contract'"),
        ('profile = "gumbel.json"\nparameters = {width = 3}\nkey = "file:lab.wmk"', ConfigError, "'parameters' with a profile"),
        ('profile = "gone.json"\nkey = "file:lab.wmk"', ProfileError, "no such profile"),
        ('profile = "list.key"\nkey = "file:lab.wmk"', ProfileError, "not a profile"),
        ('contract = "fake"\nparameters = 3\nkey = "file:a.key"', ConfigError, "bad value of 'parameters' (got int"),
        ('contract = "fake"\ngrid = {width = 3}\nkey = "file:a.key"', ConfigError, "bad value of 'grid.width' (got int"),
        ('contract = "fake"\ngrid = {width = []}\nkey = "file:a.key"', ConfigError, "bad value of 'grid.width'"),
        (
            'contract = "fake"\nparameters = {width = 2}\ngrid = {width = [3]}\nkey = "file:a.key"', ConfigError,
            "'width' is in 'parameters' and in 'grid'",
        ),
        ('contract = "fake"\nkey = "file:a.key"\ntenants = ["a"]', ConfigError, "'tenants' with a peer's contract"),
        ('contract = "gumbel"\nkey = "file:lab.wmk"\ntenants = "a"', ConfigError, "bad value of 'tenants' (got str"),
        ('contract = "gumbel"\nkey = "file:lab.wmk"\ntenants = ["a\\u0000b"]', KeyFileError, "unusable tenant"),
        ('contract = 5\nkey = "file:a.key"', ConfigError, "bad value of 'contract' (got int"),
        ('name = ""\ncontract = "fake"\nkey = "file:a.key"', ConfigError, "bad value of 'name'"),
        ('contract = "fake"\nparameters = {width = 2}\nkey = "file:a.key"', ConfigError, "a duplicate of 'one'"),
        ('name = "one"\ncontract = "alias"\nkey = "file:a.key"', ConfigError, "the name of an earlier candidate"),
    ],
)
def test_one_broken_candidate_is_told_and_the_rest_stay(folder, table, kind, words):
    last = '[[candidate]]\nname = "last"\ncontract = "alias"\nkey = "file:b.key"'
    entries, broken = read(folder, f"{TWO}[[candidate]]\n{table}\n{last}")
    assert [one.name for one in entries] == ["one", "one", "last"]
    assert len(broken) == 1
    assert isinstance(broken[0][1], kind)
    assert words in str(broken[0][1])
    assert "987654321987" not in broken[0][1].message()


def test_a_contract_with_a_bug_is_one_broken_candidate_and_its_words_stay_unsaid(folder, monkeypatch, caplog):
    class Careless(Fake):
        name = "careless"

        def keyed(self, key):
            raise ValueError(f"no good: {key.integer('x')}")

    monkeypatch.setitem(PEERS._loaded, "careless", Careless)
    entries, broken = read(folder, f'{TWO}[[candidate]]\ncontract = "careless"\nkey = "file:a.key"')
    assert len(entries) == 2
    assert [(name, str(error)) for name, error in broken] == [
        ("careless-2", "the contract failed, which is a bug of it (got ValueError)")
    ]
    assert "in keyed" in caplog.text
    assert str(VLLM_KEY) not in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= 1", "cannot read the sweep"),
        ('schema = "wmcheck.sweep/2"', "not a sweep file (got schema 'wmcheck.sweep/2', expected wmcheck.sweep/1)"),
        (TWO, "not a sweep file (got schema None"),
        (f'schema = "wmcheck.sweep/1"\ntokeniser = "x"\n{TWO}', "unknown fields (got tokeniser"),
        ('schema = "wmcheck.sweep/1"', "no candidates"),
        ('schema = "wmcheck.sweep/1"\ncandidate = 5', "no candidates"),
        ('schema = "wmcheck.sweep/1"\ncandidate = [5]', "no candidates"),
        (f'schema = "wmcheck.sweep/1"\ntokenizer = 5\n{TWO}', "bad value of 'tokenizer'"),
        (f'schema = "wmcheck.sweep/1"\nspecial_ids = [-1]\n{TWO}', "bad value of 'special_ids'"),
        (f'schema = "wmcheck.sweep/1"\nentropy_bits = 0\n{TWO}', "bad value of 'entropy_bits'"),
        (f'schema = "wmcheck.sweep/1"\ntokenizer = "./gone"\n{TWO}', "no such tokenizer"),
        (
            f'schema = "wmcheck.sweep/1"\n{TWO}grid = {{width = {list(range(1, 102))}, fails = {[""] * 100}}}',
            "too many candidates (got 20,200, expected at most 10,000)",
        ),
    ],
)
def test_a_file_that_is_no_sweep(folder, text, words):
    (folder / "sweep.toml").write_text(text)
    with pytest.raises(WmcheckError) as caught:
        read_sweep(str(folder / "sweep.toml"), on_broken=lambda name, error: pytest.fail(str(error)))
    assert words in str(caught.value)
    assert MAX_CANDIDATES == 10_000


def test_a_file_that_holds_a_key_or_is_not_there(folder):
    (folder / "sweep.toml").write_text(f'schema = "wmcheck.sweep/1"\n[[candidate]]\ncontract = "gumbel"\nkey = "{ROOT.reveal()}"')
    for name, words in (("sweep.toml", "a key stands in the sweep file"), ("gone.toml", "no such sweep file")):
        with pytest.raises(ConfigError, match=words) as caught:
            read_sweep(str(folder / name), on_broken=lambda name, error: None)
        assert ROOT.reveal() not in caught.value.message()


def test_the_one_that_marked_a_record_and_how_sure(folder):
    entries, _ = read(folder, f'{TWO}[[candidate]]\nname = "ours"\nprofile = "gumbel.json"\nkey = "file:lab.wmk"')
    fake, ours = entries[1].candidate, entries[2].candidate
    texts = [
        marked(fake.profile.scheme, fake.prf, 150, 1), marked(ours.profile.scheme, ours.prf, 150, 2), ordinary(150),
    ]
    outcome, dropped = sweep(entries, texts)
    assert dropped == []
    one, two, three = outcome.records
    assert [found.verdict for found in outcome.records] == [Verdict.DETECTED, Verdict.DETECTED, Verdict.NOT_DETECTED]
    assert (one.best.profile, one.best.key_id, one.detected) == ("one", fake.key.id, 1)
    assert (two.best.profile, two.best.scheme, two.runner_up.log10_p_adjusted) == ("ours", "gumbel", 0.0)
    assert one.also == two.also == three.also == ()
    assert [(row.entry.name, row.detected, row.best) for row in outcome.candidates] == [
        ("one", 0, 0), ("one", 1, 1), ("ours", 1, 1),
    ]
    assert outcome.family == 3 * 3 + 3
    assert sum(row.share for row in outcome.candidates) == pytest.approx(1.0)


def test_every_number_is_that_of_a_plain_check(folder):
    entries, _ = read(folder, f'{TWO}[[candidate]]\nname = "ours"\nprofile = "gumbel.json"\nkey = "file:lab.wmk"')
    fake = entries[0].candidate
    texts = [marked(fake.profile.scheme, fake.prf, 40, 3), *(ordinary(60, seed) for seed in range(5))]
    outcome, _ = sweep(entries, texts, statistic="robust")
    screen = Screen([entry.candidate for entry in entries], statistic="robust", on_error=lambda error: None)
    plain, pooled = corrected(list(screen.run(records(*texts))), screen.corpus("s.jsonl"))
    for found, known in zip(outcome.records, plain, strict=True):
        assert found.verdict == known.verdict(ALPHA)
        assert found.best == known.best()
        assert found.runner_up == sorted(known.tests, key=lambda test: test.log10_p)[1]
    assert [row.corpus for row in outcome.candidates] == pooled


def test_one_function_under_two_names_is_not_told_apart(folder):
    entries, _ = read(folder, f'{TWO}[[candidate]]\nname = "twin"\ncontract = "alias"\nkey = "file:a.key"')
    fake = entries[0].candidate
    outcome, _ = sweep(entries, [marked(fake.profile.scheme, fake.prf, 100, 4), ordinary(100)])
    first, second = outcome.records
    assert [first.best.profile, *(test.profile for test in first.also)] == ["one", "twin"]
    assert (first.detected, first.runner_up.key_id) == (2, PeerKey(OTHER_KEY).id)
    # Equal scores of a text that neither marked say nothing about it.
    assert second.also == ()


def test_a_candidate_that_does_not_know_an_id_drops_out_of_the_whole_run(folder):
    entries, _ = read(
        folder, f'{TWO}[[candidate]]\nname = "small"\ncontract = "alias"\nparameters = {{vocabulary = 600}}\nkey = "file:a.key"'
    )
    fake = entries[0].candidate
    texts = [marked(fake.profile.scheme, fake.prf, 100, 5)] + [ordinary(30)] * 300 + [np.array([1, 2, 3, 600, 4])]
    outcome, dropped = sweep(entries, texts)
    assert [(entry.name, str(error)) for entry, error in dropped] == [
        ("small", "the records hold ids that its model does not have (got 600 at s.jsonl:302, expected ids below 600)")
    ]
    assert [row.entry.name for row in outcome.candidates] == ["one", "one"]
    assert outcome.records[0].also == ()
    assert outcome.family == 302 * 2 + 2
    # The others say what they say without it.
    alone, _ = sweep(entries[:2], texts)
    assert alone.records == outcome.records
    assert [row.corpus for row in alone.candidates] == [row.corpus for row in outcome.candidates]


@pytest.mark.parametrize(("contract", "fails"), [("fake", "raise"), ("fake", "nan"), ("whole", "nan")])
def test_a_candidate_that_fails_in_the_middle_leaves_no_trace(folder, caplog, contract, fails):
    table = f'[[candidate]]\nname = "bad"\ncontract = "{contract}"\nparameters = {{fails = "{fails}", width = 1}}'
    entries, _ = read(folder, f'{table}\nkey = "file:a.key"\n{TWO}')
    fake = entries[1].candidate
    texts = [marked(fake.profile.scheme, fake.prf, 100, 6)] + [ordinary(30)] * 300 + [np.array([1, 2, 3, 666, 4, 5])]
    outcome, dropped = sweep(entries, texts)
    assert [(entry.name, error.what) for entry, error in dropped] == [("bad", "the contract failed, which is a bug of it")]
    assert str(VLLM_KEY % 2**32) not in caplog.text + str(dropped[0][1])
    alone, _ = sweep(entries[1:], texts)
    assert (alone.records, alone.family) == (outcome.records, outcome.family)
    assert [row.corpus for row in alone.candidates] == [row.corpus for row in outcome.candidates]


def test_when_none_is_left_the_run_ends(folder):
    table = '[[candidate]]\ncontract = "fake"\nparameters = {vocabulary = 600}\nkeys = ["file:a.key", "file:b.key"]'
    entries, _ = read(folder, table)
    with pytest.raises(ConfigError, match=r"sweep\.toml: no candidate is left \(got 2 that cannot be tested\)"):
        sweep(entries, [[1, 2, 3, 700]])


def test_a_payload_is_shown_and_other_statistics_go_on(folder):
    entries, _ = read(folder, f'{TWO}[[candidate]]\nname = "whole"\ncontract = "whole"\nkey = "file:a.key"')
    outcome, dropped = sweep(entries, [ordinary(50)], statistic="sparse", fallbacks=("sum",))
    assert dropped == []
    assert outcome.candidates[0].corpus is None
    found = outcome.records[0]
    shown = {found.best.scheme: found.best, found.runner_up.scheme: found.runner_up}
    assert shown["fake"].statistic == "sparse"
    # Without a fallback it cannot be tested, and the others can.
    outcome, dropped = sweep(entries, [ordinary(50)], statistic="sparse")
    assert [entry.name for entry, _ in dropped] == ["whole"]
    assert len(outcome.candidates) == 2
    outcome, _ = sweep(entries[2:], [ordinary(50), ordinary(40)])
    assert [one.best.decoded for one in outcome.records] == ["0110", "0110"]


def test_profiles_of_two_tokenizers_are_refused(folder):
    data = Profile.create("gumbel", {"width": 2}).to_dict()
    for name, digest in (("p.json", "a" * 64), ("q.json", "b" * 64)):
        described = {"name": "x", "digest": digest, "vocabulary": 1000}
        (folder / name).write_text(json.dumps({**data, "tokenizer": described}))
    entries, _ = read(folder, "".join(f'[[candidate]]\nprofile = "{name}"\nkey = "file:lab.wmk"\ntenants = ["{name}"]\n'
                                      for name in ("p.json", "q.json")))
    assert len(entries) == 2
    with pytest.raises(ConfigError, match=r"sweep\.toml: profiles with different tokenizers"):
        sweep(entries, [ordinary(20)])


def test_a_panel_is_a_detector(folder):
    candidates = [Candidate.of(Profile.create("fake", {"width": width}), PeerKey(VLLM_KEY)) for width in (1, 2)]
    documents = [Document(ordinary(80, seed)) for seed in range(3)]
    panel, detector = Panel(candidates), Detector(candidates)
    tested, known = panel.test(documents), detector.test(documents)
    for place in range(3):
        assert correct(panel.detections(tested, place)) == correct(detector.detections(known, place))
    assert panel.corpus() == detector.corpus()
    panel.test([])
    with pytest.raises(ValueError, match="the key is"):
        Panel([Candidate.of(Profile.create("fake", {"fails": "raise"}), PeerKey(5**9))]).test([Document(np.array([1, 2, 666]))])


def test_a_statistic_that_suits_none_is_refused():
    candidates = [Candidate.of(Profile.create("fake"), PeerKey(VLLM_KEY))]
    with pytest.raises(ConfigError, match="the scheme has no test that reads a model's predictions"):
        Panel(candidates, statistic="aided", fallbacks=("robust",))
    ours = Candidate.of(Profile.create("gumbel"), ROOT)
    panel = Panel([*candidates, ours], statistic="aided", fallbacks=("robust",))
    assert panel.statistics == ["robust", "aided"]
    assert panel.reads


def test_ids_beyond_a_contracts_vocabulary_are_a_bad_record_of_a_plain_check():
    bad = []
    screen = Screen([Candidate.of(Profile.create("fake", {"vocabulary": 600}), PeerKey(VLLM_KEY))], on_error=bad.append)
    assert [one.record for one in screen.run(records(ordinary(30), [1, 2, 600]))] == ["r0"]
    assert str(bad[0]) == "s.jsonl:2: token ids out of range (got 600, expected ids below 600)"
    assert Path(__file__).exists()
