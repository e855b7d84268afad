"""The law of a served token, through the whole marker: what the request's own settings say, kept or changed by exactly delta.

The reference for temperature, top-k, top-p and min-p is written here a second time, token by token in float64.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import SCHEMES
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.sessions import Sampling, Session
from wmcheck.watermark.serving.warping import ORDER, VLLM_ORDER, cut

ROOT = SecretKey(bytes((41 * i * i + 7 * i + 3) % 256 for i in range(32)))
UNBIASED = [(name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples() if SCHEMES[name].unbiased]
# What a mixed batch asks for, one row after the other.
SETTINGS = (
    Sampling(), Sampling(temperature=0.6), Sampling(temperature=1.4, top_k=5), Sampling(top_p=0.8), Sampling(min_p=0.12),
    Sampling(temperature=0.8, top_k=12, top_p=0.9, min_p=0.05),
)
VOCABULARY = 23
# Two tied pairs; one of them stands at the fifth place.
LOGITS = torch.from_numpy(np.random.default_rng(3).normal(0, 1.2, VOCABULARY)).float()
LOGITS[7] = LOGITS[LOGITS.topk(5).indices[4]]
LOGITS[11] = LOGITS[19]


def marker_of(name, parameters, state, *, special=(), **engine):
    profile = Profile.create(name, parameters, special_ids=special)
    return Marker(Deployment(profile, ROOT, Policy(opt_out=True), state=state), "test 0", **engine)


def opened(marker, prompt, sampling, *, tenant="a", output=(), **fields):
    asked = {"wmcheck_tenant": tenant, **fields}
    return Session.open(marker.deployment, asked, list(prompt), list(output), sampling)


def sessions_of(marker, settings, seed=0, width=20):
    """One session a setting, each with a prompt that no other has; sixty tenants."""
    rng = np.random.default_rng(seed)
    return [
        opened(marker, rng.integers(0, 10**6, width), one, tenant=f"tenant {place % 60}") for place, one in enumerate(settings)
    ]


def survivors(logits, one, order=ORDER):
    """Tokens that a request leaves at temperature 1; ties at the last place of top-k stay."""
    left = list(range(len(logits)))
    for step in order:
        best = max(logits[v] for v in left)
        if step == "min_p" and one.min_p > 0:
            left = [v for v in left if math.exp(logits[v] - best) >= one.min_p]
        if step == "top_k" and one.top_k:
            floor = sorted((logits[v] for v in left), reverse=True)[: one.top_k][-1]
            left = [v for v in left if logits[v] >= floor]
        if step == "top_p" and one.top_p < 1:
            total, reached, kept = sum(math.exp(logits[v] - best) for v in left), 0.0, []
            for v in sorted(left, key=lambda v: -logits[v]):
                if not kept or reached < one.top_p * total:
                    kept.append(v)
                reached += math.exp(logits[v] - best)
            left = kept
    return left


def law_of(logits, one, order):
    """The law that a request asks for, float64 [V]."""
    hot = [float(value) / one.temperature for value in logits]
    kept, best = survivors(hot, one, order), max(hot)
    law = np.zeros(len(hot))
    law[kept] = [math.exp(hot[v] - best) for v in kept]
    return law / law.sum()


def engine_laws(logits, settings, order, *, cooled):
    """What an engine's temperature makes of logits, and what its own cuts leave of the first rows: float64 [B, V], [60, V]."""
    hot = logits.double().numpy() / (1 if cooled else np.array([[one.temperature] for one in settings]))
    laws = np.exp(hot - hot.max(1, keepdims=True))
    left = laws[:60].copy()
    for row, one in zip(range(60), settings, strict=False):
        left[row, sorted(set(range(VOCABULARY)) - set(survivors(hot[row].tolist(), one, order)))] = 0
    return laws / laws.sum(1, keepdims=True), left / left.sum(1, keepdims=True)


@pytest.mark.parametrize("cooled", [False, True])
@pytest.mark.parametrize(("name", "parameters"), UNBIASED, ids=str)
def test_mean_law_is_the_requests_own(name, parameters, cooled, tmp_path):
    """Over 300 contexts (150 where cooled) under sixty keys, rows of six settings in one batch; later cuts take nothing away."""
    torch.manual_seed(1)
    order = VLLM_ORDER if cooled else ORDER
    marker = marker_of(name, parameters, tmp_path, cooled=cooled, order=order)
    settings = [SETTINGS[place % len(SETTINGS)] for place in range((150 if cooled else 300) * len(SETTINGS))]
    logits = LOGITS.repeat(len(settings), 1)
    if cooled:
        logits = logits / torch.tensor([one.temperature for one in settings])[:, None]
    marker.mark(logits, sessions_of(marker, settings))
    laws, left = engine_laws(logits, settings, order, cooled=cooled)
    np.testing.assert_allclose(left, laws[:60], atol=1e-9)
    for place, one in enumerate(SETTINGS):
        found, asked = laws[place :: len(SETTINGS)], law_of(LOGITS.tolist(), one, order)
        count = len(found)
        assert (found[:, asked == 0] < 1e-6).all(), one
        # A variable in [0, 1] with mean p has at most the variance p (1 - p).
        error = np.sqrt(asked * (1 - asked) / count)
        assert (np.abs(found.mean(0) - asked) < 4.5 * error + 5 / count).all(), one
        # The mark is there: single laws are far from the mean.
        assert np.abs(found - asked).sum(1).mean() > 0.2


