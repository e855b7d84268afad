import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from wmcheck.watermark import Profile, detect_ids
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.lm_watermarking import FREE, FUNCTIONS, SCHEMES, TABLE, TABLE_SEED, LmWatermarking
from wmcheck.watermark.peers.torch_rng import public_table, randperm

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/lm_watermarking.json").read_text())
SECRET = PeerKey(123456789123)


def digest(ids):
    return hashlib.sha256(np.asarray(ids, "<i8").tobytes()).hexdigest()


def free(prf, width=3, salt=False, **rest):
    return LmWatermarking(vocabulary=1000, seeding_scheme=FREE, prf=prf, context_width=width, self_salt=salt, **rest)


def test_the_table():
    table = public_table(TABLE, TABLE_SEED)
    assert VECTORS["fixed_table_seed"] == TABLE_SEED
    assert table[:16].tolist() == VECTORS["fixed_table_prefix"]
    assert digest(table) == VECTORS["fixed_table_sha256"]


def test_every_seed():
    checked = 0
    assert {name.removesuffix("_prf") for name in VECTORS["prf"]} == set(FUNCTIONS)
    for name, cases in VECTORS["prf"].items():
        for case in cases:
            found = FUNCTIONS[name.removesuffix("_prf")](np.array([case["ctx"]]), case["key"])
            assert int(found[0]) == int(case["value"]) % (2**64 - 1)
            checked += 1
    assert checked == 44


def test_every_named_scheme():
    assert len(VECTORS["seeding_schemes"]) == 4
    for name, (prf, width, salt, _) in VECTORS["seeding_schemes"].items():
        assert SCHEMES[name] == (prf.removesuffix("_prf"), width, salt)


def test_every_green_list():
    assert len(VECTORS["greenlists"]) == 8
    for case in VECTORS["greenlists"]:
        scheme = LmWatermarking(vocabulary=case["vocab"], gamma=case["gamma"], seeding_scheme=case["scheme"])
        key, ids = scheme.keyed(PeerKey(15485863)), np.array(case["ctx"])
        window = ids[-scheme.context_width :][None, : scheme.width]
        seed = int(key.generators(window, ids[-1:])[0])
        assert seed == int(case["seed"]) % 2**32
        green = randperm(case["vocab"], seed, scheme.listed)
        assert green[:16].tolist() == case["green_prefix"]
        assert digest(green) == case["sha256"]
        assert bool(key.green(window, ids[-1:])[0]) == case["last_in_green"]


def test_wrapping_products_are_those_of_python():
    """Ids of large vocabularies leave 64 bits: wrapped there, and the product with the key is not."""
    rng = np.random.default_rng(1)
    for key in (15485863, 2**61 - 1, 2**63 - 1):
        for ids in rng.integers(0, 2**31, (20, 6)).tolist():
            wrapped = 1
            for one in ids:
                wrapped = (wrapped * one + 2**63) % 2**64 - 2**63
            found = {name: int(FUNCTIONS[name](np.array([ids]), key)[0]) for name in ("additive", "multiplicative", "minfunc")}
            assert found == {
                "additive": key * sum(ids) % (2**64 - 1), "multiplicative": key * wrapped % (2**64 - 1),
                "minfunc": key * min(ids) % (2**64 - 1),
            }


def test_the_first_release_took_the_end_of_the_permutation():
    scheme = LmWatermarking(vocabulary=1000, gamma=0.25, select_green_tokens=False)
    key = scheme.keyed(SECRET)
    windows, tokens = np.full((1000, 1), 7), np.arange(1000)
    order = randperm(1000, int(key.generators(windows[:1], tokens[:1])[0]))
    assert sorted(order[750:].tolist()) == np.flatnonzero(key.green(windows, tokens)).tolist()
    assert scheme.score(windows.astype(np.uint32), np.arange(999, 1999), key)[1:].sum() == 0


