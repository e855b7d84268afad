"""SGLang's native watermark against SGLang's own numbers."""

from __future__ import annotations

import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from wmcheck.watermark import Document, Profile, detect_ids
from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.core.tails import gamma_log_sf
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.murmur import absorbed, closed, hash_rows, state_of
from wmcheck.watermark.peers.sglang_gumbel import ABSENT, PART, SglangDual, SglangGumbel
from wmcheck.watermark.scheme import keyed

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/sglang_gumbel.json").read_text())


def plain_murmur(data: bytes) -> int:
    """MurmurHash3_x86_32 of whole words, by its published description."""
    value = 0
    for (word,) in struct.iter_unpack("<I", data):
        word = word * 0xCC9E2D51 % 2**32
        word = (word << 15 | word >> 17) % 2**32 * 0x1B873593 % 2**32
        value ^= word
        value = ((value << 13 | value >> 19) % 2**32 * 5 + 0xE6546B64) % 2**32
    value ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        value = (value ^ value >> shift) * factor % 2**32
    return value


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def rows_of(context, width):
    return np.array([[ABSENT] * (width - len(context)) + list(context)], np.uint32)


def marked(scheme, key, length, *, prompt, vocabulary=400, seed=0):
    rng, function, ids, seen = np.random.default_rng(seed), keyed(scheme, key), [], set()
    noise = torch.Generator().manual_seed(seed)
    for _ in range(length):
        context = (list(prompt) + ids)[-scheme.width :]
        logits = torch.from_numpy(rng.normal(0, 1, (1, vocabulary))).float()
        if tuple(context) not in seen:
            window = torch.from_numpy(rows_of(context, scheme.width).astype(np.int64))
            logits = scheme.transform(window, logits, [function])
        seen.add(tuple(context))
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=noise)))
    return ids


def test_murmur_is_the_published_function():
    # A known answer with seed 0, and the plain form on words of all lengths.
    assert plain_murmur(b"test") == 0xBA6BD213
    rng = np.random.default_rng(0)
    rows = rng.integers(0, ABSENT, (50, 7), dtype=np.uint32)
    for width in range(8):
        padded = rows.copy()
        padded[:, : 7 - width] = ABSENT
        expected = [plain_murmur(row[7 - width :].astype("<u4").tobytes()) for row in rows]
        assert hash_rows(padded, ABSENT).tolist() == expected
    assert closed(absorbed(state_of(1, 2), rows[:, 0]), 3).tolist() == [
        plain_murmur(struct.pack("<III", 1, 2, int(word))) for word in rows[:, 0]
    ]


def test_every_context_hash():
    assert len(VECTORS["hash_context"]) == 5
    for entry in VECTORS["hash_context"]:
        assert int(hash_rows(rows_of(entry["ctx"], 8), ABSENT)[0]) == entry["h"]


def test_every_word_and_its_uniform():
    assert len(VECTORS["watermark_hash"]) == 24
    scheme = SglangGumbel()
    for entry in VECTORS["watermark_hash"]:
        key = keyed(scheme, PeerKey(int(entry["key"], 16)))
        score = scheme.score(rows_of(entry["ctx"], 4), np.array([entry["token"]]), key)
        assert -math.expm1(-score[0]) == pytest.approx(entry["h"] / 2**32, abs=1e-12)
        assert (entry["h"] + 0.5) / 2**32 == entry["u"]
        context = plain_murmur(np.array(entry["ctx"], "<u4").tobytes())
        words = numbers(int(entry["key"], 16)) + struct.pack("<II", context, entry["token"])
        assert plain_murmur(words) == entry["h"]


def test_every_coin():
    assert len(VECTORS["coin"]) == 6
    for entry in VECTORS["coin"]:
        a, b = int(entry["key_a"], 16), int(entry["key_b"], 16)
        row, token = rows_of(entry["ctx"], 4), np.array([77])
        context = plain_murmur(np.array(entry["ctx"], "<u4").tobytes())
        assert plain_murmur(numbers(a, b) + struct.pack("<I", context)) == entry["coin"]
        # The first key serves below the threshold, the second at it.
        for threshold, serving in ((entry["coin"] + 1, a), (entry["coin"], b)):
            scheme = SglangDual(mixing_probability=threshold / 2**32)
            assert scheme.threshold == threshold
            score = scheme.score(row, token, keyed(scheme, PeerKey((a, b))))
            assert score == SglangGumbel().score(row, token, keyed(SglangGumbel(), PeerKey(serving)))