@pytest.mark.parametrize("cooled", [False, True])
@pytest.mark.parametrize("parameters", [{"width": 2, "delta": 1.7}, {"width": 3, "rule": "min"}, {"width": 3, "rule": "self"}])
def test_green_tokens_gain_delta_at_the_requests_temperature(parameters, cooled, tmp_path):
    """At a row's own temperature the odds of green over red tokens change by exp(delta), whatever top-k and top-p follow."""
    marker = marker_of("redgreen", parameters, tmp_path, cooled=cooled)
    scheme = marker.scheme
    settings = [Sampling(temperature=0.3 + 0.2 * (row % 8), top_k=row % 3, top_p=1 - 0.1 * (row % 2)) for row in range(64)]
    sessions = sessions_of(marker, settings, seed=5)
    heat = torch.tensor([1.0 if cooled else one.temperature for one in settings], dtype=torch.float64)[:, None]
    logits = torch.randn(64, 300, generator=torch.Generator().manual_seed(2)) * 3
    before = logits.double() / heat
    marker.mark(logits, sessions)
    gain = (logits.double() / heat - before).numpy()
    for row, session in enumerate(sessions):
        windows = np.repeat(np.array([session.tail(scheme.width)], np.uint32), 300, 0)
        green = scheme.score(windows, np.arange(300), PrfKey.derive(ROOT.tenant(f"tenant {row % 60}"), scheme.label()))
        np.testing.assert_allclose(gain[row], scheme.delta * green, atol=2e-5)
        assert 0 < green.sum() < 300


@pytest.mark.parametrize(("name", "parameters"), [*UNBIASED[::2], ("redgreen", {"width": 2})], ids=str)
def test_rows_that_are_not_marked_keep_every_bit(name, parameters, tmp_path):
    """Opted out, too short, special, repeated, greedy (where nothing could be marked), and rows that no session has."""
    marker = marker_of(name, parameters, tmp_path, special=(2,))
    width, hot = marker.scheme.width, Sampling(temperature=0.7, top_k=9)
    fresh = list(range(100, 120))
    sessions = {
        0: opened(marker, fresh, hot), 1: opened(marker, fresh, hot, wmcheck_opt_out=True),
        3: opened(marker, [9] * (width - 1), hot), 4: opened(marker, [*fresh[:-1], 2], hot),
        5: opened(marker, fresh + fresh, hot), 6: opened(marker, fresh, Sampling(temperature=0.0)),
        7: opened(marker, fresh[:10], hot, output=fresh[10:]),
    }
    logits = torch.randn(9, 200, generator=torch.Generator().manual_seed(3))
    logits[:, 17], logits[:, 18] = -math.inf, -0.0
    before = logits.clone()
    order = [7, 4, 0, 6, 1, 3, 5]
    marker.mark(logits, [sessions[row] for row in order], order)
    same = [bool((one == other).all()) for one, other in zip(logits.view(torch.int32), before.view(torch.int32), strict=True)]
    biased = not marker.scheme.unbiased
    assert same == [False, True, True, True, True, True, not biased, False, True]
    assert marker.counters.tokens == (
        {"marked": 3, "opted_out": 1, "short": 1, "special": 1, "repeated": 1} if biased
        else {"marked": 2, "opted_out": 1, "short": 1, "special": 1, "repeated": 1, "greedy": 1}
    )
    assert torch.isneginf(logits[:, 17]).all()
    assert not torch.isnan(logits).any()


