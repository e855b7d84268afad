"""SynthID-Text of transformers: every vector made with its own code, the exact law over keys, and the Bayesian e-value."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.synthid_scores import Reading, fold, planned, step, tournament
from wmcheck.watermark.peers.transformers_synthid import TransformersSynthId, sampling_table
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.windows import Document, make_items

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/synthid_hf.json").read_text())
KEYS = tuple(VECTORS["meta"]["keys30"])
SEQUENCE = VECTORS["sequence"]
TRAINED = {"score": "bayesian", "beta": [-1.0, 0.25], "delta": [[0.0, 0.0], [1.5, 0.0]]}


def windows_of(ids, width=4):
    ids = np.array(ids)
    return np.lib.stride_tricks.sliding_window_view(ids, width)[:-1].astype(np.uint32), ids[width:]


def bits_of(ids, keys):
    scheme = TransformersSynthId(depth=len(keys))
    return scheme.score(*windows_of(ids), scheme.keyed(PeerKey(tuple(keys))))


def items(scheme, ids):
    """The scored items of one text without a prompt."""
    found = make_items([Document(np.array(ids))], scheme.width, np.zeros(0, int), window_rule=True, context=scheme.context)
    return Chosen(found.windows, found.tokens, found.place, found.document, 1, np.zeros(1, int))


def test_all_vectors_are_checked():
    assert set(VECTORS) == {
        "meta", "sampling_tables", "accumulate_hash", "g_values", "sequence", "sequence_depth3_g", "detectors", "bayesian",
        "update_scores", "processor_steps", "expected_mean_g",
    }
    counts = {name: len(entry) for name, entry in VECTORS.items() if isinstance(entry, list)}
    assert counts == {"sampling_tables": 5, "accumulate_hash": 8, "g_values": 5, "sequence_depth3_g": 2, "update_scores": 2}


@pytest.mark.parametrize("vector", VECTORS["sampling_tables"], ids=lambda v: f"{v['size']}-{v['seed']}")
def test_sampling_tables(vector):
    table = sampling_table(vector["size"], vector["seed"])
    assert table[:64].tolist() == vector["prefix64"]
    assert (int(table.sum()), table.mean()) == (vector["ones"], vector["mean"])
    assert hashlib.sha256(table.astype("<i8").tobytes()).hexdigest() == vector["sha256_int64le"]


@pytest.mark.parametrize("vector", VECTORS["accumulate_hash"], ids=lambda v: str(v["data"]))
def test_hashes(vector):
    data = np.array(vector["data"])
    assert int(fold(vector["current"], data[None, :-1].astype(np.uint32), data[-1:])[0]) == int(vector["result"])


@pytest.mark.parametrize("vector", VECTORS["g_values"], ids=lambda v: str(v["ngram"]))
def test_bits_of_ngrams(vector):
    states = fold(1, *windows_of(vector["ngram"]))
    assert step(states, np.array(KEYS)).tolist() == [int(number) for number in vector["ngram_keys"]]
    assert bits_of(vector["ngram"], KEYS).tolist() == [vector["g"]]


def test_bits_of_sequences():
    bits = np.stack([bits_of(ids, KEYS) for ids in SEQUENCE["input_ids"]])
    assert list(bits.shape) == SEQUENCE["g_shape"]
    assert hashlib.sha256(bits.astype("<i8").tobytes()).hexdigest() == SEQUENCE["g_sha256_int64le"]
    assert bits[:, 0].tolist() == SEQUENCE["g_first_pos"]
    assert [bits_of(ids, KEYS[:3]).tolist() for ids in SEQUENCE["input_ids"]] == VECTORS["sequence_depth3_g"]


def test_masks_of_sequences():
    scheme, none = TransformersSynthId(), np.zeros(0, np.int64)
    for row, ids in enumerate(SEQUENCE["input_ids"]):
        ids, end = np.array(ids), SEQUENCE["eos"]
        first = int((ids == end).argmax()) if end in ids else len(ids)
        assert SEQUENCE["eos_mask"][row] == [int(place < first) for place in range(len(ids))]
        for wanted, length in ((SEQUENCE["context_repetition_mask"], len(ids)), (VECTORS["detectors"]["mask"], first)):
            found = make_items([Document(ids[:length])], 4, none, window_rule=True, context=scheme.context)
            assert (found.place - 4).tolist() == np.flatnonzero(wanted[row]).tolist()


def test_detectors_scores():
    found = VECTORS["detectors"]
    wanted = zip(found["mask"], found["mean"], found["weighted_mean"], strict=True)
    for ids, (mask, mean, weighted) in zip(SEQUENCE["input_ids"], wanted, strict=True):
        bits = bits_of(ids, KEYS)[np.array(mask) > 0]
        weights = np.linspace(10, 1, 30)
        assert bits.mean() == pytest.approx(mean, abs=1e-12)
        assert (bits @ weights).sum() / weights.sum() / len(bits) == pytest.approx(weighted, abs=1e-6)
        # Ours rounds the weights to whole numbers.
        total = Reading.make("weighted", 30, None, None).values(bits).sum()
        assert total / (165 * len(bits)) == pytest.approx(weighted, abs=5e-3)


def test_bayesian_detector():
    found = VECTORS["bayesian"]
    assert (found["depth"], found["base_rate"]) == (3, 0.5)
    scheme = TransformersSynthId(depth=3, score="bayesian", beta=found["beta"], delta=found["delta"])
    bits = np.array(VECTORS["sequence_depth3_g"][0], np.uint8)
    lost, won = scheme.reading.log_ratios(bits)
    assert np.exp(np.where(bits > 0, won, lost)) / 2 == pytest.approx(np.array(found["likelihood_row0"]), abs=1e-6)
    key = scheme.keyed(PeerKey(KEYS[:3]))
    for ids, mask, posterior in zip(SEQUENCE["input_ids"], VECTORS["detectors"]["mask"], found["posterior"], strict=True):
        kept = np.flatnonzero(mask)
        windows, tokens = (part[kept] for part in windows_of(ids))
        chosen = Chosen(windows, tokens, kept, np.zeros(len(kept), int), 1, np.zeros(1, int))
        total = scheme.evaluate(chosen, key).totals[0]
        assert 1 / (1 + np.exp(-total)) == pytest.approx(posterior, abs=1e-5)


@pytest.mark.parametrize("vector", VECTORS["update_scores"], ids=lambda v: v["dtype"])
def test_tournament(vector):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, vector["dtype"].removeprefix("torch."))
    bits = torch.tensor(vector["g"])
    scores = torch.tensor([[float(x) for x in row] for row in vector["scores"]], dtype=dtype)
    out = tournament(scores, (bits[:, :, layer] for layer in range(bits.shape[2])))
    finite = out.nan_to_num(neginf=torch.finfo(dtype).min)
    assert torch.allclose(finite, torch.tensor(vector["out"], dtype=dtype), rtol=1e-5, atol=1e-5)
    assert torch.isneginf(out[torch.isneginf(scores)]).all()


def test_processor_steps():
    torch = pytest.importorskip("torch")
    found = VECTORS["processor_steps"]
    assert (len(found["steps"]), found["ngram_len"], found["vocab"]) == (9, 5, 16)
    scheme = TransformersSynthId(depth=len(found["keys"]))
    key, seen = scheme.keyed(PeerKey(tuple(found["keys"]))), [set(), set()]
    for vector in found["steps"]:
        scores, wanted = torch.tensor(vector["scores"]), torch.tensor(vector["out"])
        marked = scheme.transform(torch.tensor(vector["context"]), scores, [key, key])
        for row, context in enumerate(vector["context"]):
            assert vector["watermarked"][row] == (tuple(context) not in seen[row])
            seen[row].add(tuple(context))
            assert torch.allclose(marked[row] if vector["watermarked"][row] else scores[row], wanted[row], atol=1e-4)


def test_expected_mean_bit():
    torch = pytest.importorskip("torch")
    for vector in VECTORS["expected_mean_g"]["v"]:
        v = vector["vocab"]
        for winners in {1, v // 3, v // 2} - {0}:
            bits = (torch.arange(v) < winners)[None]
            law = tournament(torch.zeros(1, v, dtype=torch.float64), [bits]).exp()
            share = winners / v
            assert float(law[bits].sum()) == pytest.approx(share * (2 - share))
        # The mean of share (2 - share) over Binomial(v, 1/2) winners.
        assert 1.0 - (0.25 + 0.25 / v) == pytest.approx(vector["val"], abs=1e-12)
        if v <= 100:
            assert planned(Reading.make("mean", 1, None, None), 1, v) == pytest.approx(vector["val"], abs=0.03)


def every_key(scheme):
    """Evidence of one text under all keys modulo the table's size."""
    rng = np.random.default_rng(3)
    chosen = items(scheme, rng.integers(0, 50, 24))
    keys = itertools.product(range(scheme.size), repeat=scheme.depth)
    return [scheme.evaluate(chosen, scheme.keyed(PeerKey(key))) for key in keys]


