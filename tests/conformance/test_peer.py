"""What every registered peer's contract must obey. A new contract is tested by its registry line alone."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey
from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.scheme import SCHEMES, keyed, make_scheme

CASES = [(name, parameters) for name in PEERS for parameters in PEERS[name].examples()]
peer_cases = pytest.mark.parametrize(("name", "parameters"), CASES, ids=lambda value: str(value))
# Keys that no contract takes: too large, and a list of three.
STRANGE = (PeerKey(1 << 100), PeerKey((5, 6, 1 << 100)))


def ids_below(scheme):
    return scheme.vocabulary or 4096


def distinct_items(scheme, key, count, seed, width_ids=None):
    """Windows and tokens of ``count`` items with distinct codes, as a key-free choice from random ids."""
    rng = np.random.default_rng(seed)
    high = width_ids or ids_below(scheme)
    windows = rng.integers(0, high, (2 * count, scheme.width)).astype(np.uint32)
    tokens = rng.integers(0, ids_below(scheme), 2 * count)
    _, first = np.unique(scheme.codes(windows, tokens, key), return_index=True)
    first.sort()
    return windows[first[:count]], tokens[first[:count]]


def documents_of(scheme, count, length, seed):
    rng = np.random.default_rng(seed)
    # Zipf ids: texts repeat themselves as real ones do.
    ids = rng.zipf(1.3, (count, length)) % ids_below(scheme)
    return [Document(row.astype(np.int64)) for row in ids]


@peer_cases
def test_it_says_whose_it_is(name, parameters):
    scheme = make_scheme(name, parameters)
    assert scheme.name == name
    assert name not in SCHEMES
    for text in (scheme.project, scheme.version, scheme.prf, scheme.source, scheme.ideal):
        assert isinstance(text, str)
        assert text.strip()
    assert isinstance(scheme.differs, str)
    assert "specs/" not in scheme.source + scheme.ideal + scheme.differs


@peer_cases
def test_the_parameters_rebuild_it(name, parameters, tmp_path):
    profile = Profile.create(name, parameters)
    assert make_scheme(name, profile.scheme.parameters()).parameters() == profile.scheme.parameters()
    path = tmp_path / "peer.json"
    profile.save(path)
    assert Profile.load(path) == profile
    assert json.loads(path.read_text())["prf"] == profile.scheme.prf
    assert profile.contract == f"{profile.scheme.project} {profile.scheme.version}"
    with pytest.raises(ProfileError, match="bad parameters"):
        make_scheme(name, {**parameters, "nonsense": 1})
    data = profile.to_dict() | {"prf": "another/9"}
    with pytest.raises(ProfileError, match="unknown keyed function"):
        Profile.from_dict(data)


@peer_cases
def test_keys_are_taken_or_refused_and_never_shown(name, parameters):
    scheme = make_scheme(name, parameters)
    key = scheme.draw(np.random.default_rng(1))
    assert key == scheme.draw(np.random.default_rng(1))
    assert key != scheme.draw(np.random.default_rng(2))
    function = keyed(scheme, key)
    shown = repr(function) + str(function) + repr(key) + repr(Candidate.of(Profile.create(name, parameters), key))
    numbers = [key.reveal()] if key.reveal().startswith("hex:") else [
        number for number in key.reveal().strip("[]").split(", ") if len(number) > 4
    ]
    assert numbers
    assert all(number.removeprefix("hex:") not in shown for number in numbers)
    with pytest.raises(TypeError):
        pickle.dumps(function)
    for strange in STRANGE:
        with pytest.raises(KeyFileError) as refused:
            keyed(scheme, strange)
        assert str(1 << 100) not in str(refused.value)
    with pytest.raises(KeyFileError):
        keyed(scheme, SecretKey.new().tenant())


@peer_cases
def test_equal_codes_are_equal_scores(name, parameters):
    scheme = make_scheme(name, parameters)
    function = keyed(scheme, scheme.draw(np.random.default_rng(3)))
    rng = np.random.default_rng(9)
    windows = rng.integers(0, 3, (1500, scheme.width)).astype(np.uint32)
    tokens = rng.integers(0, 3, 1500)
    codes = scheme.codes(windows, tokens, function)
    scores = np.asarray(scheme.score(windows, tokens, function)).reshape(1500, -1)
    again = np.asarray(scheme.score(windows[::-1], tokens[::-1], function)).reshape(1500, -1)[::-1]
    assert (scores == again).all()
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    assert (scores == scores[first][inverse]).all()
    assert len(np.asarray(scheme.score(windows[:0], tokens[:0], function))) == 0


@peer_cases
def test_sums_of_independent_items_follow_the_null(name, parameters):
    scheme = make_scheme(name, parameters)
    if hasattr(scheme, "evaluate"):
        pytest.skip("judges a text as a whole: see the tests on documents")
    null, n, keys = scheme.null(), 40, 8
    scores = []
    for number in range(keys):
        function = keyed(scheme, scheme.draw(np.random.default_rng(100 + number)))
        windows, tokens = distinct_items(scheme, function, 1200, number)
        scores.append(null.reduce(scheme.score(windows, tokens, function)))
    found = np.concatenate(scores)
    error = math.sqrt(null.variance() / len(found))
    assert found.mean() < null.mean() + 5 * error
    assert found.mean() > null.mean() - 0.02 * max(null.mean(), 0.1) - 5 * error
    sums = np.concatenate([part[: len(part) // n * n].reshape(-1, n).sum(1) for part in scores])
    p = np.exp(null.log_sf(sums, np.full(len(sums), n)))
    for level in (0.5, 0.1, 0.01):
        assert (p <= level).mean() <= level + 5 * math.sqrt(level * (1 - level) / len(sums))
    assert (p <= 0.5).mean() > 0.25


@peer_cases
def test_unmarked_texts_have_super_uniform_p_values(name, parameters):
    """Zipf texts, a few under each key, by the whole pipeline."""
    profile = Profile.create(name, parameters)
    documents, log_p, each = documents_of(profile.scheme, 120, 60, 5), [], 6
    for start in range(0, len(documents), each):
        key = profile.scheme.draw(np.random.default_rng(1000 + start))
        found = Detector([Candidate.of(profile, key)], corpus=False).test(documents[start : start + each])[0].evidence
        assert found.n.min() > 0
        log_p += found.log_p.tolist()
    assert max(log_p) <= 0.0
    for level in (0.5, 0.1, 0.01):
        share = np.mean(np.array(log_p) <= math.log(level))
        assert share <= level + 4.5 * math.sqrt(level * (1 - level) / len(documents))


@peer_cases
def test_batches_and_corpora_do_not_change_a_document(name, parameters):
    profile = Profile.create(name, parameters)
    candidate = Candidate.of(profile, profile.scheme.draw(np.random.default_rng(7)))
    documents = documents_of(profile.scheme, 5, 40, 6)
    detector = Detector([candidate])
    together = detector.test(documents)[0]
    for place, document in enumerate(documents):
        alone = Detector([candidate], corpus=False).test([document])[0]
        assert alone.evidence.log_p[0] == pytest.approx(together.evidence.log_p[place], rel=1e-9, abs=1e-12)
        assert alone.evidence.n[0] == together.evidence.n[place]
    test = detector.corpus()[0]
    assert test.log10_p <= 0
    assert test.contract == profile.contract
    assert (test.n_scored == 0) == getattr(profile.scheme, "whole", False)
    results = detector.detections([together], 0)
    assert results[0].null
    assert profile.scheme.ideal in results[0].assumptions


@peer_cases
def test_the_prompt_is_never_scored(name, parameters):
    """Text that quotes its prompt says nothing about who wrote it."""
    profile = Profile.create(name, parameters)
    if getattr(profile.scheme, "whole", False):
        pytest.skip("places are keyed, not contexts")
    candidate = Candidate.of(profile, profile.scheme.draw(np.random.default_rng(8)))
    ids = documents_of(profile.scheme, 1, 60, 7)[0].ids
    quoted = np.concatenate([ids, ids])
    found = Detector([candidate], corpus=False).test([Document(quoted, 60)])[0].evidence
    # Only the first windows of the quotation, which the prompt does not hold, are new.
    assert found.n[0] <= 2 * profile.scheme.width + 1


@peer_cases
def test_transform_and_score_agree(name, parameters):
    scheme = make_scheme(name, parameters)
    if not hasattr(scheme, "transform"):
        pytest.skip("generation is not part of this contract")
    vocabulary, count = ids_below(scheme), 60
    rng = np.random.default_rng(11)
    windows = rng.integers(0, vocabulary, (count, scheme.width))
    functions = [keyed(scheme, scheme.draw(np.random.default_rng(50 + row % 3))) for row in range(count)]
    logits = torch.from_numpy(rng.normal(0, 0.5, (count, vocabulary))).float()
    logits[:, ::5] = -math.inf
    before = logits.clone()
    out = scheme.transform(torch.from_numpy(windows), logits, functions)
    assert torch.equal(logits, before)
    assert out.shape == logits.shape
    assert not torch.isnan(out).any()
    assert torch.isneginf(out[torch.isneginf(logits)]).all()
    law, plain = out.double().softmax(-1).numpy(), logits.double().softmax(-1).numpy()
    gained = []
    for row in range(count):
        whole = np.repeat(windows[row : row + 1].astype(np.uint32), vocabulary, axis=0)
        raw = np.asarray(scheme.score(whole, np.arange(vocabulary), functions[row]), float).reshape(vocabulary, -1)
        if hasattr(scheme, "evaluate"):
            # Payload 0 is the one embedded where none is named; layers are summed.
            table = raw[:, 0] if "payloads" in scheme.parameters() else raw.mean(1)
        else:
            table = scheme.null().reduce(np.squeeze(raw))
        gained.append((law[row] * table).sum() - (plain[row] * table).sum())
    assert np.mean(gained) > 4 * np.std(gained) / math.sqrt(count)
    assert np.mean(gained) > 0


@peer_cases
def test_the_plan_is_above_the_null(name, parameters):
    scheme = make_scheme(name, parameters)
    plans = [scheme.expected(bits) for bits in (1.0, 2.0, 4.0)]
    assert all(math.isfinite(plan) for plan in plans)
    assert plans[0] <= plans[1] + 1e-9 <= plans[2] + 2e-9
    assert plans[2] > scheme.null().mean()
