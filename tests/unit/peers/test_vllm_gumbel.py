"""vLLM's native watermark against vLLM's own numbers."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

from wmcheck.watermark import Candidate, Detector, Document, Profile, detect_ids
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.core.mixed_nulls import MixedExponentialNull
from wmcheck.watermark.core.tails import gamma_log_sf
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.philox import PART, PhiloxKeys, philox, vllm_row, vllm_words
from wmcheck.watermark.peers.vllm_gumbel import EXCESS, PAD, STEPS, VllmDual, VllmGumbel, derived, forced, uniforms
from wmcheck.watermark.scheme import keyed
from wmcheck.watermark.windows import make_items

FOLDER = Path(__file__).parents[2] / "vectors/peers"
VECTORS = json.loads((FOLDER / "vllm_gumbel.json").read_text())
GOLDENS = json.loads((FOLDER / "vllm_upstream_goldens_subset.json").read_text())
NONE = np.zeros(0, np.int64)


def items_of(scheme, ids, prompt=0):
    return make_items(
        [Document(np.array(ids, np.int64), prompt)], scheme.width, NONE, window_rule=scheme.window_rule, context=scheme.context
    )


def marked(scheme, key, length, *, prompt=(), vocabulary=400, seed=0, window_rule=True):
    """Ids that the scheme chooses from random logits, as the engine does: repeats of a context are sampled ordinarily."""
    rng, function = np.random.default_rng(seed), keyed(scheme, key)
    noise, ids, seen = torch.Generator().manual_seed(seed), [], set()
    for _ in range(length):
        window = ([-1] * scheme.width + ids)[-scheme.width :] if scheme.context.own else (list(prompt) + ids)[-scheme.width :]
        logits = torch.from_numpy(rng.normal(0, 1, (1, vocabulary))).float()
        if not (window_rule and tuple(window) in seen):
            logits = scheme.transform(torch.tensor([window]), logits, [function])
        seen.add(tuple(window))
        ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=noise)))
    return ids


def plain_philox(counter, key):
    for number in range(10):
        if number:
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        one, two = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [two >> 32 ^ counter[1] ^ key[0], two % 2**32, one >> 32 ^ counter[3] ^ key[1], one % 2**32]
    return counter


def test_philox_is_the_published_function():
    # Known answers of the authors' library, Random123.
    for counter, key, answer in (
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
         [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ):
        words, _ = philox([np.full(3, word, np.uint64) for word in counter], *key, np.empty(3, np.uint64))
        assert [word.tolist() for word in words] == [[word] * 3 for word in answer]
        assert plain_philox(counter, key) == answer


def test_parts_do_not_show():
    rng = np.random.default_rng(0)
    windows, tokens = rng.integers(0, 50_000, (PART + 7, 6)).astype(np.uint32), rng.integers(0, 50_000, PART + 7)
    whole = vllm_words(windows, tokens, 99)
    for place in (0, PART - 1, PART, PART + 6):
        assert whole[place] == vllm_words(windows[place : place + 1], tokens[place : place + 1], 99)[0]
    assert vllm_row(windows[3], 11, 99).tolist() == vllm_words(np.repeat(windows[3:4], 11, 0), np.arange(11), 99).tolist()


def test_every_uniform_of_vllm():
    entries, count = VECTORS["uniform"], 0
    for entry in entries:
        window = np.array(entry["context"], np.int64).astype(np.uint32)
        tokens = np.array(entry["tokens"])
        found = uniforms(vllm_words(np.repeat(window[None], len(tokens), 0), tokens, int(entry["key"])))
        assert found.astype(float).tolist() == entry["u"]
        assert uniforms(vllm_row(window, 151_936, int(entry["key"])))[tokens].astype(float).tolist() == entry["u"]
        count += len(tokens)
    assert (len(entries), count) == (25, 225)


def test_every_derived_key():
    assert len(VECTORS["derive"]) == 5
    for entry in VECTORS["derive"]:
        secret = int(entry["key"]).to_bytes(8, "big")
        assert [derived(secret, b"key_a"), derived(secret, b"key_b")] == [int(entry["key_a"]), int(entry["key_b"])]
        assert VllmDual().keyed(PeerKey(int(entry["key"]))).values == (int(entry["key_a"]), int(entry["key_b"]))


def test_every_choice():
    assert len(VECTORS["argmax"]) == 1
    for entry in VECTORS["argmax"]:
        logits = torch.tensor(entry["logits"])
        windows, keys = torch.tensor(entry["contexts"]), [PhiloxKeys(int(entry["key"]))] * len(logits)
        out = VllmGumbel(context_width=windows.shape[1]).transform(windows, logits, keys)
        assert out.argmax(1).tolist() == entry["token"]
        assert (out.sort(1).values[:, -2] <= -80).all()


def test_every_detection():
    """The sum to 1e-9, vLLM's p-value from it to 1e-9, and ours, which adds the grid."""
    kinds = []
    for entry in VECTORS["detect"]:
        dual = entry["algo"] == "dual"
        # Without deduplication the contexts of these texts repeat nowhere together with their token.
        scope = {"deduplicate_contexts": "single_turn" if entry.get("dedup", True) else "none"}
        scheme = VllmDual(alpha=entry["alpha"], **scope) if dual else VllmGumbel(**scope)
        items, key = items_of(scheme, entry["ids"]), PeerKey(int(entry["key"]))
        raw = scheme.score(items.windows, items.tokens, scheme.keyed(key))
        n, total = entry["n"], float((raw @ [1 - entry["alpha"], entry["alpha"]] if dual else raw).sum())
        assert len(items.tokens) == n
        assert total == pytest.approx(entry["score"], rel=1e-9)
        if dual:
            variance = (1 - scheme.alpha) ** 2 + scheme.alpha**2
            assert float(special.gammaincc(n / variance, total / variance)) == pytest.approx(entry["p"], rel=1e-9)
            exact = float(MixedExponentialNull((1 - scheme.alpha, scheme.alpha)).log_sf(total, n))
        else:
            exact = float(gamma_log_sf(total, n))
            assert math.exp(exact) == pytest.approx(entry["p"], rel=1e-9)
        profile = Profile.create(scheme.name, scheme.parameters())
        found = detect_ids(entry["ids"], profile, key)
        assert found.n_scored == n
        # Proven, and dearer by at most the tail's slope times the excess.
        ours = found.log10_p * math.log(10)
        assert exact <= ours + 1e-12
        assert ours - exact < 2 * n * EXCESS * max(1.0, total / n)
        kinds.append((entry["algo"], entry.get("dedup")))
    assert len(kinds) == 12
    assert len(set(kinds)) == 3


