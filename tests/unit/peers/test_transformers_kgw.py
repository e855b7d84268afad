import hashlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from wmcheck.watermark import Profile, detect_ids
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.law import Law
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.green_lists import modulo, product
from wmcheck.watermark.peers.torch_rng import randperm
from wmcheck.watermark.peers.transformers_kgw import HashTable, TransformersKgw, detector_counts

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/kgw_hf.json").read_text())
MODULUS = 2**64 - 1


def peer_of(case):
    return TransformersKgw(
        vocabulary=case["vocab_size"], greenlist_ratio=case["gamma"], bias=case.get("bias", 2.0),
        seeding_scheme=case.get("scheme", "lefthash"), context_width=case.get("context_width", 1),
    )


def digest(ids):
    return hashlib.sha256(np.asarray(ids, "<i8").tobytes()).hexdigest()


def marked_ids(scheme, key, count, seed=0):
    """Ids of which most are green where there was a choice, as a strong bias leaves them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, scheme.vocabulary, max(scheme.width, 1)).tolist()
    while len(ids) < count:
        few = rng.integers(0, scheme.vocabulary, 3)
        window = np.array([ids[len(ids) - scheme.width :]] * 3, np.uint32).reshape(3, scheme.width)
        ids.append(int(few[key.green(window, few).argmax()]))
    return ids


def test_products_modulo_are_those_of_python():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(-(2**63), 2**63, 200), [0, 1, -1, 2**63 - 1, -(2**63)]])
    for factor in (0, 1, 15485863, 2**32, 2**63 - 1, MODULUS - 1, *rng.integers(0, 2**63, 20).tolist()):
        assert product(factor, values).tolist() == [factor * int(value) % MODULUS for value in values]
    assert modulo(values).tolist() == [int(value) % MODULUS for value in values]


def test_every_green_list():
    keys, digests, checked = {}, {}, 0
    for case in VECTORS["greenlists"]:
        scheme = peer_of(case)
        place = (case["key"], *scheme.parameters().values())
        if place not in keys:
            keys[place] = scheme.keyed(PeerKey(case["key"]))
        key = keys[place]
        ids = np.array(case["input_seq"])
        window, last = (ids[-case["context_width"] : -1] if scheme.own else ids[-1:])[None], ids[-1:]
        if scheme.width == 0:
            window = ids[None, :0]
        seeds = key.generators(window, last)
        assert int(seeds[0]) == case["seed_low32"] == int(case["torch_seed"]) % 2**32
        assert scheme.listed == case["greenlist_size"]
        place = (scheme.vocabulary, int(seeds[0]), scheme.listed)
        if place not in digests:
            green = randperm(*place)
            digests[place] = digest(green), digest(np.sort(green)), green[:16].tolist()
        assert digests[place] == (case["sha256"], case["sha256_sorted"], case["green_prefix"])
        assert bool(key.colours(seeds, last)[0]) == case["contains_last"]
        checked += 1
    assert checked == len(VECTORS["greenlists"]) == 1008


def test_every_whole_small_list_and_every_table():
    assert len(VECTORS["lefthash_full_small"]) == 20
    for case in VECTORS["lefthash_full_small"]:
        scheme, size = peer_of(case), case["vocab_size"]
        found = scheme.keyed(PeerKey(case["key"])).green(np.full((size, 1), case["last_token"]), np.arange(size))
        assert np.flatnonzero(found).tolist() == sorted(case["greenlist"])
    assert len(VECTORS["fixed_table"]) == 5
    for case in VECTORS["fixed_table"]:
        table = HashTable(case["key"], 16)
        assert (table.of(np.arange(16)) - 1).tolist() == case["fixed_table_prefix"]
        assert digest(table.of(np.arange(1_000_003)) - 1) == case["sha256"]
        assert table.of(np.array([1_000_004])) == table.of(np.array([1]))


def test_every_processor_output():
    assert len(VECTORS["processor"]) == 8
    for case in VECTORS["processor"]:
        scheme, ids = peer_of(case), torch.tensor(case["input_ids"])
        logits = torch.tensor([[-math.inf if value is None else value for value in row] for row in case["scores"]])
        key = scheme.keyed(PeerKey(case["key"]))
        out = scheme.transform(ids[:, ids.shape[1] - scheme.width :], logits, [key] * len(ids))
        for row, changed in enumerate(case["changed_indices"]):
            assert torch.nonzero(out[row] != logits[row]).flatten().tolist() == sorted(changed)
            assert torch.allclose(out[row, changed], logits[row, changed] + case["bias"])


def test_every_detector_count():
    checked = 0
    for case in VECTORS["detector"]:
        scheme = peer_of(case)
        scored, green = detector_counts(
            scheme, scheme.keyed(PeerKey(case["key"])), np.array(case["input_ids"]), bos=case["bos"],
            ignore_repeated=case["ignore_repeated_ngrams"],
        )
        assert scored.tolist() == case["num_tokens_scored"]
        assert green.tolist() == case["num_green"]
        z = (green - case["gamma"] * scored) / np.sqrt(scored * case["gamma"] * (1 - case["gamma"]))
        assert np.allclose(z, case["z"])
        checked += 1
    assert checked == 32


@pytest.mark.parametrize("parameters", [
    {}, {"context_width": 4}, {"seeding_scheme": "selfhash", "context_width": 4}, {"seeding_scheme": "selfhash"}
])
def test_marked_text_is_found_and_other_text_is_not(parameters):
    profile = Profile.create("transformers-kgw", {"vocabulary": 1000, **parameters})
    scheme, secret = profile.scheme, PeerKey(123456789123)
    ids = marked_ids(scheme, scheme.keyed(secret), 200)
    found = detect_ids(ids, profile, secret)
    assert found.log10_p < -6
    assert found.differs
    assert detect_ids(ids, profile, PeerKey(987654321987)).log10_p > -3
    assert detect_ids(np.random.default_rng(5).integers(0, 1000, 300), profile, secret).log10_p > -3


def test_a_seed_that_no_key_changes_is_no_evidence():
    """After id 0 the list is that of seed 0: anyone can write green ids there."""
    profile = Profile.create("transformers-kgw", {"vocabulary": 1000})
    public = randperm(1000, 0, 250)[:120]
    ids = np.concatenate([[0, token] for token in public if token > 0])
    secret = PeerKey(77777777)
    assert profile.scheme.keyed(secret).green(np.zeros((50, 1)), public[:50]).all()
    found = detect_ids(ids, profile, secret)
    assert found.log10_p > -2
    scored = profile.scheme.score(np.zeros((50, 1), np.uint32), public[:50], profile.scheme.keyed(secret))
    assert not scored.any()
    assert len(set(profile.scheme.codes(np.zeros((50, 1), np.uint32), public[:50], profile.scheme.keyed(secret)))) == 1


def test_self_hash_of_width_one_knows_no_context():
    scheme = TransformersKgw(vocabulary=500, seeding_scheme="selfhash")
    assert scheme.width == 0
    key = scheme.keyed(PeerKey(42))
    codes = scheme.codes(np.zeros((3, 0), np.uint32), np.array([5, 6, 5]), key)
    assert codes[0] == codes[2] != codes[1]
    assert 80 < scheme.score(np.zeros((500, 0), np.uint32), np.arange(500), key).sum() < 175


def test_ids_outside_the_vocabulary_are_red():
    for name in ("lefthash", "selfhash"):
        scheme = TransformersKgw(vocabulary=100, seeding_scheme=name, context_width=2, greenlist_ratio=0.99)
        key = scheme.keyed(PeerKey(5))
        windows = np.full((4, scheme.width), 2**31 - 1, np.uint32)
        assert not scheme.score(windows, np.array([100, 5000, 2**31 - 1, 10**6]), key).any()


def test_lists_kept_for_later_calls_change_nothing():
    scheme = TransformersKgw(vocabulary=2000)
    key, rng = scheme.keyed(PeerKey(9999999)), np.random.default_rng(2)
    windows, tokens = rng.integers(0, 30, (2000, 1)), rng.integers(0, 2000, 2000)
    first = scheme.score(windows, tokens, key)
    assert np.array_equal(scheme.score(windows, tokens, key), first)
    assert np.array_equal(scheme.score(windows, tokens, scheme.keyed(PeerKey(9999999))), first)


def test_no_candidate_may_be_green():
    """transformers raises an error there."""
    scheme = TransformersKgw(vocabulary=60, seeding_scheme="selfhash", context_width=2, greenlist_ratio=0.02)
    logits = torch.zeros(3, 60)
    out = scheme.transform(torch.tensor([[1], [2], [3]]), logits, [scheme.keyed(PeerKey(11))] * 3)
    assert torch.isfinite(out).all()
    assert (out == logits).any(1).all()


def test_ratios_of_colours_have_mean_at_most_one():
    scheme, rng = TransformersKgw(vocabulary=200), np.random.default_rng(1)
    n = 6
    tokens = np.arange(10, 10 + n)
    law = Law.of(tokens, rng.integers(0, 200, (n, 5)), np.log(rng.random(n)), np.log(rng.random((n, 5))))
    windows = np.full((n, 1), 7, np.uint32)
    values = []
    for number in range(800):
        found = scheme.aided(windows, tokens, law, scheme.keyed(PeerKey(1000003 + 2 * number)))
        assert found.graded is None
        values.append(np.exp(found.log_e.sum()))
    assert np.mean(values) <= 1.0 + 4 * np.std(values) / math.sqrt(len(values))
    assert np.std(values) > 0.1


@pytest.mark.parametrize(("changes", "where"), [
    ({"vocabulary": 1}, "vocabulary"), ({"vocabulary": 2**24 + 1}, "vocabulary"), ({"greenlist_ratio": 0.0}, "greenlist_ratio"),
    ({"greenlist_ratio": 1.0}, "greenlist_ratio"), ({"greenlist_ratio": 0.0001}, "greenlist_ratio"), ({"bias": 0}, "bias"),
    ({"seeding_scheme": "minhash"}, "seeding_scheme"), ({"context_width": 0}, "context_width"), ({"device": "cuda"}, "device"),
    ({"device": None}, "device"),
])
def test_impossible_parameters(changes, where):
    with pytest.raises(ProfileError) as refused:
        TransformersKgw(**{"vocabulary": 1000, **changes})
    assert refused.value.where == where
    if where == "device":
        assert "generator" in refused.value.hint


def test_keys_are_integers_of_63_bits_and_stay_hidden():
    scheme = TransformersKgw(vocabulary=1000, seeding_scheme="selfhash", context_width=3)
    for bad in (PeerKey(0), PeerKey(-3), PeerKey(2**63), PeerKey((1, 2)), PeerKey(b"abc")):
        with pytest.raises(KeyFileError):
            scheme.keyed(bad)
    key = scheme.keyed(PeerKey(987654321987))
    assert "987654321987" not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
