"""The power planner: closed forms against enumeration, draws against the shipped schemes, plans against known figures."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from wmcheck.watermark.core import planning
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.embed import Sampling
from wmcheck.watermark.power import generic_draw, limit, plan, scheme_draw, scored_places
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import make_scheme
from wmcheck.watermark.traffic import read_traffic, sample_traffic, synthetic_traffic
from wmcheck.watermark.windows import Document

LAWS = [(0.6, 0.3, 0.1), (0.97, 0.02, 0.01), (0.25, 0.25, 0.25, 0.25)]
SCHEMES = [
    ("gumbel", {}), ("redgreen", {"green": 64, "delta": 2.0}), ("redgreen", {"green": 128, "delta": 0.5}), ("reweight", {}),
    ("reweight", {"alpha": 0.3}), ("tournament", {"layers": 5}), ("tournament", {}),
]


def rows(law, n):
    return np.repeat(np.array([law], np.float32), n, axis=0)


def test_the_gumbel_score_has_the_moments_of_a_sum_of_exponentials():
    """At p = 1/k the pivot is the largest of k uniforms: mean 1 + 1/2 + ... + 1/k, variance 1 + 1/4 + ... + 1/k^2."""
    assert planning.gumbel_mean([1.0, 0.5, 1 / 3, 0.25]) == pytest.approx([1, 3 / 2, 11 / 6, 25 / 12], rel=1e-12)
    assert planning.gumbel_variance([1.0, 0.5, 1 / 3]) == pytest.approx([1, 1.25, 1.25 + 1 / 9], rel=1e-12)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("gamma", "delta"), [(0.25, 2.0), (0.5, 0.5), (0.1, 6.0)])
def test_the_green_share_is_the_mean_over_all_colourings(law, gamma, delta):
    expected = 0.0
    for colours in product((0, 1), repeat=len(law)):
        green, share = sum(colours), sum(p for p, c in zip(law, colours, strict=True) if c)
        chance = gamma**green * (1 - gamma) ** (len(law) - green)
        expected += chance * share * math.exp(delta) / (share * math.exp(delta) + 1 - share)
    assert planning.green_share([law], gamma, delta)[0] == pytest.approx(expected, abs=2e-6)


def test_the_green_share_of_a_certain_token_is_gamma():
    assert planning.green_share([[1.0, 0.0]], 0.25, 2.0)[0] == pytest.approx(0.25, abs=2e-6)


def test_the_first_tournament_layer_gains_a_quarter_of_the_chance_of_two_different_candidates():
    assert planning.first_layer_mean([[1.0, 0.0], [0.5, 0.5]]) == pytest.approx([0.5, 0.625])
    drawn = planning.tournament_scores((1,))(rows((0.6, 0.3, 0.1), 40_000), np.random.default_rng(0))
    expected = 0.5 + 0.25 * (1 - 0.36 - 0.09 - 0.01)
    assert drawn.mean() == pytest.approx(expected, abs=4 * 0.5 / 200)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("name", "parameters"), SCHEMES, ids=lambda value: str(value))
def test_draws_have_the_law_of_the_shipped_scheme(name, parameters, law):
    """Scores drawn by formula against scores of tokens that the scheme's own transform chose: the same distribution."""
    scheme = make_scheme(name, parameters)
    ours = scheme_draw(scheme)(rows(law, 6000), np.random.default_rng(1))
    theirs = generic_draw(scheme)(rows(law, 3000), np.random.default_rng(2))
    assert abs(ours.mean() - theirs.mean()) < 4 * math.sqrt(ours.var() / 6000 + theirs.var() / 3000)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-4


def test_grouped_draws_are_those_of_each_law():
    masses = np.zeros((3000, 256), np.float32)
    masses[::3, 0], masses[1::3, :2], masses[2::3] = 1.0, 0.5, 1 / 256
    found = planning.drawn(masses, planning.gumbel_scores, 4, np.random.default_rng(0))
    assert found.shape == (3000, 4)
    means, expected = [found[kind::3].mean() for kind in range(3)], planning.gumbel_mean([1.0, 0.5, 1 / 256])
    # 4,000 draws of standard deviation at most 1.3.
    assert means == pytest.approx(expected, abs=4 * 1.3 / math.sqrt(4000))


