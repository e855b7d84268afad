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
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.markllm import MarkLlmExp, MarkLlmKgw, MarkLlmUnigram
from wmcheck.watermark.peers.torch_rng import lanes24

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/markllm.json").read_text())
SECRET = PeerKey(123456789123)


def digest(ids):
    return hashlib.sha256(np.asarray(ids, "<i8").tobytes()).hexdigest()


@pytest.mark.parametrize(("part", "count"), [("lists", 160), ("products", 30)])
def test_every_list(part, count):
    keys, checked = {}, 0
    for case in VECTORS[part]:
        names = ("vocabulary", "algorithm", "gamma", "prefix_length", "f_scheme", "window_scheme")
        parameters = {name: case[name] for name in names if name in case}
        place = (case["key"], *parameters.values())
        if place not in keys:
            scheme = MarkLlmKgw(**parameters)
            keys[place] = scheme, scheme.keyed(PeerKey(case["key"]))
        scheme, key = keys[place]
        tokens = np.arange(case["vocabulary"])
        green = np.flatnonzero(key.green(np.repeat([case["context"]], len(tokens), 0), tokens))
        assert len(green) == case["green"]
        assert green[:8].tolist() == case["first"]
        assert digest(green) == case["sha256"]
        checked += 1
    assert checked == count


def test_every_flag_of_its_detector():
    assert len(VECTORS["flags"]) == 2
    for case in VECTORS["flags"]:
        scheme = MarkLlmKgw(
            vocabulary=case["vocabulary"], gamma=case["gamma"], prefix_length=case["prefix_length"], f_scheme=case["f_scheme"]
        )
        ids, width = np.array(case["ids"]), scheme.width
        windows = np.lib.stride_tricks.sliding_window_view(ids, width)[:-1]
        green = scheme.keyed(PeerKey(case["key"])).green(windows, ids[width:])
        assert [-1] * width + green.astype(int).tolist() == case["flags"]


def test_every_uniform():
    assert len(VECTORS["uniforms"]) == 30
    for case in VECTORS["uniforms"]:
        scheme = MarkLlmExp(vocabulary=case["vocabulary"], prefix_length=case["prefix_length"])
        key, tokens = scheme.keyed(PeerKey(case["key"])), np.array(case["tokens"])
        windows = np.repeat([case["context"]], len(tokens), 0).astype(np.uint32)
        assert (lanes24(key.generators(windows), tokens) * 2.0**-24).tolist() == case["u"]
        if key.generators(windows)[0]:
            assert np.allclose(scheme.score(windows, tokens, key), -np.log1p(-np.array(case["u"])))


def test_every_mask():
    assert len(VECTORS["unigram"]) == 12
    for case in VECTORS["unigram"]:
        mask = MarkLlmUnigram(vocabulary=case["vocabulary"], gamma=case["gamma"]).keyed(PeerKey(case["key"])).mask
        assert mask.sum() == case["green"]
        assert digest(np.flatnonzero(mask)) == case["sha256"]


@pytest.mark.parametrize("parameters", [
    {}, {"prefix_length": 2, "f_scheme": "additive"}, {"prefix_length": 3, "f_scheme": "min", "gamma": 0.25},
    {"prefix_length": 2, "f_scheme": "skip", "window_scheme": "self"}, {"algorithm": "SWEET"},
    {"algorithm": "EWD", "prefix_length": 2},
])
def test_marked_text_is_found_and_other_text_is_not(parameters):
    profile = Profile.create("markllm-kgw", {"vocabulary": 1009, **parameters})
    scheme, rng = profile.scheme, np.random.default_rng(0)
    key, ids = scheme.keyed(SECRET), rng.integers(1, 1009, scheme.width).tolist()
    while len(ids) < 200:
        few = rng.integers(1, 1009, 3)
        ids.append(int(few[key.green(np.repeat([ids[-scheme.width :]], 3, 0), few).argmax()]))
    assert detect_ids(ids, profile, SECRET).log10_p < -5
    assert detect_ids(ids, profile, PeerKey(987654321)).log10_p > -3
    assert detect_ids(rng.integers(1, 1009, 300), profile, SECRET).log10_p > -3


def test_text_of_exp_is_found_and_other_text_is_not():
    profile = Profile.create("markllm-exp", {"vocabulary": 503, "prefix_length": 2})
    scheme, rng = profile.scheme, np.random.default_rng(0)
    key, ids = scheme.keyed(SECRET), [5, 7]
    while len(ids) < 80:
        logits = torch.from_numpy(rng.normal(0, 2, (1, 503)))
        out = scheme.transform(torch.tensor([ids[-2:]]), logits, [key])
        ids.append(int(out.argmax()))
    assert detect_ids(ids, profile, SECRET).log10_p < -6
    assert detect_ids(ids, profile, PeerKey(987654321)).log10_p > -3
    assert detect_ids(rng.integers(1, 503, 300), profile, SECRET).log10_p > -3