@pytest.mark.parametrize("score", ["weighted", "mean"])
def test_p_values_are_exact_over_all_keys(score):
    found = every_key(TransformersSynthId(depth=2, sampling_table_size=32, sampling_table_seed=3, score=score))
    totals, p = np.array([e.totals[0] for e in found]), np.exp([e.log_p[0] for e in found])
    assert len(set(totals)) > 10
    share = (totals[None] >= totals[:, None]).mean(1)
    assert p == pytest.approx(share, rel=1e-9)
    assert (p >= share * (1 - 1e-12)).all()


def test_e_values_have_mean_one_over_all_keys():
    found = every_key(TransformersSynthId(depth=2, sampling_table_size=32, sampling_table_seed=3, **TRAINED))
    e = np.exp([one.log_e[0] for one in found])
    assert e.mean() == pytest.approx(1.0, rel=1e-9)
    assert e.mean() <= 1.0
    assert e.std() > 0.1
    assert np.exp([one.log_p[0] for one in found]) == pytest.approx(np.minimum(1 / e, 1.0))


def test_far_tails_agree_with_the_binomial_law_of_large_tables():
    # With 2^20 entries the sums of a layer follow the binomial law of independent entries closely.
    scheme = TransformersSynthId(sampling_table_size=2**20, score="mean")
    chosen = items(scheme, np.random.default_rng(0).integers(0, 50_000, 304))
    states = scheme._states(chosen.windows, chosen.tokens)
    for total in (4700, 4900, 5100):
        assert scheme._log_sf(states, total) == pytest.approx(binom.logsf(total - 1, 9000, scheme.null().p), rel=0.03)