def test_every_detection():
    """SGLang's sum and p-value with the middle of the cells to 1e-9, and ours with the lower end."""
    assert len(VECTORS["detect"]) == 4
    for entry in VECTORS["detect"]:
        prompt, ids, theirs = entry["prompt"], entry["ids"], entry["result"]["combined"]
        dual = entry["key_b"] is not None
        values = [int(entry[name], 16) for name in ("key", "key_b") if entry[name] is not None]
        key = PeerKey(tuple(values)) if dual else PeerKey(values[0])
        profile = Profile.create("sglang-dual" if dual else "sglang-gumbel")
        candidate = Candidate.of(profile, key)
        batch = Batch([Document(np.array(prompt + ids, np.int64), len(prompt))], profile)
        kept = batch.select(candidate)
        raw = profile.scheme.score(batch.items.windows[kept], batch.items.tokens[kept], candidate.prf)
        words = np.rint(-np.expm1(-raw) * 2**32)
        middle = float(-np.log1p(-(words + 0.5) / 2**32).sum())
        n = theirs["num_contexts"]
        assert len(kept) == n
        assert middle == pytest.approx(theirs["score"], rel=1e-9)
        assert float(gamma_log_sf(middle, n)) == pytest.approx(theirs["log_p_value"], rel=1e-9)
        found = detect_ids(prompt + ids, profile, key, prompt_length=len(prompt))
        assert found.log10_p * math.log(10) == pytest.approx(theirs["log_p_value"], abs=1e-7)
        assert found.log10_p * math.log(10) >= theirs["log_p_value"]


def test_contexts_with_equal_hashes_count_once():
    """Two contexts of different ids with one hash: the last word of a context can make up for any other."""
    scheme, key = SglangGumbel(context_window=2), keyed(SglangGumbel(), PeerKey(5))
    first = np.array([[10, 20], [11, 0]], np.uint32)
    # The state before the final mixing is a bijection of the last word.
    goal = absorbed(int(absorbed(0, first[:1, 0])[0]), first[:1, 1])[0]
    state = int(absorbed(0, first[1:, 0])[0])
    word = (int(goal) - 0xE6546B64) * pow(5, -1, 2**32) % 2**32
    word = (word >> 13 | word << 19) % 2**32 ^ state
    word = word * pow(0x1B873593, -1, 2**32) % 2**32
    word = (word >> 15 | word << 17) % 2**32 * pow(0xCC9E2D51, -1, 2**32) % 2**32
    first[1, 1] = word
    assert len(set(hash_rows(first, ABSENT).tolist())) == 1
    codes = scheme.codes(first, np.array([3, 3]), key)
    assert codes[0] == codes[1]
    assert scheme.codes(first, np.array([3, 4]), key)[1] != codes[0]


def test_parts_do_not_show():
    rng = np.random.default_rng(0)
    windows, tokens = rng.integers(0, 50_000, (PART + 7, 4)).astype(np.uint32), rng.integers(0, 50_000, PART + 7)
    for scheme, key in ((SglangGumbel(), PeerKey(9)), (SglangDual(), PeerKey((9, 10)))):
        function = keyed(scheme, key)
        whole, codes = scheme.score(windows, tokens, function), scheme.codes(windows, tokens, function)
        for place in (0, PART - 1, PART, PART + 6):
            part = slice(place, place + 1)
            assert whole[place] == scheme.score(windows[part], tokens[part], function)[0]
            assert codes[place] == scheme.codes(windows[part], tokens[part], function)[0]


def test_short_contexts_need_the_prompt():
    profile, key = Profile.create("sglang-gumbel"), PeerKey(3)
    ids = list(range(20))
    assert detect_ids(ids, profile, key).n_scored == 16
    assert detect_ids([500, *ids], profile, key, prompt_length=1).n_scored == 20


