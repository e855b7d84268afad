"""MPAC against the project's own numbers, its decoding by brute force and its p-values by sampling."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from wmcheck.watermark import Candidate, Detector, Document, Profile
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError
from wmcheck.watermark.core.payload_nulls import largest_counts_log_sf
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.mpac import Mpac
from wmcheck.watermark.scheme import make_scheme

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/mpac.json").read_text())
# The key and the vocabulary of the recorded cases.
KEY, VOCABULARY = PeerKey(15485863), 100


def test_every_case_of_the_project():
    cases = VECTORS["cases"]
    assert len(cases) == 5
    for case in cases:
        scheme = Mpac(vocabulary=VOCABULARY, bits=len(case["message"]), payload=int(case["message"], 2))
        key, window = scheme.keyed(KEY), np.array([case["ctx"]], np.uint32)
        digits = scheme.digits(scheme.payload)
        assert "".join(map(str, digits)) == case["converted"]
        position = int(key.positions(window, scheme.positions)[0])
        assert position + 1 == case["position"]
        assert digits[position] == case["digit"]
        windows = np.repeat(window, VOCABULARY, 0)
        colours = scheme.colours(windows, np.arange(VOCABULARY), key)
        for colour, first in enumerate(case["colors_first5"]):
            assert len(first) == 5
            assert (colours[first] == colour).all()
        assert sorted(case["greenlist"]) == np.flatnonzero(colours == case["digit"]).tolist()
        assert np.flatnonzero(scheme.score(windows, np.arange(VOCABULARY), key)).tolist() == np.flatnonzero(colours == 0).tolist()
        gained = scheme.transform(torch.from_numpy(window.astype(np.int64)), torch.zeros(1, VOCABULARY), [key])[0]
        assert sorted(case["greenlist"]) == torch.nonzero(gained == 2.0).flatten().tolist()


@pytest.mark.parametrize(("vocabulary", "radix"), [(100, 4), (101, 4), (103, 4), (1001, 3), (50, 2), (95, 16), (256, 16)])
def test_colours_are_torch_chunks(vocabulary, radix):
    scheme = Mpac(vocabulary=vocabulary, radix=radix)
    key = scheme.keyed(PeerKey(987654321987))
    windows = np.repeat(np.array([[3, 17]], np.uint32), vocabulary + 2, 0)
    colours = scheme.colours(windows, np.arange(vocabulary + 2), key)
    generator = torch.Generator().manual_seed(987654321987 * 17)
    for colour, ids in enumerate(torch.chunk(torch.randperm(vocabulary, generator=generator), radix)):
        assert (colours[ids.numpy()] == colour).all()
        assert len(ids) <= scheme.largest
    assert colours[vocabulary:].tolist() == [-1, -1]


def marked(scheme, key, length, seed=1):
    generator, ids, function = torch.Generator().manual_seed(seed), [5, 6], scheme.keyed(key)
    for _ in range(length):
        law = scheme.transform(torch.tensor([ids[-2:]]), torch.zeros(1, scheme.vocabulary), [function]).softmax(1)
        ids.append(int(torch.multinomial(law, 1, generator=generator)))
    return ids


@pytest.mark.parametrize(
    ("parameters", "read"), [
        ({"bits": 8, "payload": 0b10110010}, "message 10110010"), ({"bits": 5, "radix": 3, "payload": 21}, "message 10101"),
        ({"bits": 1, "radix": 2, "payload": 1}, "message 1"),
    ],
)
def test_a_marked_text_says_its_message_and_an_unmarked_one_is_not_found(parameters, read):
    profile = Profile.create("mpac", {"vocabulary": 600, "delta": 4.0, **parameters})
    ids = marked(profile.scheme, KEY, 250)
    found = detect_ids(ids, profile, KEY)
    assert found.decoded == read
    assert found.log10_p < -15
    assert found.n_scored + found.n_repeated == 250
    assert detect_ids(ids, profile, PeerKey(123456789)).log10_p > -3
    assert detect_ids([], profile, KEY).log10_p == 0.0


def test_the_evidence_by_brute_force():
    profile, rng = Profile.create("mpac", {"vocabulary": 30, "bits": 6}), np.random.default_rng(8)
    scheme, key = profile.scheme, profile.scheme.keyed(KEY)
    ids = rng.integers(0, 32, 200)
    counts, seen, shares, before = np.zeros((3, 4), int), set(), [], {}
    for place in range(2, 200):
        pair, token = ids[place - 2 : place], int(ids[place])
        seed = 15485863 * int(pair[1]) % (2**64 - 1) % 2**32
        if (seed, token) in seen or pair[1] == 0 or token >= 30:
            continue
        seen.add((seed, token))
        window = pair[None].astype(np.uint32)
        colour = scheme.colours(window, np.array([token]), key)[0]
        counts[key.positions(window, 3)[0], colour] += 1
        shares.append(min(8 / (30 - before.get(seed, 0)), 1.0))
        before[seed] = before.get(seed, 0) + 1
    found = detect_ids(ids, profile, KEY)
    assert (found.n_scored, found.total) == (counts.sum(), counts.max(1).sum())
    expected = largest_counts_log_sf(int(counts.max(1).sum()), counts.sum(1), 4, np.array(shares))
    assert found.log10_p == pytest.approx(expected / math.log(10), abs=1e-12)
    tied = [max(c for c in range(4) if row[c] == row.max()) for row in counts]
    assert found.decoded == f"message {tied[0] * 16 + tied[1] * 4 + tied[2]:06b}"


@pytest.mark.parametrize("parameters", [{"vocabulary": 40}, {"vocabulary": 401, "bits": 20}, {"vocabulary": 43, "bits": 2}])
def test_p_values_of_unmarked_texts_are_super_uniform(parameters):
    """Small vocabularies, so that many items share a permutation."""
    profile, rng, p = Profile.create("mpac", parameters), np.random.default_rng(0), []
    for _ in range(300):
        ids = rng.integers(1, 40, 60)
        candidate = Candidate.of(profile, profile.scheme.draw(rng))
        p.append(math.exp(Detector([candidate], corpus=False).test([Document(ids)])[0].evidence.log_p[0]))
    for level in (0.5, 0.1, 0.02):
        assert np.mean(np.array(p) <= level) <= level + 4 * math.sqrt(level * (1 - level) / 300)
    # Not empty either.
    assert np.mean(np.array(p) <= 0.5) > 0.05


def test_what_cannot_be_a_message_is_shown_as_digits():
    profile = Profile.create("mpac", {"vocabulary": 600, "bits": 16})
    found = detect_ids([4, 5, 6], profile, KEY)
    assert found.decoded is not None
    assert found.decoded.startswith("digits ")
    assert found.decoded.count("?") == 7
    scheme = Mpac(vocabulary=600, bits=5, radix=3)
    assert scheme.positions == 4
    assert scheme.digits(31).tolist() == [1, 0, 1, 1]
    assert scheme._read(np.array([[0, 0, 1]] * 4)) == "digits 2222 of base 3"
    assert scheme._read(np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]])) == "message 11111"


def test_what_follows_id_0_is_no_evidence():
    """Its permutation is that of seed 0 under every key."""
    profile = Profile.create("mpac", {"vocabulary": 600})
    ids = np.stack([np.zeros(50, np.int64), np.arange(1, 51)], 1).reshape(-1)
    found = detect_ids(ids, profile, KEY)
    # Of 98 tokens with two before them, 49 follow id 0.
    assert found.n_scored == 49


@pytest.mark.parametrize(
    "bad", [{"vocabulary": 1}, {"bits": 0}, {"bits": 65}, {"radix": 1}, {"radix": 17}, {"delta": 0}, {"payload": 256},
            {"payload": -1}, {"vocabulary": 5}, {"vocabulary": 33, "radix": 16}],
)
def test_bad_parameters_are_refused(bad):
    with pytest.raises(ProfileError):
        make_scheme("mpac", {"vocabulary": 100, **bad})


def test_keys_are_single_positive_integers():
    scheme = Mpac(vocabulary=100)
    for bad in (PeerKey(0), PeerKey(-5), PeerKey(2**63), PeerKey((1, 2)), PeerKey(b"abc")):
        with pytest.raises(KeyFileError):
            scheme.keyed(bad)
    function = scheme.keyed(PeerKey(424242))
    assert "424242" not in repr(function)
    with pytest.raises(TypeError):
        pickle.dumps(function)
    with pytest.raises(ConfigError, match="as wide"):
        scheme.transform(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 99), [function])


def test_plans_and_the_law_of_one_message():
    scheme = Mpac(vocabulary=1000)
    assert scheme.expected(0.0) == pytest.approx(0.25)
    assert scheme.expected(4.0) > 0.5
    assert scheme.null().mean() == pytest.approx(0.25)
    assert "4^4 messages" in scheme.null().describe(50)
