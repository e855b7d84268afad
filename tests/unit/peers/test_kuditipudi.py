"""Key-sequence watermarks: the project's own numbers, the definition by loops, bounds against quadrature, and texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import gammaincc

from wmcheck.watermark import Candidate, Detector, Document, Profile, detect_ids
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers import kuditipudi_bounds as bounds
from wmcheck.watermark.peers.kuditipudi import KuditipudiExp, KuditipudiIts
from wmcheck.watermark.peers.kuditipudi_alignment import Alignment

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/kuditipudi.json").read_text())
CHECKED = {
    "meta", "mersenne42_first8", "xi_row0", "n", "vocab", "tokens", "phi_nogap", "phi_lev_gamma0", "phi_lev_gamma_-1",
    "numpy_RandomState42_u32_times_2^-32",
}
EXP, ITS = "kuditipudi-exp", "kuditipudi-its"


def sequence(length, vocabulary, seed=42, **parameters):
    return KuditipudiExp(vocabulary=vocabulary, length=length, **parameters).keyed(PeerKey(seed))


def edit_distance(costs, gamma):
    """The textbook recursion on costs [tokens, places]."""
    found = np.add.outer(np.arange(len(costs) + 1), np.arange(costs.shape[1] + 1)) * gamma
    for i in range(1, len(found)):
        for j in range(1, found.shape[1]):
            steps = found[i - 1, j] + gamma, found[i, j - 1] + gamma, found[i - 1, j - 1] + costs[i - 1, j - 1]
            found[i, j] = min(steps)
    return found[-1, -1]


def by_definition(table, rows, block, gamma):
    """The least cost over starts and shifts, by loops."""
    n, best = table.shape[1], math.inf
    for start in range(len(rows) - block + 1):
        for shift in range(n):
            places = (shift + np.arange(block)) % n
            costs = table[rows[start : start + block]][:, places]
            best = min(best, np.trace(costs) if gamma is None else edit_distance(costs, gamma))
    return best


def marked(scheme, key, count, *, shift=0, seed=0, sharp=1.0):
    """A text of random next-token laws, marked under ``key``."""
    rng = np.random.default_rng(seed)
    laws = rng.dirichlet(np.full(scheme.vocabulary, sharp), count)
    function, ids = scheme.keyed(key), np.arange(scheme.vocabulary)
    places = (shift + np.arange(count)) % scheme.length
    if isinstance(scheme, KuditipudiExp):
        return np.argmax(np.log(function.noise(ids)[:, places].T) / laws, axis=1)
    uniforms, eta = function.transform(ids)
    order = np.argsort(eta)
    running = np.cumsum(laws[:, order], axis=1)
    ranks = [int(np.searchsorted(row, uniforms[place])) for row, place in zip(running, places, strict=True)]
    return order[np.minimum(ranks, scheme.vocabulary - 1)]


def log_p(ids, profile, key):
    """Natural log, without the slow commitment of the key that a full result has."""
    document = Document(np.asarray(ids, np.int64))
    return Detector([Candidate.of(profile, key)], corpus=False).test([document])[0].evidence.log_p[0]


def test_every_vector_is_checked():
    assert set(VECTORS) - {".meta"} == CHECKED


def test_the_demonstration_draws_the_same_uniforms():
    words = np.random.RandomState(42).bytes(4 * 8)
    np.testing.assert_array_equal(np.frombuffer(words, "<u4") * 2.0**-32, VECTORS["mersenne42_first8"])
    np.testing.assert_array_equal(VECTORS["numpy_RandomState42_u32_times_2^-32"], VECTORS["mersenne42_first8"])
    noise = sequence(VECTORS["n"], VECTORS["vocab"]).noise(np.arange(VECTORS["vocab"]))
    assert noise.shape == (20, 8)
    np.testing.assert_array_equal(noise[:8, 0], VECTORS["mersenne42_first8"])
    np.testing.assert_array_equal(noise[:, 0].astype(np.float32), np.float32(VECTORS["xi_row0"]))
    np.testing.assert_array_equal(sequence(8, 20).noise(np.array([7, 3])), noise[[7, 3]])


@pytest.mark.parametrize(("name", "gamma"), [("phi_nogap", None), ("phi_lev_gamma0", 0.0), ("phi_lev_gamma_-1", -1.0)])
def test_the_alignment_costs_are_those_of_the_project(name, gamma):
    n, rows = VECTORS["n"], np.array(VECTORS["tokens"])
    table = np.log1p(-sequence(n, VECTORS["vocab"]).noise(np.arange(VECTORS["vocab"])))
    expected = VECTORS[name]
    assert len(expected) == n
    for shift in range(n):
        costs = table[rows][:, (shift + np.arange(len(rows))) % n]
        found = np.trace(costs) if gamma is None else edit_distance(costs, gamma)
        assert found == pytest.approx(expected[shift], rel=1e-6)
    aligned = Alignment(rows, np.arange(len(rows)), n, None)
    least = aligned.least(table) if gamma is None else aligned.least_edited(table, gamma)
    assert least.min() == pytest.approx(min(expected), rel=1e-6)


def test_the_library_draws_by_torch():
    generator = torch.Generator().manual_seed(7)
    expected = torch.rand((16, 50), generator=generator).numpy()
    found = sequence(16, 50, 7, stream="library").noise(np.arange(50))
    np.testing.assert_array_equal(found.T, expected.astype(np.float64))
    for seed in (3, 2**40 + 3):
        generator = torch.Generator().manual_seed(seed)
        order, uniforms = torch.randperm(5001, generator=generator), torch.rand((16, 1), generator=generator)
        drawn, eta = KuditipudiIts(vocabulary=5001, length=16).keyed(PeerKey(seed)).transform(np.arange(5001))
        np.testing.assert_array_equal(drawn, uniforms[:, 0].numpy().astype(np.float64))
        np.testing.assert_array_equal(np.rint(eta * 5001), torch.argsort(order).numpy())


@pytest.mark.parametrize("gamma", [None, 0.0, 0.3, -0.4])
@pytest.mark.parametrize(("m", "n", "block"), [(9, 5, 4), (6, 9, 6), (11, 4, 3), (12, 5, None)])
def test_the_least_cost_is_that_of_the_definition(m, n, block, gamma):
    rng = np.random.default_rng(m * n)
    table, rows = rng.normal(size=(6, n)), rng.integers(0, 6, m)
    aligned = Alignment(rows, 7 + np.arange(m), n, block)
    found = aligned.least(table) if gamma is None else aligned.least_edited(table, gamma)
    assert len(found) == m - (block or m) + 1
    assert found.min() == pytest.approx(by_definition(table, rows, block or m, gamma), abs=1e-12)


def test_tokens_that_are_left_out_keep_the_others_in_place():
    rng = np.random.default_rng(3)
    table, rows = rng.normal(size=(6, 7)), rng.integers(0, 5, 20)
    kept = np.sort(rng.choice(20, 14, replace=False))
    free = table.copy()
    free[5] = 0.0
    whole = np.where(np.isin(np.arange(20), kept), rows, 5)[kept[0] : kept[-1] + 1]
    for block in (None, 6):
        found = Alignment(rows[kept], kept, 7, block).least(free)
        assert found.min() == pytest.approx(by_definition(free, whole, block or len(whole), None), abs=1e-12)


def test_long_texts_are_worked_on_in_parts(monkeypatch):
    rng = np.random.default_rng(4)
    table, rows = rng.normal(size=(9, 8)), rng.integers(0, 9, 100)
    whole, blocks = (Alignment(rows, np.arange(100), 8, block).least(table) for block in (None, 5))
    monkeypatch.setattr("wmcheck.watermark.peers.kuditipudi_alignment._CELLS", 56)
    monkeypatch.setattr("wmcheck.watermark.peers.kuditipudi_alignment._LANES", 100)
    np.testing.assert_allclose(Alignment(rows, np.arange(100), 8, None).least(table), whole)
    np.testing.assert_allclose(Alignment(rows, np.arange(100), 8, 5).least(table), blocks)
    assert len(Alignment(rows, np.arange(100), 8, 5).least_edited(table, 0.1)) == 96


@pytest.mark.parametrize("eta", [[0.3], [0.0], [1.0], [0.2, 0.7], [0.2, 0.2, 0.9], [0.5, 0.5]])
def test_the_generating_functions_are_the_integrals(eta):
    ranks = np.array(eta)
    shared = bounds._shared(ranks, np.zeros(len(ranks), np.int64))
    for place in (0, 60, 130):
        tilt = bounds.TILTS[place]
        exact = quad(
            lambda u, tilt=tilt: math.exp(-tilt * np.abs(u - ranks).sum()), 0, 1, points=sorted({*eta} - {0.0, 1.0}) or None,
            epsabs=1e-14,
        )[0]
        assert shared[place] == pytest.approx(math.log(exact), abs=1e-9)
        if len(eta) == 1:
            assert math.log(bounds._one(ranks, tilt)[0]) == pytest.approx(math.log(exact), abs=1e-9)


def test_the_distance_bound_is_above_the_tail_and_near_it():
    rng = np.random.default_rng(5)
    eta = rng.random(12)
    sums = np.abs(rng.random((400_000, 12)) - eta).sum(1)
    whole = np.array([0]), np.array([12])
    for level in (0.1, 0.01, 1e-4):
        cut = np.quantile(sums, level)
        bound = bounds.distance_log_p(np.array([cut]), eta, whole, None)[0]
        assert math.log(level) - 0.1 < bound < math.log(level) + 3.0
        together = bounds.distance_log_p(np.array([cut]), eta, whole, np.arange(12))[0]
        assert together == pytest.approx(bound, abs=1e-6)
    residues = np.arange(12) % 5
    sums = np.abs(rng.random((400_000, 5))[:, residues] - eta).sum(1)
    cut = np.quantile(sums, 1e-3)
    assert math.log(1e-3) < bounds.distance_log_p(np.array([cut]), eta, whole, residues)[0] < math.log(1e-3) + 3.0


def test_the_exponential_bound_is_a_union_of_gamma_tails():
    scheme = KuditipudiExp(vocabulary=300, length=32)
    ids, key = marked(scheme, PeerKey(5), 20, shift=9), PeerKey(5)
    noise = scheme.keyed(key).noise(ids)
    sums = [-np.log1p(-noise[np.arange(20), (shift + np.arange(20)) % 32]).sum() for shift in range(32)]
    found = detect_ids(ids, Profile.create(EXP, scheme.parameters()), key)
    assert found.total == pytest.approx(max(sums))
    assert found.log10_p == pytest.approx(math.log10(32 * gammaincc(20, max(sums))), rel=1e-9)
    assert "union bound" in found.null


@pytest.mark.parametrize(("name", "extra"), [
    (EXP, {}), (EXP, {"block": 12}), (EXP, {"stream": "library"}), (ITS, {}), (ITS, {"block": 12}),
])
def test_bounds_hold_for_repetitive_texts_longer_than_the_sequence(name, extra):
    profile = Profile.create(name, {"vocabulary": 50, "length": 16, **extra})
    rng = np.random.default_rng(6)
    documents = [Document(rng.zipf(1.4, 70) % 50) for _ in range(2)] + [Document(np.tile(np.arange(8), 8))]
    found = []
    for seed in range(120):
        candidate = Candidate.of(profile, PeerKey(seed * 7919 + 11))
        found.append(Detector([candidate], corpus=False).test(documents)[0].evidence.log_p)
    p = np.exp(np.concatenate(found))
    for level in (0.5, 0.1, 0.01):
        assert (p <= level).mean() <= level + 4 * math.sqrt(level / len(p))


@pytest.mark.parametrize(("name", "extra"), [
    (EXP, {}), (EXP, {"block": 6}), (EXP, {"block": 4, "gamma": 0.0}), (ITS, {}), (ITS, {"block": 4, "gamma": 0.2}),
])
def test_ranks_are_uniform_over_keys(name, extra):
    profile = Profile.create(name, {"vocabulary": 40, "length": 8, "method": "permutation", "permutations": 19, **extra})
    rng = np.random.default_rng(8)
    ids = rng.integers(0, 40, 14)
    ranks = np.exp([log_p(ids, profile, PeerKey(int(key))) for key in rng.integers(2**32, size=300)])
    assert ranks.min() >= 0.05 - 1e-12
    for level in (0.1, 0.5):
        assert abs((ranks <= level + 1e-9).mean() - level) < 4 * math.sqrt(level * (1 - level) / 300)


@pytest.mark.parametrize(("name", "count", "bar"), [(EXP, 120, -30.0), (ITS, 200, -10.0)])
def test_marked_text_is_found_from_any_shift_and_after_any_prompt(name, count, bar):
    profile, key = Profile.create(name, {"vocabulary": 400, "length": 256}), PeerKey(42)
    for shift in (0, 201):
        ids = marked(profile.scheme, key, count, shift=shift, sharp=0.2)
        found = detect_ids(ids, profile, key)
        assert found.log10_p < bar
        assert found.n_scored == count
        prompted = np.concatenate([np.arange(37), ids])
        assert detect_ids(prompted, profile, key, prompt_length=37).log10_p == pytest.approx(found.log10_p)
        assert detect_ids(ids, profile, PeerKey(43)).log10_p > -3
    unmarked = np.random.default_rng(0).integers(0, 400, count)
    assert detect_ids(unmarked, profile, key).log10_p > -3


@pytest.mark.parametrize("name", [EXP, ITS])
def test_marked_text_longer_than_the_sequence_and_cut_out_of_other_text(name):
    key = PeerKey(7)
    profile = Profile.create(name, {"vocabulary": 300, "length": 64})
    ids = marked(profile.scheme, key, 300, shift=20, sharp=0.2)
    assert detect_ids(ids, profile, key).log10_p < -20
    other = np.random.default_rng(1).integers(0, 300, 600)
    cut = np.concatenate([other[:251], ids[:60], other[251:]])
    blocks = Profile.create(name, {"vocabulary": 300, "length": 64, "block": 40})
    assert detect_ids(cut, blocks, key).log10_p < min(-2.5, detect_ids(cut, profile, key).log10_p)


def test_edits_are_found_where_gaps_are_free():
    profile = Profile.create(EXP, {
        "vocabulary": 200, "length": 32, "block": 24, "gamma": 0.0, "method": "permutation", "permutations": 99,
    })
    key = PeerKey(9)
    ids = marked(profile.scheme, key, 32, sharp=0.3)
    edited = np.delete(ids, [3, 11, 19])
    assert detect_ids(edited, profile, key).log10_p == pytest.approx(-2.0)


def test_special_ids_and_ids_beyond_the_vocabulary_are_not_scored():
    profile, key = Profile.create(EXP, {"vocabulary": 400}, special_ids=(3,)), PeerKey(42)
    ids = marked(profile.scheme, key, 100, sharp=0.2)
    ids[40:44] = 3, 400, 9999, 3
    found = detect_ids(ids, profile, key)
    assert found.n_scored == 96 - int((ids[:40] == 3).sum()) - int((ids[44:] == 3).sum())
    assert found.log10_p < -20
    assert detect_ids([500, 600], profile, key).n_scored == 0


def test_texts_have_no_pooled_test():
    profile = Profile.create(EXP, {"vocabulary": 400})
    detector = Detector([Candidate.of(profile, PeerKey(42))])
    detector.test([Document(marked(profile.scheme, PeerKey(42), 60))])
    assert detector.corpus()[0].n_scored == 0
    assert detector.corpus()[0].log10_p == 0.0


@pytest.mark.parametrize("name", [EXP, ITS])
@pytest.mark.parametrize("wrong", [
    {"vocabulary": 1}, {"length": 0}, {"block": 300}, {"block": 0}, {"method": "best"}, {"permutations": 0}, {"gamma": 0.0},
    {"gamma": "no", "method": "permutation"}, {"vocabulary": True},
])
def test_impossible_parameters_are_refused(name, wrong):
    with pytest.raises(ProfileError):
        Profile.create(name, {"vocabulary": 100, **wrong})


def test_impossible_keys_and_streams_are_refused():
    with pytest.raises(ProfileError):
        Profile.create(EXP, {"vocabulary": 100, "stream": "cuda"})
    demo, library = KuditipudiExp(vocabulary=9), KuditipudiExp(vocabulary=9, stream="library")
    with pytest.raises(KeyFileError):
        demo.keyed(PeerKey(2**32))
    assert (library.keyed(PeerKey(2**32 + 5)).noise(np.arange(9)) == library.keyed(PeerKey(5)).noise(np.arange(9))).all()
    for key in (PeerKey(-1), PeerKey((1, 2)), PeerKey(b"abc"), PeerKey(2**64)):
        for scheme in (demo, library, KuditipudiIts(vocabulary=9)):
            with pytest.raises(KeyFileError):
                scheme.keyed(key)
