"""Three Bricks against the project's own numbers, and its payloads by brute force."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from wmcheck.watermark import Profile
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.core.tails import binomial_log_sf, gamma_log_sf
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.three_bricks import Aaronson, FoldedSeed, Maryland, green_share
from wmcheck.watermark.peers.torch_rng import randperm
from wmcheck.watermark.scheme import make_scheme

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/three_bricks.json").read_text())
BOTH = pytest.mark.parametrize("kind", [Aaronson, Maryland])


def test_every_seed_of_the_project():
    entries = VECTORS["seed"]
    assert len(entries) == 15
    for entry in entries:
        window, vocabulary = np.array([entry["ctx"]], np.uint32), entry["vocab"]
        key = FoldedSeed(entry["seed"], VECTORS["meta"]["salt_key"])
        assert int(key.seeds(window)[0]) == int(entry["torch_seed"])
        generator = int(key.generators(window)[0])
        assert generator == int(entry["torch_seed"]) % 2**32
        maryland = Maryland(vocabulary=vocabulary, ngram=window.shape[1], gamma=entry["gamma"])
        green = randperm(vocabulary, generator, maryland.green)
        assert green[:16].tolist() == entry["green_prefix"]
        assert hashlib.sha256(green.astype("<i8").tobytes()).hexdigest() == entry["green_sha256"]
        colours = maryland.score(np.repeat(window, vocabulary, 0), np.arange(vocabulary), key)
        assert sorted(green) == np.flatnonzero(colours).tolist() == np.flatnonzero(maryland.table(generator, vocabulary)).tolist()
        aaronson = Aaronson(vocabulary=vocabulary, ngram=window.shape[1], payloads=4)
        scores = aaronson.score(np.repeat(window, 8, 0), np.arange(8), key)
        assert -np.expm1(-scores) == pytest.approx(entry["r_prefix"], abs=1e-12)
        totals = aaronson.totals(np.array([generator]), np.array([5]))
        assert totals == pytest.approx(entry["score_tok_gumbel_token5_payload0to3"], rel=2e-6)


def test_every_p_value_of_the_project():
    assert (len(VECTORS["pvalues_gamma"]), len(VECTORS["pvalues_binom"])) == (7, 6)
    for entry in VECTORS["pvalues_gamma"]:
        found = Aaronson(vocabulary=1000).null().log_sf([entry["score"]], [entry["n"]])[0]
        assert found == pytest.approx(math.log(entry["p"]), rel=1e-9)
    for entry in VECTORS["pvalues_binom"]:
        null = Maryland(vocabulary=1000, gamma=entry["gamma"]).null()
        found = float(null.log_sf([float(entry["score"])], [entry["n"]])[0])
        exact = math.log(entry["p"])
        assert exact == pytest.approx(math.log(entry["binom_sf"]))
        # Up to one above the mean the bound may say nothing.
        if entry["score"] >= entry["n"] * entry["gamma"] + 1:
            assert found == pytest.approx(exact, rel=1e-9)
        assert found >= exact - 1e-9
    # Their tails of empty texts are not a number and 1; ours say that nothing was found.
    assert VECTORS["gammaincc_zero_n"] == "nan"
    assert VECTORS["betainc_zero"] == "1.0"
    for kind in (Aaronson, Maryland):
        assert kind(vocabulary=1000).null().log_sf([0.0], [0]).tolist() == [0.0]


def test_the_fold_is_the_plain_one():
    rng = np.random.default_rng(0)
    for salt in (35317, 2**32 - 1, 1):
        windows = rng.integers(0, 2**31, (200, 5)).astype(np.uint32)
        windows[:20] = 0
        for start in (0, 1, 2**64 - 2, 2**64 - 1, int(rng.integers(0, 2**63))):
            found = FoldedSeed(start, salt).seeds(windows)
            for row, seed in zip(windows.tolist(), found.tolist(), strict=True):
                state = start % (2**64 - 1)
                for number in row:
                    state = (state * salt + number) % (2**64 - 1)
                assert seed == state


@pytest.mark.parametrize(("vocabulary", "gamma"), [(2, 0.5), (3, 0.4), (7, 0.99), (1000, 0.001), (1000, 0.9995), (50_257, 0.25)])
def test_whole_lists_are_the_first_of_the_permutation(vocabulary, gamma):
    scheme = Maryland(vocabulary=vocabulary, gamma=gamma)
    for seed in range(20 if vocabulary < 5000 else 2):
        mask = np.zeros(vocabulary)
        mask[torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))[: scheme.green].numpy()] = 1
        assert (scheme.table(seed, vocabulary) == mask).all()
        assert (scheme.table(seed, vocabulary // 2) == mask[: vocabulary // 2]).all()


@BOTH
def test_payload_totals_are_the_plain_sums(kind):
    rng, vocabulary = np.random.default_rng(4), 97
    for payloads in (2, 20, 96, 97):
        scheme = kind(vocabulary=vocabulary, payloads=payloads)
        seeds, tokens = rng.integers(0, 6, 40), rng.integers(0, vocabulary + 3, 40)
        expected = np.zeros(payloads)
        for seed, token in zip(seeds, tokens, strict=True):
            if token < vocabulary:
                table = scheme.table(int(seed), vocabulary)
                expected += [table[(token + m) % vocabulary] for m in range(payloads)]
        assert scheme.totals(seeds, tokens) == pytest.approx(expected)
    named = kind(vocabulary=vocabulary, payloads=9, payload=7)
    key = FoldedSeed(5, 35317)
    windows, tokens = rng.integers(0, 97, (30, 4)).astype(np.uint32), rng.integers(0, 97, 30)
    per_item = [named.totals(key.generators(windows[i : i + 1]), tokens[i : i + 1])[7] for i in range(30)]
    assert named.score(windows, tokens, key) == pytest.approx(per_item)


@BOTH
def test_a_marked_text_names_its_payload_and_an_unmarked_one_is_not_found(kind):
    key, vocabulary = PeerKey(2**63 + 12345), 500
    for payloads, payload in ((1, 0), (64, 41), (500, 499)):
        profile = Profile.create(kind.name, {"vocabulary": vocabulary, "payloads": payloads, "payload": payload})
        scheme = profile.scheme
        generator, ids = torch.Generator().manual_seed(1), [7, 8, 9, 10]
        for _ in range(200):
            window = torch.tensor([ids[-4:]])
            logits = scheme.transform(window, torch.zeros(1, vocabulary), [scheme.keyed(key)])
            ids.append(int(torch.multinomial(logits.softmax(1), 1, generator=generator)))
        found = detect_ids(ids, profile, key)
        assert found.log10_p < -12
        assert found.decoded == (f"payload {payload}" if payloads > 1 else None)
        assert found.n_scored + found.n_repeated == 200
        other = detect_ids(ids, profile, PeerKey(77))
        assert other.log10_p > -4


def test_the_p_value_of_payloads_is_bonferroni_over_the_best():
    scheme = Aaronson(vocabulary=300, ngram=1, payloads=50)
    profile, key = Profile.create(scheme.name, scheme.parameters()), PeerKey(3)
    ids = np.random.default_rng(2).integers(0, 300, 61)
    found = detect_ids(ids, profile, key)
    assert found.total == pytest.approx(float(scheme.totals(scheme.keyed(key).generators(ids[:-1, None]), ids[1:]).max()))
    one = float(gamma_log_sf(found.total, 60))
    assert found.log10_p == pytest.approx(min(0.0, one + math.log(50)) / math.log(10))
    # The project's own rule lies within p^2 of it.
    assert -math.expm1(50 * math.log1p(-math.exp(one))) <= 10**found.log10_p
    assert found.decoded is not None
    assert "50 payloads" in found.null


def test_empty_texts_and_ids_outside_the_vocabulary_prove_nothing():
    for kind in (Aaronson, Maryland):
        for payloads in (1, 8):
            profile = Profile.create(kind.name, {"vocabulary": 100, "payloads": payloads})
            assert detect_ids([], profile, PeerKey(9)).log10_p == 0.0
            beyond = detect_ids([5, 6, 7, 8, *range(100, 160)], profile, PeerKey(9))
            assert (beyond.total, beyond.log10_p) == (0.0, 0.0)


def test_what_the_generator_would_choose():
    """argmax r^(1/p) in plain float64, as the project's generator does it, and the bias of the shifted list."""
    scheme = Aaronson(vocabulary=50, ngram=2, payloads=50, payload=13)
    rng, key = np.random.default_rng(6), FoldedSeed(1234, 35317)
    windows = torch.from_numpy(rng.integers(0, 50, (80, 2)))
    logits = torch.from_numpy(rng.normal(0, 1.5, (80, 50))).float()
    out = scheme.transform(windows, logits, [key] * 80)
    for row in range(80):
        seed = int(key.seeds(windows[row : row + 1].numpy())[0]) % 2**32
        noise = torch.rand(50, generator=torch.Generator().manual_seed(seed)).double().roll(-13)
        chosen = int((noise ** (1 / logits[row].double().softmax(0))).argmax())
        assert out[row].argmax() == chosen
        assert out[row].softmax(0)[chosen] == pytest.approx(1.0)
        assert sorted(range(50), key=lambda v: (v != chosen, -logits[row][v])) == out[row].argsort(descending=True).tolist()
    lists = Maryland(vocabulary=50, ngram=2, payloads=50, payload=13, delta=1.5)
    gained = lists.transform(windows, logits, [key] * 80) - logits
    for row in range(80):
        seed = int(key.seeds(windows[row : row + 1].numpy())[0]) % 2**32
        mask = torch.zeros(50)
        mask[torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:12]] = 1.5
        assert torch.allclose(gained[row], mask.roll(-13), atol=1e-5)