def test_every_golden_of_vllm():
    assert len(GOLDENS["cases"]) == 4
    for case in GOLDENS["cases"]:
        scheme = VllmGumbel(
            context_width=case["context_width"], deduplicate_contexts="single_turn" if case["dedup"] else "none"
        )
        items = items_of(scheme, case["ids"])
        total = float(scheme.score(items.windows, items.tokens, PhiloxKeys(int(case["key"]))).sum())
        assert len(items.tokens) == case["n"]
        assert total == pytest.approx(case["score"], rel=1e-9)
        assert float(gamma_log_sf(total, case["n"])) == pytest.approx(math.log(case["p"]), rel=1e-9)
        found = detect_ids(case["ids"], Profile.create("vllm-gumbel", scheme.parameters()), PeerKey(int(case["key"])))
        assert found.log10_p == pytest.approx(math.log10(case["p"]), rel=1e-5, abs=1e-5)


def test_scores_are_below_an_exponential_and_the_grid_term():
    """Every one of the 2^24 values: P(score >= s) <= exp(-(s - excess)), that is 1 - u >= (N - m) / (N + 1)."""
    for start in range(0, STEPS, 1 << 20):
        steps = np.arange(start, start + (1 << 20), dtype=np.int64)
        u = uniforms((steps << 8).astype(np.uint32)).astype(np.float64)
        # u <= (m + 1) / (N + 1) in whole numbers: u is a multiple of 2^-48.
        scaled = u * 2.0**48
        assert (scaled == np.rint(scaled)).all()
        low, high = scaled.astype(np.int64) & 0xFFFFFF, scaled.astype(np.int64) >> 24
        # (high 2^24 + low) (N + 1) <= (m + 1) 2^48, with N = 2^24, divided by 2^24.
        assert (high * (STEPS + 1) + low + np.ceil(low / STEPS) <= (steps + 1) << 24).all()


def test_the_first_tokens_do_not_depend_on_the_prompt():
    scheme = VllmGumbel()
    alone, after = items_of(scheme, [5, 6, 7, 8, 9]), items_of(scheme, [1, 2, 5, 6, 7, 8, 9], 2)
    assert alone.windows[0].tolist() == [PAD] * 4
    assert after.windows[after.scored].tolist() == alone.windows.tolist()
    # Under "all" the first four are not marked; what the prompt holds is not either.
    every = VllmGumbel(deduplicate_contexts="all")
    assert items_of(every, [5, 6, 7, 8, 9]).windows.tolist() == [[5, 6, 7, 8]]
    quoting = items_of(every, [1, 2, 3, 4, 9, 9, 1, 2, 3, 4, 5], 5)
    assert [1, 2, 3, 4] not in quoting.windows[quoting.scored].tolist()
    assert items_of(VllmGumbel(deduplicate_contexts="none"), [3] * 9).scored.sum() == 9
    assert items_of(scheme, [3] * 9).scored.sum() == 5