def test_shortened_laws_keep_their_head_and_sum_to_one():
    law = np.sort(np.random.default_rng(0).dirichlet(np.full(1000, 0.05), 3), axis=1)[:, ::-1]
    short = planning.shorten(law[:, : planning.TOP], law[:, planning.TOP :].sum(1))
    assert short.shape == (3, planning.TOP + planning.TAIL)
    assert short.sum(1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert short[:, 0] == pytest.approx(law[:, 0], rel=1e-5)


def test_thresholds_are_those_of_scipy():
    counts = np.array([0, 1, 2, 10, 20, 40])
    gamma = planning.thresholds(ExponentialNull(bound=True), counts, math.log(1e-5))
    assert np.isinf(gamma[0])
    assert gamma[1:] == pytest.approx(stats.gamma.isf(1e-5, counts[1:]), rel=1e-5)
    green = planning.thresholds(BernoulliNull(1, 4), counts, math.log(1e-5))
    # The least total: its tail is at most alpha and that of one less is not; 8 greens of 8 have 1.5e-5, 9 of 9 3.8e-6.
    assert np.isinf(green[:3]).all()
    for n, total in zip(counts[3:], green[3:], strict=True):
        assert stats.binom.sf(total - 1, n, 0.25) <= 1e-5 < stats.binom.sf(total - 2, n, 0.25)
    assert list(np.isinf(planning.thresholds(BernoulliNull(1, 4), np.array([8, 9]), math.log(1e-5)))) == [True, False]


def test_thresholds_between_the_knots_are_within_one_of_the_exact_ones():
    counts = np.array([47, 123, 777, 3000])
    green = planning.thresholds(BernoulliNull(1, 4), counts, math.log(1e-6))
    exact = stats.binom.isf(1e-6, counts, 0.25) + 1
    assert np.abs(np.ceil(green) - exact).max() <= 1
    gamma = planning.thresholds(ExponentialNull(bound=True), counts, math.log(1e-6))
    assert gamma == pytest.approx(stats.gamma.isf(1e-6, counts), rel=1e-3)


@pytest.mark.parametrize("bits", [1.0, 2.0, 4.0])
def test_synthetic_laws_have_the_entropy_asked_for(bits):
    law = planning.synthetic_laws(4000, bits, np.random.default_rng(3))
    entropy = -(law * np.log2(np.maximum(law, 1e-300))).sum(1)
    assert entropy.mean() == pytest.approx(bits, abs=4 * entropy.std() / math.sqrt(4000))
    if bits == 1.0:
        assert (entropy < 0.3).mean() == pytest.approx(0.42, abs=0.03)


def test_the_plan_of_independent_places_is_that_of_direct_simulation():
    """Gumbel at 2 bits: power by an independent route, sums of scores -log(1 - U^p) against scipy's Gamma."""
    rng = np.random.default_rng(5)
    tokens = np.array([20, 30, 40, 60])
    law = planning.synthetic_laws(30_000, 2.0, rng)
    p = law[np.arange(len(law)), (law.cumsum(1) < rng.random((len(law), 1))).sum(1).clip(max=999)]
    scores = -np.log1p(-(rng.random((500, 60)) ** p.reshape(500, 60)))
    direct = {int(n): float((scores[:, :n].sum(1) >= stats.gamma.isf(1e-5, n)).mean()) for n in tokens}
    traffic = synthetic_traffic(2.0, texts=60, tokens=100)
    found = plan(Profile.create("gumbel"), traffic, 1e-5, lengths=tokens.tolist(), longest=200)
    for n, share in direct.items():
        assert found.shares[n] == pytest.approx(share, abs=4 * 0.5 / math.sqrt(500))
    assert found.status == "detectable"
    assert 20 <= found.needed[0.5] <= 29
    low, high = found.intervals[0.5]
    assert low <= found.needed[0.5] <= high
    assert found.by_mean == pytest.approx(found.needed[0.5], abs=5)
    assert found.mean_score > found.null_mean == 1.0


def test_more_keys_and_documents_need_more_tokens():
    traffic = synthetic_traffic(2.0, texts=20, tokens=100)
    alone = plan(Profile.create("gumbel"), traffic, 1e-5, longest=400)
    many = plan(Profile.create("gumbel"), traffic, 1e-5, keys=1000, documents=1000, longest=400)
    same = plan(Profile.create("gumbel"), traffic, 1e-11, longest=400)
    # Tokens grow about as log(alpha / family): from 1e-5 to 1e-11 by 11 / 5.
    assert many.needed[0.5] / alone.needed[0.5] == pytest.approx(2.2, rel=0.25)
    assert many.needed == same.needed


def test_text_without_choice_is_undetectable():
    """One token of probability 1 at each place: what greedy decoding leaves."""
    traffic = synthetic_traffic(1.0, texts=20, tokens=100)
    masses = np.zeros_like(traffic.masses)
    masses[:, 0] = 1.0
    certain = replace(traffic, masses=masses, entropy=np.zeros(2000), log_p=np.zeros(2000))
    for scheme in ("gumbel", "tournament", "redgreen", "reweight"):
        found = plan(Profile.create(scheme), certain, 1e-5)
        assert found.status == "undetectable"
        assert found.needed == {0.5: None, 0.9: None}
        assert found.intervals[0.9] == (None, None)
        assert found.mean_score == pytest.approx(found.null_mean, rel=0.05)
    assert limit(certain, 1e-5) == {0.5: None, 0.9: None}


def test_the_limit_is_the_entropy_where_every_place_is_a_fair_coin():
    """2^-n <= alpha: p = 1e-5 takes 17 bits, and 16 bits have power 2^16 / 1e5 = .655."""
    traffic = synthetic_traffic(1.0, texts=10, tokens=30)
    fair = replace(traffic, log_p=np.full(300, -math.log(2.0)))
    assert limit(fair, 1e-5) == {0.5: 16, 0.9: 17}


def test_the_limit_meets_the_published_figure():
    """17 and 28 tokens at a mean of 1 bit (optimal test, p = 1e-5); 300 texts leave about one token of noise."""
    found = limit(synthetic_traffic(1.0, texts=300, tokens=60), 1e-5, longest=60)
    assert found[0.5] == pytest.approx(17, abs=1)
    assert found[0.9] == pytest.approx(28, abs=3)


def test_repeats_and_the_first_tokens_of_a_text_are_not_scored():
    traffic = synthetic_traffic(1.0, texts=1, tokens=8)
    # Prompt 8 9; the output repeats 1 2 3, so that with one id of context the pairs (1, 2) and (2, 3) come twice.
    document = Document(np.array([8, 9, 1, 2, 3, 1, 2, 3, 4, 5]), 2)
    told = replace(traffic, documents=(document,))
    scored, marked = scored_places(make_scheme("gumbel", {"width": 1}), told, ())
    # Without the prompt the first token has no window. Windows: -, 1, 2, 3, 1 again, 2 again, 3 again, 4.
    assert scored.tolist() == [False, True, True, True, False, False, False, True]
    assert marked.tolist() == [True, True, True, True, False, False, False, True]
    scored, _ = scored_places(make_scheme("redgreen", {"width": 0}), told, (3,))
    assert scored.tolist() == [True, True, False, False, False, False, True, True]


@pytest.fixture(scope="module")
def language():
    import torch

    from wmcheck.watermark.embed import load_model

    torch.set_num_threads(1)
    return load_model("bundled:stories2m")


def test_sampled_texts_read_again_have_the_same_laws(language):
    """Laws recorded while sampling against a forward pass over the finished text, at warped settings."""
    sampling = Sampling(24, temperature=0.8, top_k=50, top_p=0.95, seed=3)
    made = sample_traffic(language, ["Once upon a time", "The dog"], sampling)
    records = [
        Record(id=str(place), where="", tokens=document.ids[document.prompt_length :],
               prompt_tokens=document.ids[: document.prompt_length])
        for place, document in enumerate(made.documents)
    ]
    read = read_traffic(language, records, sampling)
    assert read.text.tolist() == made.text.tolist()
    assert read.masses == pytest.approx(made.masses, abs=2e-4)
    assert read.entropy == pytest.approx(made.entropy, abs=2e-3)
    assert read.log_p == pytest.approx(made.log_p, abs=2e-3)
    # No token outside the 50 likeliest.
    assert (made.masses > 0).sum(1).max() <= 50


def test_marked_traffic_knows_its_scores_under_the_throw_away_keys(language):
    """A fixed list is planned from the scores of the texts themselves: 8 lists, so 8 totals and not 8 x 16."""
    profile = Profile.create("redgreen", {"width": 0, "delta": 50.0}, tokenizer=language.tokenizer)
    traffic = sample_traffic(language, ["Once upon a time"] * 8, Sampling(30, seed=1, ignore_end=True), profile=profile)
    # At delta 50 every token is green unless no green one is left.
    assert np.nanmean(traffic.own_scores) > 0.97
    found = plan(profile, traffic, 1e-3, lengths=(30,), longest=60)
    assert found.shares[30] in {share / 8 for share in range(9)}
    assert found.mean_score > 0.97


def test_an_entropy_that_the_family_does_not_reach_is_refused():
    with pytest.raises(ConfigError, match="entropy out of range"):
        synthetic_traffic(9.0)
