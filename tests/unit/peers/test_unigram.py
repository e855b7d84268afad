import hashlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from wmcheck.watermark import Profile, detect_ids
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.unigram import Unigram

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/unigram.json").read_text())
SECRET = PeerKey(123456789123)


def test_every_list():
    assert len(VECTORS["cases"]) == 12
    for case in VECTORS["cases"]:
        scheme = Unigram(vocabulary=case["vocab"], fraction=case["fraction"])
        mask = scheme.keyed(PeerKey(case["key"])).mask
        assert mask.sum() == scheme.listed
        assert mask[: len(case["mask_prefix"])].astype(int).tolist() == case["mask_prefix"]
        assert hashlib.sha256(np.flatnonzero(mask).astype("<i8").tobytes()).hexdigest() == case["green_idx_sha256"]


def test_marked_text_is_found_by_the_exact_tail_of_distinct_ids():
    profile = Profile.create("unigram", {"vocabulary": 2000, "fraction": 0.5})
    mask, rng = profile.scheme.keyed(SECRET).mask, np.random.default_rng(0)
    pairs = rng.integers(0, 2000, (150, 2))
    ids = np.where(mask[pairs[:, 0]], pairs[:, 0], pairs[:, 1])
    found = detect_ids(np.concatenate([ids, ids[:40]]), profile, SECRET)
    distinct = np.unique(ids)
    assert found.n_scored == len(distinct)
    assert found.n_repeated == 190 - len(distinct)
    assert found.log10_p == pytest.approx(hypergeom.logsf(mask[distinct].sum() - 1, 2000, 1000, len(distinct)) / math.log(10))
    assert found.log10_p < -5
    assert detect_ids(ids, profile, PeerKey(5)).log10_p > -3
    assert detect_ids(rng.integers(0, 2000, 300), profile, SECRET).log10_p > -3


def test_ids_outside_the_vocabulary_are_red():
    scheme = Unigram(vocabulary=100, fraction=0.99)
    assert not scheme.score(np.zeros((2, 0), np.uint32), np.array([100, 2**31 - 1]), scheme.keyed(SECRET)).any()


@pytest.mark.parametrize(("changes", "where"), [
    ({"vocabulary": 1}, "vocabulary"), ({"fraction": 0}, "fraction"), ({"fraction": 1.0}, "fraction"),
    ({"fraction": 1e-5}, "fraction"), ({"strength": 0}, "strength"), ({"vocabulary": "9"}, "vocabulary"),
])
def test_impossible_parameters(changes, where):
    with pytest.raises(ProfileError) as refused:
        Unigram(**{"vocabulary": 1000, **changes})
    assert refused.value.where == where


def test_keys_are_signed_integers_and_stay_hidden():
    scheme = Unigram(vocabulary=1000)
    assert scheme.keyed(PeerKey(-5)).mask.sum() == 500
    for bad in (PeerKey(2**63), PeerKey(-(2**63) - 1), PeerKey(b"abc"), PeerKey((4, 5))):
        with pytest.raises(KeyFileError):
            scheme.keyed(bad)
    with pytest.raises(TypeError):
        pickle.dumps(scheme.keyed(SECRET))
    assert "123456789123" not in repr(scheme.keyed(SECRET))