def test_the_choice_of_exp_is_the_largest_power_of_its_uniforms():
    scheme = MarkLlmExp(vocabulary=200, prefix_length=1, top_k=20)
    key, logits = scheme.keyed(SECRET), torch.randn(6, 200, generator=torch.Generator().manual_seed(1)) * 2
    windows = torch.arange(3, 9)[:, None]
    out = scheme.transform(windows, logits, [key] * 6)
    for row in range(6):
        seed = int(key.generators(windows[row : row + 1].numpy())[0])
        noise = torch.rand(200, generator=torch.Generator().manual_seed(seed))
        top = logits[row].softmax(-1).topk(20)
        chosen = top.indices[(noise[top.indices] ** (1 / top.values)).argmax()]
        assert out[row].argmax() == chosen
        assert math.exp(float(out[row].sort().values[-2])) < 1e-30


def test_a_seed_that_no_key_changes_is_one_item_without_evidence():
    """Id 0 in the context makes the product 0."""
    windows, tokens = np.array([[0, 5]] * 50 + [[7, 0]] * 50, np.uint32), np.arange(100)
    for scheme in (MarkLlmExp(vocabulary=1009, prefix_length=2), MarkLlmKgw(vocabulary=1009, algorithm="EWD", prefix_length=2)):
        key = scheme.keyed(SECRET)
        assert not scheme.score(windows, tokens, key).any()
        assert len(set(scheme.codes(windows, tokens, key).tolist())) == 1


def test_the_order_of_a_product_is_forgotten_and_codes_say_so():
    scheme = MarkLlmExp(vocabulary=1009, prefix_length=3)
    key = scheme.keyed(SECRET)
    codes = scheme.codes(np.array([[1, 2, 3], [3, 2, 1], [6, 1, 1], [1, 2, 4]], np.uint32), np.full(4, 8), key)
    assert codes[0] == codes[1] == codes[2] != codes[3]


def test_ids_outside_the_vocabulary_are_no_evidence():
    tokens = np.array([100, 2**31 - 1])
    for scheme in (MarkLlmExp(vocabulary=100, prefix_length=1), MarkLlmKgw(vocabulary=100, gamma=0.99)):
        assert not scheme.score(np.full((2, 1), 2**31 - 1, np.uint32), tokens, scheme.keyed(SECRET)).any()


@pytest.mark.parametrize(("peer", "changes", "where"), [
    (MarkLlmKgw, {"vocabulary": 1}, "vocabulary"), (MarkLlmKgw, {"gamma": 0}, "gamma"), (MarkLlmKgw, {"delta": 0}, "delta"),
    (MarkLlmKgw, {"algorithm": "UPV"}, "algorithm"), (MarkLlmKgw, {"f_scheme": "max"}, "f_scheme"),
    (MarkLlmKgw, {"window_scheme": None}, "window_scheme"), (MarkLlmKgw, {"prefix_length": 0}, "prefix_length"),
    (MarkLlmKgw, {"device": "cuda"}, "device"), (MarkLlmKgw, {"algorithm": "SWEET", "f_scheme": "min"}, "f_scheme"),
    (MarkLlmKgw, {"algorithm": "EWD", "window_scheme": "self"}, "window_scheme"), (MarkLlmUnigram, {"gamma": 1.0}, "gamma"),
    (MarkLlmUnigram, {"delta": -1}, "delta"), (MarkLlmExp, {"prefix_length": 17}, "prefix_length"),
    (MarkLlmExp, {"top_k": -1}, "top_k"), (MarkLlmExp, {"vocabulary": True}, "vocabulary"),
])
def test_impossible_parameters(peer, changes, where):
    with pytest.raises(ProfileError) as refused:
        peer(**{"vocabulary": 1000, **changes})
    assert refused.value.where == where


def test_keys_are_integers_and_stay_hidden():
    for peer in (MarkLlmKgw, MarkLlmUnigram, MarkLlmExp):
        scheme = peer(vocabulary=1000)
        for bad in (PeerKey(2**63), PeerKey(b"abc"), PeerKey((4, 5))):
            with pytest.raises(KeyFileError):
                scheme.keyed(bad)
        with pytest.raises(TypeError):
            pickle.dumps(scheme.keyed(SECRET))
        assert "123456789123" not in repr(scheme.keyed(SECRET))