@pytest.mark.parametrize("keep", [[True, False, True, False], [False] * 4])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5), Sampling(top_p=0.7)])
def test_rows_that_the_device_does_not_keep(keep, sampling, tmp_path):
    """The mask by which an engine's device says which rows are fresh: the others keep every bit, these are as without it."""
    marker = marker_of("tournament", {"width": 4}, tmp_path)
    prfs = [PrfKey.derive(ROOT.tenant(str(row)), marker.scheme.label()) for row in range(4)]
    windows, lengths = torch.arange(16).view(4, 4), [20] * 4
    logits = torch.randn(5, 90, generator=torch.Generator().manual_seed(4))
    before, alone, rows = logits.clone(), logits.clone(), [4, 0, 3, 1]
    seeded = [Sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, seed=row) for row in range(4)]
    marker.transform(logits, windows, rows, prfs, seeded, lengths, keep=torch.tensor(keep))
    marker.transform(alone, windows, rows, prfs, seeded, lengths)
    for place, row in enumerate(rows):
        assert torch.equal(logits[row], alone[row] if keep[place] else before[row])
    assert torch.equal(logits[2], before[2])


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 2, 3, 4], [0, 2, 1, 3], [4, 0, 3, 1], [2]])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7), Sampling(temperature=0.7, top_k=9)])
@pytest.mark.parametrize("name", ["redgreen", "gumbel"])
def test_rows_in_any_order_are_marked_as_alone(rows, sampling, name, tmp_path):
    """Rows that stand side by side are marked without a copy; whoever takes a permutation for them marks under other keys."""
    marker = marker_of(name, {"width": 4}, tmp_path)
    prfs = [PrfKey.derive(ROOT.tenant(str(row)), marker.scheme.label()) for row in rows]
    windows = torch.arange(4 * len(rows)).view(-1, 4)
    logits = torch.randn(5, 90, generator=torch.Generator().manual_seed(4))
    together = logits.clone()
    marker.transform(together, windows, rows, prfs, [sampling] * len(rows), [20] * len(rows))
    for place, row in enumerate(rows):
        alone = logits[row : row + 1].clone()
        marker.transform(alone, windows[place : place + 1], [0], prfs[place : place + 1], [sampling], [20])
        assert torch.equal(together[row], alone[0])
    others = [row for row in range(5) if row not in rows]
    assert torch.equal(together[others], logits[others])


@pytest.mark.parametrize(("name", "parameters"), UNBIASED, ids=str)
def test_a_seed_gives_the_token_again_in_any_batch(name, parameters, tmp_path):
    """With a seed the choice depends on the request alone; without one the schemes that leave a choice make a new one."""
    marker = marker_of(name, parameters, tmp_path)
    settings = [Sampling(temperature=1.3, top_p=0.95, seed=place % 4 or None) for place in range(40)]
    logits = torch.randn(40, 500, generator=torch.Generator().manual_seed(5))
    first, again = logits.clone(), logits.clone()
    torch.manual_seed(10)
    marker.mark(first, sessions_of(marker, settings))
    order = np.random.default_rng(0).permutation(40).tolist()
    torch.manual_seed(11)
    sessions = sessions_of(marker, settings)
    for part in (order[:7], order[7:8], order[8:]):
        marker.mark(again, [sessions[row] for row in part], part)
    seeded = [row for row in range(40) if row % 4]
    assert torch.equal(first[seeded], again[seeded])
    other = [Sampling(temperature=1.3, top_p=0.95, seed=one.seed and one.seed + 10) for one in settings]
    changed = logits.clone()
    marker.mark(changed, sessions_of(marker, other))
    free = not getattr(marker.scheme, "chooses", False)
    assert (changed[seeded].argmax(1) != first[seeded].argmax(1)).any() == free
    assert (again[::4].argmax(1) != first[::4].argmax(1)).any() == free


def test_a_request_whose_seed_is_the_same_does_not_repeat_its_noise(tmp_path):
    """One seed, another length of history: the drawn place among equally likely tokens is another one."""
    marker = marker_of("reweight", {"width": 4}, tmp_path)
    rng, one = np.random.default_rng(6), Sampling(top_k=64, seed=7)
    sessions = [opened(marker, rng.integers(0, 10**6, 10 + step), one) for step in range(400)]
    logits = torch.zeros(400, 64)
    marker.mark(logits, sessions)
    counts = np.bincount(logits.argmax(1), minlength=64)
    assert counts.max() < 20
    assert (counts > 0).sum() > 55


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "parameters"), UNBIASED, ids=str)
def test_dtypes_and_masks(name, parameters, dtype, tmp_path):
    """Masked tokens are never given back, one open token stays certain, and nothing turns into nan."""
    marker = marker_of(name, parameters, tmp_path)
    settings = list(SETTINGS) * 2
    logits = (torch.randn(12, 128, generator=torch.Generator().manual_seed(8)) * 4).to(dtype)
    logits[:, ::2] = -math.inf
    logits[3, :] = -math.inf
    logits[3, 5] = 1.0
    marker.mark(logits, sessions_of(marker, settings))
    assert logits.dtype == dtype
    assert torch.isneginf(logits[:, ::2]).all()
    assert not torch.isnan(logits).any()
    assert torch.isfinite(logits.amax(1)).all()
    assert logits[3].argmax() == 5