@pytest.mark.parametrize("parameters", [
    {"seeding_scheme": "simple_1"}, {"seeding_scheme": "minhash"}, {"seeding_scheme": "skipgram"}, {"seeding_scheme": "selfhash"},
    *({"seeding_scheme": FREE, "prf": prf, "context_width": 3, "self_salt": prf == "position"} for prf in FUNCTIONS),
])
def test_marked_text_is_found_and_other_text_is_not(parameters):
    profile = Profile.create("lm-watermarking", {"vocabulary": 1000, **parameters})
    scheme, rng = profile.scheme, np.random.default_rng(0)
    key, ids = scheme.keyed(SECRET), rng.integers(1, 1000, scheme.width).tolist()
    while len(ids) < 150:
        few = rng.integers(1, 1000, 3)
        ids.append(int(few[key.green(np.repeat([ids[-scheme.width :]], 3, 0), few).argmax()]))
    assert detect_ids(ids, profile, SECRET).log10_p < -5
    assert detect_ids(ids, profile, PeerKey(987654321)).log10_p > -3
    assert detect_ids(rng.integers(0, 1000, 200), profile, SECRET).log10_p > -3


@pytest.mark.parametrize("prf", sorted(set(FUNCTIONS) - {"anchored_minhash", "noncomm"}))
def test_contexts_of_id_zero_are_one_red_item(prf):
    """Their seeds are the same under every key."""
    scheme = free(prf)
    windows, tokens = np.zeros((200, 3), np.uint32), np.arange(200)
    seeds = {int(scheme.keyed(PeerKey(key)).generators(windows[:1], tokens[:1])[0]) for key in (5, 15485863, 987654321987)}
    assert len(seeds) == 1
    key = scheme.keyed(SECRET)
    assert not scheme.score(windows, tokens, key).any()
    assert len(set(scheme.codes(windows, tokens, key).tolist())) == 1


def test_codes_are_of_seeds_and_not_of_contexts():
    scheme, rng = LmWatermarking(vocabulary=1000, seeding_scheme="minhash"), np.random.default_rng(3)
    key, windows, tokens = scheme.keyed(SECRET), rng.integers(1, 9, (4000, 4)).astype(np.uint32), rng.integers(0, 3, 4000)
    codes = scheme.codes(windows, tokens, key)
    assert len(set(codes.tolist())) <= 8 * 3
    seeds = key.generators(windows, tokens)
    assert len({*zip(seeds.tolist(), tokens.tolist(), strict=True)}) == len(set(codes.tolist()))


@pytest.mark.parametrize(("changes", "where"), [
    ({"vocabulary": 0}, "vocabulary"), ({"gamma": 1}, "gamma"), ({"delta": -1}, "delta"),
    ({"seeding_scheme": "best"}, "seeding_scheme"),
    ({"prf": "additive"}, "prf"), ({"context_width": 3}, "context_width"), ({"self_salt": True}, "self_salt"),
    ({"select_green_tokens": 1}, "select_green_tokens"), ({"seeding_scheme": FREE}, "prf"),
    ({"seeding_scheme": FREE, "prf": "sha"}, "prf"), ({"seeding_scheme": FREE, "prf": "minhash"}, "self_salt"),
    ({"seeding_scheme": FREE, "prf": "minhash", "self_salt": True}, "context_width"),
    ({"seeding_scheme": FREE, "prf": "minskipgram", "self_salt": True, "context_width": 1}, "context_width"),
])
def test_impossible_parameters(changes, where):
    with pytest.raises(ProfileError) as refused:
        LmWatermarking(**{"vocabulary": 1000, **changes})
    assert refused.value.where == where


def test_parameters_rebuild_it():
    for scheme in (free("noncomm", 4, salt=True, gamma=0.5), LmWatermarking(vocabulary=50, select_green_tokens=False)):
        assert LmWatermarking(**scheme.parameters()).parameters() == scheme.parameters()


def test_keys_are_integers_and_stay_hidden():
    scheme = LmWatermarking(vocabulary=1000)
    for bad in (PeerKey(0), PeerKey(2**63), PeerKey(b"abc"), PeerKey((4, 5))):
        with pytest.raises(KeyFileError):
            scheme.keyed(bad)
    with pytest.raises(TypeError):
        pickle.dumps(scheme.keyed(SECRET))
