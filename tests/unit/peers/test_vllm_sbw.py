"""The stateless Bernoulli watermark against lists of the package ``sbw`` and whole numbers."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from wmcheck.watermark import Detector, Document, Profile, detect_ids
from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.philox import PhiloxKeys, seeded_words
from wmcheck.watermark.peers.vllm_gumbel import PAD
from wmcheck.watermark.peers.vllm_sbw import LARGEST, Sbw, jenkins
from wmcheck.watermark.scheme import keyed

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/vllm_sbw.json").read_text())


def signed(value, bits=64):
    value %= 2**bits
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def plain_jenkins(number):
    value = signed(number + 1, 32)
    for step in (
        lambda v: v - (v << 6), lambda v: v ^ v >> 17, lambda v: v - (v << 9), lambda v: v ^ v << 4,
        lambda v: v - (v << 3), lambda v: v ^ v << 10, lambda v: v ^ v >> 15,
    ):
        value = signed(step(value), 32)
    return value


def plain_seed(seeding, context, token, key):
    if seeding == "lefthash":
        return signed(key * sum(context)) % 2**64
    own = plain_jenkins(token)
    terms = [key * own * own, *(key * plain_jenkins(number) * own for number in context[1:])]
    return min(signed(term) for term in terms) % 2**64


def marked(scheme, key, length, *, vocabulary=300, seed=0):
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    function, ids, seen = keyed(scheme, key), [], set()
    for _ in range(length):
        window = ([-1] * scheme.width + ids)[-scheme.width :]
        logits = torch.from_numpy(rng.normal(0, 1, (1, vocabulary))).float()
        if tuple(window) not in seen:
            logits = scheme.transform(torch.tensor([window]), logits, [function])
        seen.add(tuple(window))
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=noise)))
    return ids


def chosen(profile, key, ids):
    batch, candidate = Batch([Document(np.array(ids, np.int64))], profile), Candidate.of(profile, key)
    kept = batch.select(candidate)
    return batch.items.windows[kept], batch.items.tokens[kept], batch, candidate


def test_every_hash():
    entry = VECTORS["hashint"]
    assert len(entry["x"]) == 12
    assert jenkins(np.array(entry["x"], np.int64).astype(np.uint32)).tolist() == entry["h"]
    assert [plain_jenkins(number) for number in entry["x"]] == entry["h"]
    assert jenkins(np.array([PAD], np.uint32)) == 0


def test_every_list():
    tried = {"selfhash": 0, "lefthash": 0}
    for entry in VECTORS["green"]:
        scheme = Sbw(seeding=entry["scheme"], context_width=len(entry["contexts"][0]), gamma=entry["gamma"])
        for context, green in zip(entry["contexts"], entry["green"], strict=True):
            window = np.array(context, np.int64).astype(np.uint32)
            found = scheme.score(np.repeat(window[None], len(green), 0), np.arange(len(green)), PhiloxKeys(int(entry["key"])))
            assert "".join(str(int(value)) for value in found) == green
            tried[entry["scheme"]] += len(green)
    assert len(VECTORS["green"]) == 72
    assert tried == {"selfhash": 36 * 3 * 64, "lefthash": 36 * 3 * 64}


@pytest.mark.parametrize("seeding", ["selfhash", "lefthash"])
@pytest.mark.parametrize("width", [1, 4])
def test_seeds_in_whole_numbers(seeding, width):
    rng, scheme = np.random.default_rng(4), Sbw(seeding=seeding, context_width=width)
    windows, tokens = rng.integers(0, 151_936, (200, width)).astype(np.uint32), rng.integers(0, 151_936, 200)
    windows[:9, 0] = PAD
    for secret in (1, 15485863, 2**63 - 1):
        seeds = scheme._seeds(windows, tokens, PhiloxKeys(secret)).tolist()
        rows = windows.astype(np.int32).tolist()
        assert seeds == [plain_seed(seeding, row, int(token), secret) for row, token in zip(rows, tokens, strict=True)]


def test_the_share_of_green_is_the_threshold():
    for gamma in (0.5, 0.25, 0.1):
        scheme = Sbw(gamma=gamma)
        assert scheme.null().mean() == int(gamma * LARGEST) / 2**31
        assert scheme.null().mean() < gamma
        words = seeded_words(np.arange(1, 40_001).astype(np.uint64), np.arange(40_000) % 500)
        share = np.mean((words & LARGEST) < scheme.threshold)
        assert share == pytest.approx(gamma, abs=5 * math.sqrt(gamma * (1 - gamma) / 40_000))


def test_the_first_id_of_a_context_does_not_count():
    scheme, key = Sbw(), keyed(Sbw(), PeerKey(12345))
    windows = np.array([[1, 2, 3, 4], [9, 2, 3, 4], [9, 4, 3, 2], [9, 4, 3, 5]], np.uint32)
    codes = scheme.codes(windows, np.full(4, 7), key)
    # The least of three products does not depend on their order either.
    assert codes[0] == codes[1] == codes[2]
    left = Sbw(seeding="lefthash", context_width=4)
    codes = left.codes(windows, np.full(4, 7), key)
    assert len(set(codes.tolist())) == 3
    assert codes.tolist() == left.codes(windows[:, ::-1], np.full(4, 7), key).tolist()


def test_equal_seeds_are_scored_once_although_contexts_differ():
    """On templated text, where contexts differ and seeds do not: the count of vLLM's rule is far too large."""
    profile, key = Profile.create("vllm-sbw"), PeerKey(99)
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(1000, 2000, 60), *(np.full(60, word) for word in (5, 6, 7, 8))], axis=1).reshape(-1)
    windows, tokens, batch, candidate = chosen(profile, key, ids)
    assert len(tokens) < 150 < len(batch.items.tokens)
    assert len(set(profile.scheme.codes(windows, tokens, candidate.prf).tolist())) == len(tokens)