def test_masked_rows_stay_masked():
    for scheme in (Aaronson(vocabulary=20), Maryland(vocabulary=20)):
        logits = torch.full((2, 20), -math.inf)
        logits[0, 4] = 1.0
        windows = torch.zeros(2, 4, dtype=torch.int64)
        out = scheme.transform(windows, logits, [FoldedSeed(1, 35317)] * 2)
        assert torch.equal(torch.isneginf(out), torch.isneginf(logits))
        assert scheme.transform(windows[:0], logits[:0], []).shape == (0, 20)
        with pytest.raises(ConfigError, match="as wide"):
            scheme.transform(windows, logits[:, :19], [FoldedSeed(1, 35317)] * 2)


@BOTH
@pytest.mark.parametrize(
    "bad", [{"seeding": "additive"}, {"seeding": "skip"}, {"seeding": "min"}, {"seeding": "other"}, {"seeding": []}, {"ngram": 0},
            {"ngram": 17}, {"vocabulary": 1}, {"vocabulary": 100.0}, {"salt": 0}, {"salt": 2**32}, {"payloads": 0},
            {"payloads": 101}, {"payload": 1}, {"payloads": 4, "payload": 4}, {"gamma": 0.001}, {"gamma": 1.0}, {"delta": 0}],
)
def test_bad_parameters_are_refused(kind, bad):
    with pytest.raises(ProfileError):
        make_scheme(kind.name, {"vocabulary": 100, **bad})