@pytest.mark.parametrize(("name", "parameters", "key", "other"), [
    ("sglang-gumbel", {}, PeerKey(0x123456789ABCDEF0), PeerKey(78)),
    ("sglang-gumbel", {"context_window": 2}, PeerKey(0x123456789ABCDEF0), PeerKey(78)),
    ("sglang-dual", {}, PeerKey((2**63 + 11, 12)), PeerKey((13, 14))),
    ("sglang-dual", {"mixing_probability": 0.9}, PeerKey((2**63 + 11, 12)), PeerKey((78, 79))),
])
def test_marked_text_is_found_and_other_text_is_not(name, parameters, key, other):
    profile, prompt = Profile.create(name, parameters), [7, 8]
    ids = marked(profile.scheme, key, 50, prompt=prompt)
    found = detect_ids(prompt + ids, profile, key, prompt_length=2)
    assert found.log10_p < -20
    assert detect_ids(ids, profile, key).log10_p < -20
    assert detect_ids(prompt + ids, profile, other, prompt_length=2).log10_p > -4
    assert detect_ids(np.random.default_rng(1).integers(0, 400, 50), profile, key).log10_p > -3


def test_the_choice_is_the_best_power():
    """``argmax log(u) / p`` by brute force."""
    scheme, key = SglangGumbel(), keyed(SglangGumbel(), PeerKey(42))
    logits = torch.randn(5, 97, generator=torch.Generator().manual_seed(3))
    logits[:, ::7] = -math.inf
    windows = np.arange(20).reshape(5, 4)
    out = scheme.transform(torch.from_numpy(windows), logits, [key] * 5)
    for row in range(5):
        context = plain_murmur(windows[row].astype("<u4").tobytes())
        u = [(plain_murmur(numbers(42) + struct.pack("<II", context, token)) + 0.5) / 2**32 for token in range(97)]
        p = logits[row].double().softmax(-1).numpy()
        with np.errstate(divide="ignore"):
            assert int(out[row].argmax()) == int(np.argmax(np.log(u) / p))
    assert torch.isneginf(out[torch.isneginf(logits)]).all()


@pytest.mark.parametrize(("kind", "parameters", "where"), [
    (SglangGumbel, {"context_window": 0}, "context_window"), (SglangGumbel, {"context_window": 65}, "context_window"),
    (SglangDual, {"mixing_probability": 0.0}, "mixing_probability"),
    (SglangDual, {"mixing_probability": 1.0}, "mixing_probability"),
    (SglangDual, {"mixing_probability": "0.5"}, "mixing_probability"),
])
def test_impossible_parameters_are_refused(kind, parameters, where):
    with pytest.raises(ProfileError) as refused:
        kind(**parameters)
    assert refused.value.where == where


@pytest.mark.parametrize(("kind", "key"), [
    (SglangGumbel, PeerKey(2**64)), (SglangGumbel, PeerKey((1, 2))), (SglangGumbel, PeerKey(b"x")),
    (SglangDual, PeerKey(5)), (SglangDual, PeerKey((1, 2, 3))), (SglangDual, PeerKey((1, 2**64))), (SglangDual, PeerKey((1, -2))),
])
def test_impossible_keys_are_refused(kind, key):
    with pytest.raises(KeyFileError):
        kind().keyed(key)


def test_keyed_functions_keep_their_secret():
    function = keyed(SglangDual(), PeerKey((123456789, 987654321)))
    assert repr(function) == "MurmurKeys(2 secret)"
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(function)


def test_the_key_enters_through_32_bits():
    """Two keys with one state are one key: the low word can make up for any high one."""
    goal = state_of(1, 2)
    high = 77
    # Undo the second word's absorption, then find the low word that leads there.
    before = (goal - 0xE6546B64) * pow(5, -1, 2**32) % 2**32
    word = high * 0xCC9E2D51 % 2**32
    word = (word << 15 | word >> 17) % 2**32 * 0x1B873593 % 2**32
    state = (before >> 13 | before << 19) % 2**32 ^ word
    low = (state - 0xE6546B64) * pow(5, -1, 2**32) % 2**32
    low = (low >> 13 | low << 19) % 2**32 * pow(0x1B873593, -1, 2**32) % 2**32
    low = (low >> 15 | low << 17) % 2**32 * pow(0xCC9E2D51, -1, 2**32) % 2**32
    assert state_of(low, high) == goal
    scheme = SglangGumbel()
    windows, tokens = np.arange(40, dtype=np.uint32).reshape(10, 4), np.arange(10)
    both = [scheme.score(windows, tokens, keyed(scheme, PeerKey(key))) for key in (1 | 2 << 32, low | high << 32)]
    assert (both[0] == both[1]).all()
