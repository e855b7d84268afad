"""SynthID-Text of its repository: every vector made with its own code, and the measured upper law."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.core.item_laws import LatticeLaw, lattice_log_sf
from wmcheck.watermark.core.lattice import weighted_bernoulli_log_sf
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.synthid_scores import fold, step, tournament
from wmcheck.watermark.peers.synthid_text import LOG_DOUBT, SynthIdText, initial_state, layer_bits, upper_tails
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.windows import Document, make_items

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/synthid_gdm_v0.2.1.json").read_text())
STATES = 2**20
KEYS = tuple(VECTORS["meta"]["keys30"])
TRAINED = {"score": "bayesian", "beta": [-1.0, 0.25, 1.0], "delta": [[0.0] * 3, [1.5, 0.0, 0.0], [-0.5, 0.5, 0.0]]}


def windows_of(ids, width=4):
    ids = np.array(ids)
    return np.lib.stride_tricks.sliding_window_view(ids, width)[:-1].astype(np.uint32), ids[width:]


def bits_of(ids, keys):
    scheme = SynthIdText(depth=len(keys))
    return scheme.score(*windows_of(ids), scheme.keyed(PeerKey(tuple(keys))))


def texts(count, length, seed):
    """Items of texts with nothing in common."""
    rng, n = np.random.default_rng(seed), count * length
    windows, tokens = rng.integers(0, 50_000, (n, 4)).astype(np.uint32), rng.integers(0, 50_000, n)
    document = np.repeat(np.arange(count), length)
    return Chosen(windows, tokens, np.tile(np.arange(length), count), document, count, np.zeros(count, np.int64))


def test_all_vectors_are_checked():
    assert set(VECTORS) == {
        "meta", "hash_iv_default", "hash_iv_3", "g_values", "sequence", "processor_steps", "update_scores_distortionary",
    }
    assert (len(VECTORS["g_values"]), len(VECTORS["update_scores_distortionary"])) == (5, 3)
    assert set(VECTORS["sequence"]) == {"input_ids", "g", "g_sha256_int64le", "context_repetition_mask"}


def test_initial_states():
    assert initial_state(np.array(KEYS)) == int(VECTORS["hash_iv_default"])
    assert initial_state(np.array(KEYS[:3])) == int(VECTORS["hash_iv_3"])


@pytest.mark.parametrize("vector", VECTORS["g_values"], ids=lambda v: str(v["ngram"]))
def test_bits_of_ngrams(vector):
    states = fold(initial_state(np.array(KEYS)), *windows_of(vector["ngram"]))
    assert step(states, np.array(KEYS)).tolist() == [int(number) for number in vector["ngram_keys"]]
    assert bits_of(vector["ngram"], KEYS).tolist() == [vector["g"]]


def test_sequences():
    found, scheme = VECTORS["sequence"], SynthIdText()
    bits = np.stack([bits_of(ids, KEYS) for ids in found["input_ids"]])
    assert bits[:, :3].tolist() == found["g"]
    assert hashlib.sha256(bits.astype("<i8").tobytes()).hexdigest() == found["g_sha256_int64le"]
    for ids, mask in zip(found["input_ids"], found["context_repetition_mask"], strict=True):
        kept = make_items([Document(np.array(ids))], 4, np.zeros(0, np.int64), window_rule=True, context=scheme.context)
        assert (kept.place - 4).tolist() == np.flatnonzero(mask).tolist()


def test_processor_steps():
    torch = pytest.importorskip("torch")
    found = VECTORS["processor_steps"]
    assert (len(found["steps"]), found["top_k"], found["temperature"]) == (8, 10, 1.0)
    scheme, seen = SynthIdText(depth=len(found["keys"])), set()
    key = scheme.keyed(PeerKey(tuple(found["keys"])))
    for vector in found["steps"]:
        scores, kept = torch.tensor(vector["scores"]), torch.tensor(vector["topk_idx"])
        assert torch.equal(scores.topk(10).indices, kept)
        warped = torch.full_like(scores, -torch.inf).scatter(1, kept, scores.gather(1, kept))
        marked, context = scheme.transform(torch.tensor(vector["context"]), warped, [key]), tuple(vector["context"][0])
        out = warped if context in seen else marked
        seen.add(context)
        assert torch.allclose(out.gather(1, kept), torch.tensor(vector["updated"]), atol=1e-4)
        assert torch.allclose(warped.gather(1, kept), torch.tensor(vector["topk_scores"]))
        assert torch.isneginf(marked).sum() == scores.shape[1] - 10


@pytest.mark.parametrize("vector", VECTORS["update_scores_distortionary"], ids=lambda v: str(v["num_leaves"]))
def test_tournaments_with_more_candidates(vector):
    torch = pytest.importorskip("torch")
    bits, scores = torch.tensor(vector["g"]), torch.tensor(vector["scores"])
    out = tournament(scores, (bits[:, :, layer] for layer in range(bits.shape[2])), leaves=vector["num_leaves"])
    assert torch.allclose(out, torch.tensor(vector["out"]), atol=1e-4)


def test_upper_tails_hold_and_are_close():
    counts = np.array([0, 1, 40, 5_000, 500_000, STATES - 3, STATES])
    doubt = LOG_DOUBT - math.log(100)
    upper = upper_tails(counts / STATES, STATES, doubt)
    # Clopper and Pearson: at the bound so few or fewer have at most the doubt, at 1.5 standard deviations less more than that.
    inner = upper[:-1]
    assert (binom.logcdf(counts[:-1], STATES, inner) <= doubt + 1e-6).all()
    lower = inner - 1.5 * np.sqrt(inner * (1 - inner) / STATES)
    assert (binom.logcdf(counts[1:-1], STATES, lower[1:]) > doubt).all()
    assert upper[-1] == 1.0


@pytest.mark.parametrize("parameters", [{"depth": 5}, {"depth": 5, "score": "mean"}, {"depth": 3, **TRAINED}])
def test_the_law_is_above_fresh_states(parameters):
    scheme = SynthIdText(**parameters)
    key = scheme.keyed(scheme.draw(np.random.default_rng(4)))
    law = key.law(scheme.reading, 300)
    assert key.law(scheme.reading, 512) is law
    assert key.law(scheme.reading, 513) is not law
    fresh = scheme.reading.whole(layer_bits(np.random.default_rng(99).integers(-(2**63), 2**63, 2**18), key.values))
    above = np.cumsum(law.masses[::-1])[::-1]
    seen = np.array([(fresh >= law.low + i).mean() for i in range(len(above))])
    assert (above >= seen - 4 * np.sqrt(seen * (1 - seen) / 2**18)).all()
    assert np.abs(above - seen).max() < 0.008


def test_layers_are_not_independent_and_the_law_knows():
    scheme = SynthIdText()
    key = scheme.keyed(PeerKey(KEYS))
    law = key.law(scheme.reading, 300)
    places = np.arange(len(law.masses))
    variance = law.masses @ places**2 - (law.masses @ places) ** 2
    assert variance > 1.04 * scheme.null().variance()
    total = round(300 * 82.5 + 6 * math.sqrt(300 * scheme.null().variance()))
    ours = lattice_log_sf(total, [LatticeLaw(0, law.masses, copies=300)])
    assert ours > weighted_bernoulli_log_sf(total, scheme.reading.weights, [300] * 30, 0.5) + 1.0


@pytest.mark.parametrize("parameters", [{}, {"score": "mean"}, {"depth": 3, **TRAINED}])
def test_p_values_of_other_text(parameters):
    scheme, sizes = SynthIdText(**parameters), 400
    key = scheme.keyed(PeerKey(KEYS[: scheme.depth]))
    found = scheme.evaluate(texts(sizes, 40, 5), key)
    assert (found.n == 40).all()
    for level in (0.5, 0.1):
        share = (np.exp(found.log_p) <= level).mean()
        assert 0.3 * level < share < level + 4 * math.sqrt(level / sizes)


def test_the_bayesian_total_is_the_log_likelihood_ratio():
    scheme, one = SynthIdText(depth=3, **TRAINED), texts(1, 25, 0)
    key = scheme.keyed(PeerKey((5, 6, 7)))
    bits, total = scheme.score(one.windows, one.tokens, key), 0.0
    for item in bits.astype(float):
        for layer, bit in enumerate(item):
            logit = TRAINED["beta"][layer] + sum(TRAINED["delta"][layer][j] * item[j] for j in range(layer))
            q = 1 / (1 + math.exp(-logit))
            total += math.log((bit + 0.5) * q + 1 - q)
    assert scheme.evaluate(one, key).totals[0] == pytest.approx(total)
    low, high = scheme.reading.ends
    every = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.uint8)
    values = scheme.reading.values(every)
    assert low <= values.min()
    assert values.max() <= high
    assert np.exp(values).mean() == pytest.approx(1.0)


def test_equal_ngrams_have_equal_codes_and_others_do_not():
    scheme, one = SynthIdText(), texts(1, 5000, 1)
    key = scheme.keyed(PeerKey(KEYS))
    codes = scheme.codes(one.windows, one.tokens, key)
    assert len(np.unique(codes)) == 5000
    assert np.array_equal(codes, scheme.codes(one.windows.copy(), one.tokens.copy(), key))


def marked(scheme, key, length, seed=0):
    """Ids sampled with the watermark from uniform logits over 64 ids."""
    torch = pytest.importorskip("torch")
    generator, keyed = torch.Generator().manual_seed(seed), scheme.keyed(key)
    row, seen = torch.zeros(scheme.width, dtype=torch.int64), set()
    for _ in range(length):
        window = row[-scheme.width :]
        logits = torch.zeros(1, 64)
        if tuple(window.tolist()) not in seen:
            logits = scheme.transform(window[None], logits, [keyed])
        seen.add(tuple(window.tolist()))
        row = torch.cat([row, torch.multinomial(logits[0].exp(), 1, generator=generator)])
    return row[scheme.width :].numpy()


@pytest.mark.parametrize("parameters", [
    {}, {"score": "mean"}, {"depth": 12, "score": "bayesian", "beta": [0.0] * 12, "delta": [[0.0] * 12] * 12},
])
def test_marked_text_is_found_and_other_text_is_not(parameters):
    profile = Profile(scheme_name="synthid-text", parameters=parameters)
    key = PeerKey(tuple(range(1000, 31_000, 1000))[: profile.scheme.depth])
    ids = marked(profile.scheme, key, 120)
    assert detect_ids(ids, profile, key).log10_p < -10
    assert detect_ids(ids, profile, PeerKey(KEYS[: profile.scheme.depth])).log10_p > -3
    assert detect_ids(np.random.default_rng(0).integers(0, 64, 120), profile, key).log10_p > -3
    assert detect_ids(ids[:4], profile, key).log10_p == 0.0


@pytest.mark.parametrize("bad", [
    {"ngram_len": 18}, {"depth": 65}, {"score": 1}, {"delta": [[0.0]]}, {"score": "bayesian"}, {"sampling_table_size": 2**16},
])
def test_impossible_parameters(bad):
    with pytest.raises(ProfileError):
        _ = Profile(scheme_name="synthid-text", parameters=bad).scheme


@pytest.mark.parametrize("key", [PeerKey(5), PeerKey((1, 2)), PeerKey(b"secret"), PeerKey((2**63 + 77_777,) * 30)])
def test_keys_that_do_not_fit(key):
    with pytest.raises(KeyFileError) as error:
        SynthIdText().keyed(key)
    assert str(2**63 + 77_777) not in str(error.value)


def test_a_key_stays_secret():
    key = SynthIdText(depth=1).keyed(PeerKey(123_456_789))
    assert "123456789" not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_parameters_rebuild():
    for parameters in SynthIdText.examples():
        scheme = SynthIdText(**parameters)
        again = SynthIdText(**json.loads(json.dumps(scheme.parameters())))
        assert again.parameters() == scheme.parameters()
        assert again.reading == scheme.reading
        assert scheme.expected(4.0) > scheme.expected(0.0)
