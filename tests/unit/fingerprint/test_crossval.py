"""Folds that never contain the vendors of the pair they speak about, and the bootstrap over vendors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from wmcheck.fingerprint.crossval import PairSet, bootstrap, held_out, pair_set
from wmcheck.fingerprint.likelihood import calibrate
from wmcheck.fingerprint.member import Member


def members(vendors=8, lines=2, versions=2):
    return [
        Member(name=f"v{v}l{line}.{n}", family=f"l{line}", vendor=f"v{v}")
        for v in range(vendors) for line in range(lines) for n in range(versions)
    ]


def world(seed=0, signatures=2):
    """Scores of 32 models: versions of one line 2 higher than the rest."""
    rng = np.random.default_rng(seed)
    group = members()
    near = [(i, j) for i in range(32) for j in range(i) if (group[i].vendor, group[i].line) == (group[j].vendor, group[j].line)]
    far = [(i, j) for i in range(32) for j in range(i) if group[i].vendor != group[j].vendor]
    layers = []
    for _ in range(signatures):
        z = rng.standard_normal((32, 32))
        z = (z + z.T) / np.sqrt(2)
        for i, j in near:
            z[i, j] = z[j, i] = z[i, j] + 2.0
        layers.append(z)
    return group, layers, near, far


def sets(layers, group, near, far):
    return pair_set(near, layers, group), pair_set(far, layers, group)


def test_pair_sets_gather_scores_clusters_and_lines():
    group, layers, near, far = world()
    layers[0][near[0]] = np.nan
    target, apart = sets(layers, group, near, far)
    assert target.pairs == near[1:]
    np.testing.assert_array_equal(target.scores[:, 1], [layers[1][pair] for pair in near[1:]])
    assert (target.clusters[:, 0] == target.clusters[:, 1]).all()
    assert (apart.clusters[:, 0] != apart.clusters[:, 1]).all()
    assert (target.vendors, apart.vendors) == (8, 8)
    assert apart.independent == 16, "lines of two vendors with one name are two lines"
    assert target.independent == 15, "as many as there are pairs"


def test_pairs_are_no_more_independent_observations_than_there_are():
    group = members(vendors=12, lines=1, versions=1)
    disjoint = pair_set([(0, 1), (2, 3), (4, 5)], [np.zeros((12, 12))], group)
    assert disjoint.independent == 3


def test_leaving_out_clusters_leaves_out_every_pair_that_they_touch():
    group, layers, near, far = world()
    _, apart = sets(layers, group, near, far)
    kept = apart.without([0, 3])
    assert not np.isin(kept.clusters, [0, 3]).any()
    assert len(kept) == sum({group[i].vendor, group[j].vendor}.isdisjoint({"v0", "v3"}) for i, j in far)


def test_held_out_is_the_calibration_without_both_vendors():
    group, layers, near, far = world()
    target, apart = sets(layers, group, near, far)
    values1, values0 = held_out(target, apart)
    for values, side in ((values1, target), (values0, apart)):
        for row in (0, 7, len(side) - 1):
            fold = side.clusters[row]
            fit = calibrate(target.without(fold).scores, apart.without(fold).scores)
            assert values[row] == pytest.approx(fit.log_lr(side.scores[row : row + 1])[0])


@pytest.mark.parametrize("vendor", ["v0", "v5"])
def test_poisoned_models_do_not_change_their_own_lr(vendor):
    """A vendor's scores are made absurd everywhere except in one pair: that pair's LR must not notice."""
    group, layers, near, far = world()
    mine = [n for n, member in enumerate(group) if member.vendor == vendor]
    watched = next(pair for pair in near if pair[0] in mine)
    clean = held_out(*sets(layers, group, near, far))[0][near.index(watched)]
    poisoned = [layer.copy() for layer in layers]
    for layer in poisoned:
        layer[mine, :] = layer[:, mine] = -50.0
        for i, j in near:
            if i in mine:
                layer[i, j] = layer[j, i] = -80.0
    for layer, kept in zip(poisoned, layers, strict=True):
        layer[watched] = kept[watched]
    after = held_out(*sets(poisoned, group, near, far))
    assert after[0][near.index(watched)] == clean
    others = [row for row, (i, _) in enumerate(near) if i not in mine]
    before = held_out(*sets(layers, group, near, far))[0]
    assert not np.isclose(after[0][others], before[others]).any(), "the poison works elsewhere"


def test_pairs_across_vendors_are_blind_to_both():
    group, layers, near, far = world()
    watched = next(pair for pair in far if {group[n].vendor for n in pair} == {"v1", "v6"})
    clean = held_out(*sets(layers, group, near, far))[1][far.index(watched)]
    touched = [n for n, member in enumerate(group) if member.vendor in ("v1", "v6")]
    poisoned = [layer.copy() for layer in layers]
    for layer, kept in zip(poisoned, layers, strict=True):
        layer[touched, :] = layer[:, touched] = 99.0
        layer[watched] = kept[watched]
    assert held_out(*sets(poisoned, group, near, far))[1][far.index(watched)] == clean


def test_folds_without_enough_pairs_have_no_lr():
    group, layers, near, far = world()
    few = [pair for pair in near if group[pair[0]].vendor in ("v0", "v1")]
    values, _ = held_out(*sets(layers, group, few, far))
    assert np.isfinite(values).all(), "two pairs of the other vendor are left"
    alone = [pair for pair in few if group[pair[0]].vendor == "v0"]
    assert np.isnan(held_out(*sets(layers, group, alone, far))[0]).all()


def test_nan_scores_are_left_out_before_anything_else():
    group, layers, near, far = world()
    layers[1][5, :] = layers[1][:, 5] = np.nan
    target, apart = sets(layers, group, near, far)
    assert not any(5 in pair for pair in [*target.pairs, *apart.pairs])


def line_up(layers_seed=0):
    group, layers, near, far = world(layers_seed, signatures=1)
    return sets(layers, group, near, far)


def test_the_bootstrap_is_that_of_its_seed_and_drops_empty_draws():
    target, apart = line_up()
    score, spread = np.array([1.0]), np.array([0.1])
    one = bootstrap(target, apart, score, spread, draws=20, rng=np.random.default_rng(3))
    again = bootstrap(target, apart, score, spread, draws=20, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(one, again)
    assert len(one) == 20
    lonely = target.without(range(1, 8))
    kept = bootstrap(lonely, apart, score, spread, draws=60, rng=np.random.default_rng(3))
    assert 0 < len(kept) < 60, "draws without vendor 0 have no target pair"
    assert len(bootstrap(target, apart, score, spread, draws=0, rng=np.random.default_rng(3))) == 0


def test_a_vendor_drawn_twice_counts_twice_alone_and_as_a_product_in_pairs():
    """One draw, followed by hand: multiplicities of vendors, and of pairs within and across them."""
    target, apart = line_up()
    counts = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8))
    within = counts[target.clusters[:, 0]].astype(float)
    across = counts[apart.clusters].prod(1).astype(float)
    expected = calibrate(target.scores, apart.scores, weights=(within, across)).log_lr(np.array([[1.0]]))
    found = bootstrap(target, apart, np.array([1.0]), np.zeros(1), draws=1, rng=np.random.default_rng(5))
    assert found == pytest.approx(expected)


def test_item_error_widens_the_interval():
    target, apart = line_up()
    spans = []
    for error in (0.0, 2.0):
        draws = bootstrap(target, apart, np.array([2.0]), np.array([error]), draws=60, rng=np.random.default_rng(1))
        spans.append(np.ptp(np.quantile(draws, [0.1, 0.9])))
    assert spans[1] > 2 * spans[0]


def test_intervals_cover_the_lr_of_the_whole_population():
    """Independent worlds of 8 vendors: the 95% interval holds the LR of a very large one in most of them."""
    n = 20_000
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)[:, None]
    truth = calibrate(2.0 + quantiles, quantiles).log_lr(np.array([[2.0]]))[0]
    hits = 0
    for seed in range(30):
        target, apart = line_up(seed)
        draws = bootstrap(target, apart, np.array([2.0]), np.zeros(1), draws=60, rng=np.random.default_rng(seed))
        low, high = np.quantile(draws, [0.025, 0.975])
        hits += low <= truth <= high
    assert hits >= 24


def test_sets_know_their_size():
    assert len(PairSet(pairs=[], scores=np.empty((0, 1)), clusters=np.empty((0, 2), int), lines=np.empty((0, 2), int))) == 0
