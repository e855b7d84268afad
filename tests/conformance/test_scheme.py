"""What every registered scheme must obey. A new scheme is tested by its registry line alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from wmcheck.watermark import listed
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.rows import RowKeys, mark_rows
from wmcheck.watermark.scheme import SCHEMES, left_codes, make_scheme

ROOT = SecretKey(bytes((37 * i * i + 11 * i + 5) % 256 for i in range(32)))
CASES = [(name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples()]
UNBIASED = [case for case in CASES if SCHEMES[case[0]].unbiased]
scheme_cases = pytest.mark.parametrize(("name", "parameters"), CASES, ids=lambda value: str(value))


def keyed(scheme, tenant="a"):
    return PrfKey.derive(ROOT.tenant(tenant), scheme.label())


def windows_of(scheme, count, vocabulary, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, vocabulary, (count, scheme.width))


def transformed(scheme, windows, logits, prfs, backend="auto"):
    return scheme.transform(torch.from_numpy(windows), logits, RowKeys(prfs, backend=backend))


def all_scores(scheme, window, vocabulary, prf):
    """Scores of the whole vocabulary in one window, one column a component."""
    windows = np.repeat(window[None].astype(np.uint32), vocabulary, axis=0)
    scores = np.asarray(scheme.score(windows, np.arange(vocabulary), prf), float)
    return scores.reshape(vocabulary, -1)


@scheme_cases
def test_bias_and_score_agree_on_every_token(name, parameters):
    """Between any two equally likely tokens, the transform favours one only if its score is not smaller."""
    scheme = make_scheme(name, parameters)
    vocabulary, prf, strict = 300, keyed(scheme), 0
    for window in windows_of(scheme, 3, vocabulary):
        scores = all_scores(scheme, window, vocabulary, prf)
        pairs = [(v, (v + step) % vocabulary) for v in range(vocabulary) for step in (1, 17)]
        logits = torch.full((len(pairs), vocabulary), -math.inf)
        for row, (a, b) in enumerate(pairs):
            logits[row, [a, b]] = 0.7
        law = transformed(scheme, np.repeat(window[None], len(pairs), 0), logits, [prf] * len(pairs)).softmax(-1).numpy()
        for row, (a, b) in enumerate(pairs):
            assert law[row, a] + law[row, b] == pytest.approx(1.0, abs=1e-5)
            if (scores[a] >= scores[b]).all() and (scores[a] > scores[b]).any():
                assert law[row, a] >= law[row, b] - 1e-6, (window, a, b)
                strict += law[row, a] > law[row, b] + 1e-6
    assert strict > 225 * 0.75 ** scores.shape[1]


@scheme_cases
def test_signal_sits_on_the_scored_token_and_nowhere_else(name, parameters):
    """The transformed law has a high mean score; shifted by one token id, or under another window, it has the null's."""
    scheme = make_scheme(name, parameters)
    vocabulary, count = 257, 300
    prf, null = keyed(scheme), scheme.null()
    windows = windows_of(scheme, count, vocabulary, seed=1)
    law = transformed(scheme, windows, torch.zeros(count, vocabulary), [prf] * count).softmax(-1).double().numpy()
    tables = np.stack([null.reduce(np.squeeze(all_scores(scheme, w, vocabulary, prf))) for w in windows])
    spread = math.sqrt(null.variance())
    hit = (law * tables).sum(1).mean()
    assert hit > null.mean() + 0.2 * spread
    bound = 6 * spread / math.sqrt(count)
    if scheme.width == 0:
        # One list for all windows: the same few hundred coins decide every row.
        bound = 6 * spread / math.sqrt(vocabulary)
    assert abs((law * np.roll(tables, 1, axis=1)).sum(1).mean() - null.mean()) < bound
    if scheme.width:
        assert abs((law * np.roll(tables, 1, axis=0)).sum(1).mean() - null.mean()) < bound


@scheme_cases
def test_expected_score_is_a_fair_plan(name, parameters):
    """`expected` is the mean score of sampled tokens when 16 tokens are equally likely (4 bits), within 15% of the shift."""
    scheme = make_scheme(name, parameters)
    prf, null, count = keyed(scheme, "plan"), scheme.null(), 1500
    windows = windows_of(scheme, count, 100_000, seed=2)
    law = transformed(scheme, windows, torch.zeros(count, 16), [prf] * count).softmax(-1).double().numpy()
    tables = np.stack([null.reduce(np.squeeze(all_scores(scheme, w, 16, prf))) for w in windows])
    measured, planned = (law * tables).sum(1).mean(), scheme.expected(4.0)
    if scheme.width:
        assert measured - null.mean() == pytest.approx(planned - null.mean(), rel=0.15)


