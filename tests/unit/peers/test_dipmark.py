"""DiPmark against the project's own numbers, and its score by brute force."""

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
from wmcheck.watermark.core.tails import binomial_log_sf
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.dipmark import DipMark, KeyedSeed, gains
from wmcheck.watermark.scheme import make_scheme

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/peers/dipmark.json").read_text())
KEY = PeerKey(b"a key of some bytes")


def order_of(window, key, vocabulary):
    data = np.array(window, "<i8").tobytes() + key
    seed = int(hashlib.sha256(data).hexdigest(), 16) % (2**32 - 1)
    return torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))


def test_every_reweighted_law_of_the_project():
    cases = VECTORS["cases"]
    assert len(cases) == 3
    for case in cases:
        law, order = torch.tensor(case["p"], dtype=torch.float64), torch.tensor(case["perm"])
        gain = torch.empty(len(law), dtype=torch.float64).scatter_(0, order, gains(law[order], case["alpha"]))
        assert (law * gain).tolist() == pytest.approx(case["q"], abs=1e-12)
        assert float((law * gain).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("parameters", [{}, {"width": 2, "alpha": 0.5, "gamma": 0.4}, {"gamma": 1 / 3}, {"gamma": 0.99}])
def test_scores_are_ranks_at_or_above_the_quantile(parameters):
    vocabulary = 203
    scheme = DipMark(vocabulary=vocabulary, **parameters)
    key, rng = scheme.keyed(KEY), np.random.default_rng(0)
    for window in rng.integers(0, 2**31, (5, scheme.width)):
        order = order_of(window, b"a key of some bytes", vocabulary)
        green = {int(order[rank]) for rank in range(vocabulary) if rank / vocabulary >= scheme.gamma}
        windows = np.repeat(window[None].astype(np.uint32), vocabulary + 5, 0)
        assert set(np.flatnonzero(scheme.score(windows, np.arange(vocabulary + 5), key))) == green
        assert scheme.null().mean() == pytest.approx(len(green) / vocabulary)


def test_the_transform_is_the_reweighted_law_under_the_keyed_order():
    scheme = DipMark(vocabulary=60, width=3, alpha=0.3)
    rng = np.random.default_rng(1)
    windows, logits = torch.from_numpy(rng.integers(0, 60, (20, 3))), torch.from_numpy(rng.normal(0, 2, (20, 60)))
    logits[:, :7] = -math.inf
    out = scheme.transform(windows, logits, [scheme.keyed(KEY)] * 20)
    for row in range(20):
        order = order_of(windows[row].tolist(), b"a key of some bytes", 60)
        reached = torch.cat([torch.zeros(1), logits[row].softmax(0)[order].cumsum(0)])
        moved = (reached - 0.3).clamp(min=0) + (reached - 0.7).clamp(min=0)
        expected = torch.empty(60, dtype=torch.float64).scatter_(0, order, moved.diff())
        assert torch.allclose(out[row].exp() / logits[row].exp().sum(), expected, atol=1e-12)
    nothing = torch.full((1, 60), -math.inf)
    assert torch.equal(scheme.transform(windows[:1], nothing, [scheme.keyed(KEY)]), nothing)
    assert scheme.transform(windows[:0], logits[:0], []).shape == (0, 60)
    with pytest.raises(ConfigError, match="as wide"):
        scheme.transform(windows, logits[:, 1:], [scheme.keyed(KEY)] * 20)


def test_over_keys_the_law_is_the_models():
    scheme = DipMark(vocabulary=11)
    logits, rng, count = torch.from_numpy(np.random.default_rng(2).normal(0, 1, 11)), np.random.default_rng(3), 1500
    keys = [scheme.keyed(scheme.draw(rng)) for _ in range(count)]
    mean = scheme.transform(torch.zeros(count, 5, dtype=torch.int64), logits.repeat(count, 1), keys).softmax(1).mean(0)
    model = logits.softmax(0)
    assert torch.all((mean - model).abs() < 5 * (model * (1 - model) / count).sqrt())


def test_a_marked_text_is_found_and_an_unmarked_one_is_not():
    profile = Profile.create("dipmark", {"vocabulary": 500})
    scheme, generator, ids = profile.scheme, torch.Generator().manual_seed(1), [5, 6, 7, 8, 9]
    function = scheme.keyed(KEY)
    for _ in range(300):
        law = scheme.transform(torch.tensor([ids[-5:]]), torch.zeros(1, 500), [function]).softmax(1)
        ids.append(int(torch.multinomial(law, 1, generator=generator)))
    found = detect_ids(ids, profile, KEY)
    assert found.log10_p < -20
    assert found.n_scored == 300
    assert found.log10_p == pytest.approx(float(binomial_log_sf(found.total, 300, 0.5)) / math.log(10), rel=1e-9)
    # The project's own bound is weaker than the tail.
    z = (found.total - 150) / math.sqrt(300)
    assert -2 * z * z / math.log(10) > found.log10_p
    assert found.total / 300 == pytest.approx(profile.scheme.expected(math.log2(500)), abs=0.06)
    assert detect_ids(ids, profile, PeerKey(b"another")).log10_p > -3
    assert detect_ids([], profile, KEY).log10_p == 0.0


def test_contexts_that_occurred_are_not_scored():
    profile = Profile.create("dipmark", {"vocabulary": 500, "width": 2})
    found = detect_ids([1, 2, 3, 1, 2, 4, 1, 2, 5], profile, KEY)
    assert (found.n_scored, found.n_repeated) == (5, 2)


def test_seeds_of_equal_windows_are_equal():
    key = KeyedSeed(b"x")
    windows = np.array([[1, 2], [3, 4], [1, 2]], np.uint32)
    seeds = key.seeds(windows)
    assert seeds[0] == seeds[2] != seeds[1]
    assert key.seeds(windows[:0]).shape == (0,)
    scheme = DipMark(vocabulary=50, width=2)
    codes = scheme.codes(windows, np.array([7, 7, 7]), key)
    assert codes[0] == codes[2] != codes[1]


@pytest.mark.parametrize(
    "bad", [{"vocabulary": 1}, {"vocabulary": "1"}, {"width": 0}, {"width": 17}, {"alpha": 0}, {"alpha": 0.6}, {"gamma": 0.0},
            {"gamma": 1.0}, {"gamma": -1}],
)
def test_bad_parameters_are_refused(bad):
    with pytest.raises(ProfileError):
        make_scheme("dipmark", {"vocabulary": 100, **bad})


def test_keys_are_bytes():
    scheme = DipMark(vocabulary=100)
    for bad in (PeerKey(5), PeerKey((1, 2))):
        with pytest.raises(KeyFileError):
            scheme.keyed(bad)
    function = scheme.keyed(PeerKey(b"very secret"))
    assert "secret" not in repr(function)
    with pytest.raises(TypeError):
        pickle.dumps(function)


def test_plans():
    scheme = DipMark(vocabulary=1000)
    assert scheme.expected(0.0) == pytest.approx(0.5)
    # Mass above the median of a fine law: (1/2 - (1 - 2 alpha) / 2) twice and once the rest.
    assert scheme.expected(16.0) == pytest.approx(0.05 + 2 * 0.45, abs=0.01)