def test_p_values_of_templated_text_are_valid_and_those_of_plain_counts_are_not():
    profile, ours, theirs = Profile.create("vllm-sbw"), [], []
    rng = np.random.default_rng(1)
    phrase = [5, 6, 7, 8, 9, 10]
    for _ in range(150):
        key = profile.scheme.draw(rng)
        ids = np.concatenate([[number, *phrase] for number in rng.integers(1000, 9000, 30)])
        batch, candidate = Batch([Document(ids)], profile), Candidate.of(profile, key)
        green = profile.scheme.score(batch.items.windows, batch.items.tokens, candidate.prf)
        theirs.append(stats.norm.sf((green.sum() - 0.5 * len(green)) / math.sqrt(0.25 * len(green))))
        ours.append(math.exp(Detector([candidate], corpus=False).test([Document(ids)])[0].evidence.log_p[0]))
    assert np.mean(np.array(ours) < 0.01) <= 0.04
    assert np.mean(np.array(theirs) < 0.01) > 0.04


@pytest.mark.parametrize("parameters", [
    {}, {"seeding": "lefthash"}, {"seeding": "lefthash", "context_width": 4}, {"gamma": 0.25, "context_width": 2},
])
def test_marked_text_is_found_and_other_text_is_not(parameters):
    profile, key = Profile.create("vllm-sbw", {"delta": 4.0, **parameters}), PeerKey(0x1234567890ABCDEF)
    ids = marked(profile.scheme, key, 150)
    assert detect_ids(ids, profile, key).log10_p < -12
    assert detect_ids(ids, profile, PeerKey(424243)).log10_p > -3
    assert detect_ids(np.random.default_rng(3).integers(0, 300, 150), profile, key).log10_p > -3


def test_the_detector_of_vllm_does_not_find_lefthash():
    """Its generator seeds with the sum of the ids and its detector with the sum of their hashes."""
    scheme, secret = Sbw(seeding="lefthash", delta=8.0), 0x1234567890ABCDEF
    profile = Profile.create("vllm-sbw", scheme.parameters())
    windows, tokens, _, candidate = chosen(profile, PeerKey(secret), marked(scheme, PeerKey(secret), 200))
    green = scheme.score(windows, tokens, candidate.prf)
    assert green.mean() > 0.9
    hashed = np.stack([jenkins(column) for column in windows.T], axis=1).sum(1) * np.full(1, secret)
    missed = (seeded_words(hashed.view(np.uint64), tokens) & LARGEST) < scheme.threshold
    assert abs(missed.mean() - 0.5) < 4 * math.sqrt(0.25 / len(tokens))


def test_green_tokens_gain_delta_and_nothing_else_changes():
    scheme, key = Sbw(delta=1.5), keyed(Sbw(), PeerKey(8))
    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    logits[0, 3] = -math.inf
    windows = torch.tensor([[-1, -1, 4, 5], [1, 2, 3, 4]])
    out = scheme.transform(windows, logits, [key, key])
    gained = torch.nan_to_num(out - logits)
    assert set(gained.round(decimals=4).flatten().tolist()) == {0.0, 1.5}
    assert torch.isneginf(out[0, 3])
    assert 0.5 < Sbw().expected(1.0) < Sbw().expected(3.0) < Sbw().expected(9.0) < 1.0


def test_defaults_are_those_of_the_engine():
    assert Sbw().parameters() == {
        "seeding": "selfhash", "context_width": 4, "gamma": 0.5, "delta": 2.0, "deduplicate_contexts": "single_turn",
    }
    assert Sbw(seeding="lefthash").width == 1
    assert Sbw().label() != Sbw(gamma=0.25).label()


@pytest.mark.parametrize(("parameters", "where"), [
    ({"seeding": "minhash"}, "seeding"), ({"context_width": 0}, "context_width"), ({"gamma": 1.0}, "gamma"),
    ({"gamma": 0.0}, "gamma"), ({"delta": 0.0}, "delta"), ({"delta": -1.0}, "delta"),
    ({"deduplicate_contexts": 1}, "deduplicate_contexts"),
])
def test_impossible_parameters_are_refused(parameters, where):
    with pytest.raises(ProfileError) as refused:
        Sbw(**parameters)
    assert refused.value.where == where


@pytest.mark.parametrize("key", [PeerKey(0), PeerKey(2**63), PeerKey(-1), PeerKey((1, 2)), PeerKey(b"12345678")])
def test_impossible_keys_are_refused(key):
    with pytest.raises(KeyFileError):
        Sbw().keyed(key)


def test_keyed_functions_keep_their_secret():
    function = Sbw().keyed(PeerKey(123456789))
    assert "123456789" not in repr(function)
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(function)