def test_states_that_are_equal_count_once():
    scheme = TransformersSynthId()
    key = scheme.keyed(PeerKey(KEYS))
    windows, tokens = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1 + 2**16, 2, 3, 4]], np.uint32), np.array([5, 5 + 2**16, 5])
    assert len(set(scheme.codes(windows, tokens, key).tolist())) == 1
    assert len(np.unique(scheme.score(windows, tokens, key), axis=0)) == 1


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
    profile = Profile(scheme_name="transformers-synthid", parameters=parameters)
    key = PeerKey(tuple(range(1000, 31_000, 1000))[: profile.scheme.depth])
    ids = marked(profile.scheme, key, 150)
    assert detect_ids(ids, profile, key).log10_p < -15
    assert detect_ids(ids, profile, PeerKey(KEYS[: profile.scheme.depth])).log10_p > -3
    assert detect_ids(np.random.default_rng(0).integers(0, 64, 150), profile, key).log10_p > -3
    assert detect_ids(ids[:4], profile, key).log10_p == 0.0


@pytest.mark.parametrize("bad", [
    {"ngram_len": 1}, {"depth": 0}, {"depth": 65}, {"sampling_table_size": 1000}, {"sampling_table_size": 2**25},
    {"sampling_table_size": 1}, {"sampling_table_seed": -1}, {"score": "median"}, {"beta": [0.0]}, {"score": "bayesian"},
    {"depth": 2, "score": "bayesian", "beta": [0.0], "delta": [[0.0] * 2] * 2},
    {"depth": 2, "score": "bayesian", "beta": [0.0, float("nan")], "delta": [[0.0] * 2] * 2},
    {"depth": 2, "score": "bayesian", "beta": [0.0] * 2, "delta": [[0.0], [0.0]]},
    {"sampling_table_size": 2, "sampling_table_seed": 1}, {"keys": [1]},
])
def test_impossible_parameters(bad):
    with pytest.raises(ProfileError):
        _ = Profile(scheme_name="transformers-synthid", parameters=bad).scheme


@pytest.mark.parametrize("key", [PeerKey(5), PeerKey((1, 2)), PeerKey(b"secret"), PeerKey((2**63 + 77_777,) * 30)])
def test_keys_that_do_not_fit(key):
    with pytest.raises(KeyFileError) as error:
        TransformersSynthId().keyed(key)
    assert str(2**63 + 77_777) not in str(error.value)


def test_keys_act_modulo_the_table_and_stay_secret():
    scheme = TransformersSynthId(depth=2)
    windows, tokens = windows_of(range(100))
    one, same = (scheme.keyed(PeerKey(key)) for key in ((7, 9), (7 - 2**62, 9 + 2**16)))
    assert np.array_equal(scheme.score(windows, tokens, one), scheme.score(windows, tokens, same))
    assert "7" not in repr(one).split(" at ")[0]
    with pytest.raises(TypeError):
        pickle.dumps(one)


def test_parameters_rebuild():
    for parameters in TransformersSynthId.examples():
        scheme = TransformersSynthId(**parameters)
        again = TransformersSynthId(**json.loads(json.dumps(scheme.parameters())))
        assert again.parameters() == scheme.parameters()
        assert scheme.expected(4.0) > scheme.expected(0.0)
        rng = np.random.default_rng(0)
        sample = scheme.null().sample(50_000, rng)
        assert sample.mean() == pytest.approx(scheme.null().mean(), abs=5 * sample.std() / 200)
        assert sample.var() == pytest.approx(scheme.null().variance(), rel=0.1)