@pytest.mark.parametrize(("name", "parameters"), [
    ("vllm-gumbel", {}), ("vllm-gumbel", {"deduplicate_contexts": "all"}), ("vllm-gumbel", {"context_width": 2}),
    ("vllm-dual", {}), ("vllm-dual", {"alpha": 0.5}), ("vllm-dual", {"alpha": 1.0}),
])
def test_marked_text_is_found_and_other_text_is_not(name, parameters):
    profile, key = Profile.create(name, parameters), PeerKey(0xFEEDFACECAFEBEEF)
    prompt = [1, 2, 3, 4, 5, 6]
    ids = marked(profile.scheme, key, 60, prompt=prompt)
    found = detect_ids(prompt + ids, profile, key, prompt_length=len(prompt))
    assert found.log10_p < -10
    assert found.n_scored >= 50
    assert detect_ids(prompt + ids, profile, PeerKey(77), prompt_length=len(prompt)).log10_p > -3
    assert detect_ids(np.random.default_rng(0).integers(0, 400, 60), profile, key).log10_p > -3


def test_repeats_count_once_whatever_the_engine_did():
    profile, key = Profile.create("vllm-gumbel", {"deduplicate_contexts": "none"}), PeerKey(5)
    ids = marked(profile.scheme, key, 30)
    once, twice = detect_ids(ids, profile, key), detect_ids(ids + ids, profile, key)
    assert twice.n_scored <= once.n_scored + 4
    assert twice.log10_p == pytest.approx(once.log10_p, abs=4)


def test_a_dual_choice_is_a_draw_between_two_keys():
    scheme, key = VllmDual(alpha=0.25), VllmDual().keyed(PeerKey(9))
    logits, windows = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)), torch.arange(24).reshape(6, 4)
    law = scheme.transform(windows, logits, [key] * 6).softmax(-1)
    for place, share in ((0, 0.75), (1, 0.25)):
        one = VllmGumbel().transform(windows, logits, [PhiloxKeys(key.values[place])] * 6).argmax(1, keepdim=True)
        assert (law.gather(1, one) >= share - 1e-6).all()
    masked = torch.full((1, 50), -math.inf)
    assert torch.isneginf(scheme.transform(windows[:1], masked, [key])).all()
    assert torch.isneginf(forced(masked, torch.zeros((1, 1), dtype=torch.int64))).all()


def test_plans():
    assert VllmGumbel().expected(0.0) == pytest.approx(1.0)
    assert VllmGumbel().expected(80.0) == pytest.approx(80 * math.log(2))
    assert VllmDual(alpha=0.0).expected(3.0) == pytest.approx(VllmGumbel().expected(3.0))
    assert VllmDual(alpha=0.5).expected(0.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "parameters", "where"), [
    (VllmGumbel, {"context_width": 0}, "context_width"), (VllmGumbel, {"context_width": 4.0}, "context_width"),
    (VllmGumbel, {"deduplicate_contexts": "some"}, "deduplicate_contexts"),
    (VllmGumbel, {"deduplicate_contexts": ["all"]}, "deduplicate_contexts"),
    (VllmDual, {"alpha": -0.1}, "alpha"), (VllmDual, {"alpha": 0.001}, "alpha"), (VllmDual, {"alpha": 1.5}, "alpha"),
    (VllmDual, {"alpha": True}, "alpha"), (VllmDual, {"alpha": "0.1"}, "alpha"),
])
def test_impossible_parameters_are_refused(kind, parameters, where):
    with pytest.raises(ProfileError) as refused:
        kind(**parameters)
    assert refused.value.where == where


@pytest.mark.parametrize("key", [PeerKey(2**64), PeerKey(-1), PeerKey((1, 2)), PeerKey(b"12345678")])
def test_impossible_keys_are_refused(key):
    for kind in (VllmGumbel, VllmDual):
        with pytest.raises(KeyFileError):
            kind().keyed(key)


def test_keyed_functions_keep_their_secret():
    function = VllmDual().keyed(PeerKey(123456789))
    assert repr(function) == "PhiloxKeys(2 secret)"
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(function)
    assert VllmGumbel().label() != VllmDual().label() != VllmDual(alpha=0.2).label()


def test_batches_agree_with_single_texts():
    candidate = Candidate.of(Profile.create("vllm-dual"), PeerKey(3))
    documents = [Document(np.random.default_rng(seed).integers(0, 99, 30 + seed)) for seed in range(5)]
    together = Detector([candidate], corpus=False).test(documents)[0].evidence.log_p
    alone = [float(Detector([candidate], corpus=False).test([document])[0].evidence.log_p[0]) for document in documents]
    assert together == pytest.approx(alone, rel=1e-10)