@pytest.mark.parametrize("order", [ORDER, VLLM_ORDER, ("top_p", "top_k", "min_p")])
def test_cut_is_the_reference_token_by_token(order):
    """Random settings, all in one batch, with tied logits and settings that are off."""
    rng = np.random.default_rng(11)
    settings = [
        Sampling(
            top_k=int(rng.choice([0, 1, 2, 7, 30, 100])), top_p=float(rng.choice([1.0, 0.95, 0.5, 0.01])),
            min_p=float(rng.choice([0.0, 0.0, 0.02, 0.3, 1.0])),
        )
        for _ in range(300)
    ]
    logits = torch.from_numpy(rng.normal(0, 2, (300, 60))).float()
    logits[:, 5], logits[:, 6] = logits[:, 4], -math.inf
    logits[:, 9] = logits.amax(1)
    for rows in (slice(0, 300), slice(0, 1), slice(40, 44)):
        found = cut(logits[rows], settings[rows], order=order)
        for row, one, out in zip(logits[rows].double(), settings[rows], found, strict=True):
            kept = set(survivors([v if v > -math.inf else -1e30 for v in row.tolist()], one, order)) - {6}
            left = set(torch.isfinite(out).nonzero().flatten().tolist())
            # Where top-p ends among equal tokens both stay: which of them the engine drops is a matter of its sort.
            assert kept <= left
            assert {row[v].item() for v in left} == {row[v].item() for v in kept}, one
            assert left
            assert torch.equal(out[sorted(left)].double(), row[sorted(left)])


@pytest.mark.parametrize("one", [
    Sampling(top_k=1), Sampling(top_k=40), Sampling(top_p=0.9), Sampling(top_p=1e-6), Sampling(min_p=0.1), Sampling(min_p=1.0),
    Sampling(top_k=50, top_p=0.7), Sampling(temperature=0.4, top_k=20, top_p=0.95), Sampling(top_k=10**6, top_p=0.5),
    Sampling(top_k=25, min_p=0.03), Sampling(top_p=0.7, min_p=0.1), Sampling(top_k=30, top_p=0.8, min_p=0.05),
])  # fmt: skip
def test_cut_is_the_one_of_transformers(one):
    """The warpers of ``generate`` in its order."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(50, 700, generator=torch.Generator().manual_seed(12)) * 3
    theirs = TemperatureLogitsWarper(one.temperature)(None, logits)
    if one.top_k:
        theirs = TopKLogitsWarper(one.top_k)(None, theirs)
    if one.top_p < 1:
        theirs = TopPLogitsWarper(one.top_p)(None, theirs)
    if one.min_p:
        theirs = MinPLogitsWarper(one.min_p)(None, theirs)
    assert torch.equal(cut(logits / one.temperature, [one] * 50), theirs)


def vllm_cut(logits, one):
    """vLLM 0.32: ``apply_min_p``, then ``apply_top_k_top_p_pytorch`` (Apache-2.0), retold for one row."""
    probabilities = logits.softmax(0)
    logits = logits.masked_fill(probabilities < one.min_p * probabilities.max(), -math.inf)
    ranked, order = logits.sort()
    if one.top_k:
        ranked = ranked.masked_fill(ranked < ranked[len(ranked) - one.top_k], -math.inf)
    if one.top_p < 1:
        out = ranked.softmax(0).cumsum(0) <= 1 - one.top_p
        out[-1] = False
        ranked = ranked.masked_fill(out, -math.inf)
    return torch.empty_like(logits).scatter_(0, order, ranked)


def test_cut_is_the_one_of_vllm():
    """Min-p first, ties at the last place of top-k stay, at least one token: rows of different settings in one batch."""
    settings = [
        Sampling(top_k=3), Sampling(top_k=200), Sampling(top_p=0.6), Sampling(top_p=1e-9), Sampling(min_p=0.2),
        Sampling(min_p=0.1, top_p=0.5), Sampling(top_k=10, top_p=0.8, min_p=0.15), Sampling(),
    ] * 8
    logits = torch.randn(64, 200, generator=torch.Generator().manual_seed(13)) * 2
    # Ties at the third place, which top-k keeps: four tokens are left.
    for row in logits[::8]:
        row[0] = row[1] = row.topk(3).values[2]
    found = cut(logits, settings, order=VLLM_ORDER)
    for row, one, out in zip(logits, settings, found, strict=True):
        assert torch.equal(out, vllm_cut(row, one)), one
    assert (torch.isfinite(found[::8]).sum(1) >= 4).all()
    assert (torch.isfinite(found[3::8]).sum(1) == 1).all()