def test_modes_with_an_unseeded_table_are_called_unreadable():
    with pytest.raises(ProfileError, match="unreadable by construction"):
        Maryland(vocabulary=100, seeding="min")


@BOTH
def test_keys_are_single_integers(kind):
    scheme = kind(vocabulary=100)
    for bad in (PeerKey((1, 2)), PeerKey(b"abc"), PeerKey(-1), PeerKey(2**64)):
        with pytest.raises(KeyFileError):
            scheme.keyed(bad)
    key = scheme.keyed(PeerKey(424242))
    assert "424242" not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert scheme.draw(np.random.default_rng(1)) == scheme.draw(np.random.default_rng(1))
    # Seeds are 64 bits wide, but torch reads 32 of them: items are equal where those are.
    windows = np.array([[1, 2], [1, 2], [2, 1]], np.uint32)
    codes = kind(vocabulary=100, ngram=2).codes(windows, np.array([3, 3, 3]), key)
    assert codes[0] == codes[1] != codes[2]


def test_plans():
    assert Aaronson(vocabulary=100).expected(0.0) == pytest.approx(1.0)
    assert Aaronson(vocabulary=100).expected(100.0) == pytest.approx(100 * math.log(2))
    assert green_share(0.0, 0.25, 2.0) == pytest.approx(0.25)
    gain = 0.25 * math.exp(2.0)
    assert green_share(16.0, 0.25, 2.0) == pytest.approx(gain / (gain + 0.75), rel=1e-3)
    for payloads in (1, 16):
        assert Maryland(vocabulary=100, payloads=payloads).expected(4.0) > 0.4
    assert isinstance(Aaronson(vocabulary=100).null(), ExponentialNull)
    assert Maryland(vocabulary=100, payloads=16).null().log_sf([25.0], [30])[0] == pytest.approx(
        float(binomial_log_sf(25, 30, 0.25)) + math.log(16)
    )