@scheme_cases
def test_keys_are_independent(name, parameters):
    scheme = make_scheme(name, parameters)
    count = 40_000
    windows = windows_of(scheme, count, 50_000, seed=3).astype(np.uint32)
    tokens = np.random.default_rng(4).permutation(200_000)[:count]
    reduce = scheme.null().reduce
    one, other = (reduce(scheme.score(windows, tokens, keyed(scheme, who))) for who in ("a", "b"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(count)
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 5 / math.sqrt(count)


@scheme_cases
def test_null_is_the_law_of_independent_text(name, parameters):
    scheme = make_scheme(name, parameters)
    null, count, n = scheme.null(), 120_000, 40
    windows = windows_of(scheme, count, 50_000, seed=5).astype(np.uint32)
    tokens = np.random.default_rng(6).permutation(200_000)[:count]
    scores = null.reduce(scheme.score(windows, tokens, keyed(scheme)))
    assert scores.mean() == pytest.approx(null.mean(), abs=5 * math.sqrt(null.variance() / count))
    assert scores.var() == pytest.approx(null.variance(), rel=0.04)
    sums = scores.reshape(-1, n).sum(1)
    p = np.exp(null.log_sf(sums, np.full(len(sums), n)))
    for level in (0.5, 0.1, 0.01):
        assert (p <= level).mean() <= level + 5 * math.sqrt(level * (1 - level) / len(sums))
    assert (p <= 0.5).mean() > 0.35


@pytest.mark.parametrize(("name", "parameters"), UNBIASED, ids=str)
@pytest.mark.parametrize("spread", [0.3, 2.5])
def test_unbiased_schemes_keep_the_expected_law(name, parameters, spread):
    """Over 6,000 keys (contexts under one key are as good as keys) the mean law is the model's."""
    scheme = make_scheme(name, parameters)
    vocabulary, count = 23, 6000
    logits = torch.from_numpy(np.random.default_rng(7).normal(0, spread, vocabulary)).float()
    prfs = [keyed(scheme, f"tenant {i}") for i in range(60)]
    windows = windows_of(scheme, count, 10**6, seed=8)
    law = transformed(scheme, windows, logits.repeat(count, 1), [prfs[i % 60] for i in range(count)]).softmax(-1).double()
    model = logits.softmax(-1).double()
    # A variable in [0, 1] with mean p has at most the variance p (1 - p).
    error = (model * (1 - model) / count).sqrt()
    assert torch.all((law.mean(0) - model).abs() < 5 * error + 5 / count)


@scheme_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks_dtypes_and_purity(name, parameters, dtype):
    scheme = make_scheme(name, parameters)
    vocabulary, prfs = 101, [keyed(scheme), keyed(scheme, "b"), keyed(scheme)]
    logits = (torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    logits[:, ::3] = -math.inf
    logits[2, :] = -math.inf
    logits[2, 5] = 1.0
    before, windows = logits.clone(), windows_of(scheme, 3, vocabulary)
    out = transformed(scheme, windows, logits, prfs)
    assert torch.equal(logits, before)
    assert out.dtype == dtype
    assert torch.isneginf(out[torch.isneginf(logits)]).all()
    assert not torch.isnan(out).any()
    assert out[2].argmax() == 5
    assert out[2].softmax(-1)[5] == 1
    alone = transformed(scheme, windows[1:2], logits[1:2], prfs[1:2])
    assert torch.equal(alone[0], out[1])


@scheme_cases
def test_tensor_backend_gives_the_same_law(name, parameters):
    """The path of other devices, run on the CPU: equal bits, so equal logits."""
    scheme = make_scheme(name, parameters)
    prfs = [keyed(scheme, f"t{i}") for i in range(4)]
    logits = torch.randn(4, 203, generator=torch.Generator().manual_seed(1))
    windows = windows_of(scheme, 4, 203)
    torch.testing.assert_close(
        transformed(scheme, windows, logits, prfs, "torch"), transformed(scheme, windows, logits, prfs), rtol=1e-6, atol=1e-6
    )


@scheme_cases
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; tests/unit/test_triton.py has the interpreter")
def test_a_gpu_gives_the_same_law(name, parameters):
    scheme = make_scheme(name, parameters)
    prfs = [keyed(scheme, f"t{i}") for i in range(4)]
    logits = torch.randn(4, 5003, generator=torch.Generator().manual_seed(1))
    windows, found = torch.from_numpy(windows_of(scheme, 4, 203)), logits.cuda()
    mark_rows(scheme, windows.cuda(), found, RowKeys(prfs, "cuda"))
    torch.testing.assert_close(found.cpu(), scheme.transform(windows, logits, RowKeys(prfs)), rtol=1e-6, atol=1e-6)


@scheme_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_with_few_finite_logits_get_the_same_law(name, parameters, dtype, monkeypatch):
    """After top-k: rows with lists of different lengths, ties, one candidate or none, beside rows that are dense."""
    scheme, counts, vocabulary = make_scheme(name, parameters), (100, 3, 1, 0, 900, 40), 900
    prfs = [keyed(scheme, f"t{i % 3}") for i in range(6)]
    order = torch.rand(6, vocabulary, generator=torch.Generator().manual_seed(2)).argsort(1)
    logits = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(3)).round(decimals=1).to(dtype)
    logits[order >= torch.tensor(counts)[:, None]] = -math.inf
    windows = windows_of(scheme, 6, vocabulary)
    found = transformed(scheme, windows, logits, prfs)
    assert torch.isneginf(found[torch.isneginf(logits)]).all()
    monkeypatch.setattr(listed, "SPARSE", vocabulary + 1)
    whole = transformed(scheme, windows, logits, prfs)
    torch.testing.assert_close(found[3], logits[3])
    law, expected = (out[[0, 1, 2, 4, 5]].double().softmax(1) for out in (found, whole))
    torch.testing.assert_close(law, expected, rtol=0, atol=1e-6 if dtype in (torch.float32, torch.float64) else 1e-2)


@scheme_cases
def test_rows_are_marked_in_place_and_others_left(name, parameters):
    scheme, rows = make_scheme(name, parameters), torch.tensor([4, 0, 3])
    prfs = [keyed(scheme, f"t{i}") for i in range(3)]
    before = torch.randn(6, 203, generator=torch.Generator().manual_seed(1))
    windows, logits = torch.from_numpy(windows_of(scheme, 3, 203)), before.clone()
    mark_rows(scheme, windows, logits, RowKeys(prfs), rows)
    assert torch.equal(logits[rows], scheme.transform(windows, before[rows], RowKeys(prfs)))
    assert torch.equal(logits[[1, 2, 5]], before[[1, 2, 5]])
    whole = before[rows]
    mark_rows(scheme, windows, whole, RowKeys(prfs), torch.arange(3))
    assert torch.equal(whole, logits[rows])


@scheme_cases
def test_codes_tell_effective_items_apart(name, parameters):
    """Equal codes exactly where the keyed function sees the same input: duplicates share a score, codes never split them."""
    scheme = make_scheme(name, parameters)
    prf = keyed(scheme)
    windows = windows_of(scheme, 5000, 3, seed=9).astype(np.uint32)
    tokens = np.random.default_rng(10).integers(0, 3, 5000)
    codes = scheme.codes(windows, tokens, prf)
    scores = np.asarray(scheme.score(windows, tokens, prf)).reshape(5000, -1)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    assert (scores == scores[first][inverse]).all()
    if scheme.key_free_selection:
        assert (codes == left_codes(windows, tokens)).all()
    raw = np.unique(np.concatenate([windows, tokens[:, None]], axis=1), axis=0)
    assert len(first) <= len(raw)
    assert (len(first) == len(raw)) == scheme.key_free_selection or scheme.width == 0


@scheme_cases
def test_profile_round_trip_has_no_key(name, parameters, tmp_path):
    profile = Profile.create(name, parameters, special_ids=(0, 2), keys=(ROOT,))
    path = tmp_path / "p.json"
    profile.save(path)
    text = path.read_text()
    assert Profile.load(path) == profile
    assert Profile.load(path).scheme.parameters() == profile.scheme.parameters()
    assert ROOT.reveal() not in text
    assert bytes((37 * i * i + 11 * i + 5) % 256 for i in range(32)).hex() not in text
    assert json.loads(text)["commitments"] == [ROOT.commitment]


@scheme_cases
def test_labels_separate_keyed_functions(name, parameters):
    scheme = make_scheme(name, parameters)
    others = {make_scheme(n, p).label() for n, p in CASES if make_scheme(n, p).width != scheme.width}
    assert scheme.label() not in others


@scheme_cases
def test_a_row_without_finite_logits_stays_masked(name, parameters):
    scheme = make_scheme(name, parameters)
    logits = torch.full((1, 40), -math.inf)
    out = transformed(scheme, windows_of(scheme, 1, 40), logits, [keyed(scheme)])
    assert not (out > -math.inf).any()
