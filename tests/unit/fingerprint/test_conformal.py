"""Ranks: exact by enumeration, singly and in groups; e-values by their integral."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from wmcheck.fingerprint.conformal import Ranked, conformal_p, e_value, mean_e_value, rank_test


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5), (1, 1, 2, 2, 3), (7, 7, 7, 7, 7)])
def test_p_is_super_uniform_over_all_orders(values):
    ps = [Fraction(conformal_p(order[0], order[1:])).limit_denominator(100) for order in permutations(values)]
    for level in {*ps, Fraction(1, 20), Fraction(1, 2)}:
        assert Fraction(sum(p <= level for p in ps), len(ps)) <= level
    if len(set(values)) == 5:
        assert sorted(set(ps)) == [Fraction(rank, 5) for rank in range(1, 6)]
    assert np.mean([e_value(float(p)) for p in ps]) <= 1.0


def in_groups(groups):
    """Every draw of one value from one group, with the other groups as controls: what hierarchical exchangeability averages."""
    for mine, group in enumerate(groups):
        controls = [(value, str(number)) for number, other in enumerate(groups) if number != mine for value in other]
        for value in group:
            p = conformal_p(value, [entry for entry, _ in controls], [name for _, name in controls])
            yield Fraction(1, len(groups) * len(group)), p


@pytest.mark.parametrize("groups", [
    ((1, 2), (3, 4), (5, 6)), ((9, 9, 9, 9), (1,), (2,), (3,)), ((1, 8, 9), (2,), (5, 5), (7, 3, 4, 6)), ((4,), (4,), (4, 4)),
])
def test_grouped_p_is_super_uniform(groups):
    draws = list(in_groups(groups))
    assert sum(weight for weight, _ in draws) == 1
    for level in {p for _, p in draws}:
        assert float(sum(weight for weight, p in draws if p <= level + 1e-12)) <= level + 1e-9


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=2, max_size=5))
def test_grouped_p_is_super_uniform_for_any_values(groups):
    draws = list(in_groups(groups))
    for level in {p for _, p in draws}:
        assert float(sum(weight for weight, p in draws if p <= level + 1e-12)) <= level + 1e-9


def test_counting_clustered_controls_one_by_one_would_not_be():
    """Two vendors of six equal models against a third vendor: ranked first one time in three, at a p of 1/13."""
    groups = [(vendor,) * 6 for vendor in range(3)]
    others = [[x for other in groups if other is not group for x in other] for group in groups]
    alone = [conformal_p(value, controls) for group, controls in zip(groups, others, strict=True) for value in group]
    assert np.mean(np.array(alone) <= 1 / 13) == pytest.approx(1 / 3)
    assert min(p for _, p in in_groups(groups)) == pytest.approx(1 / 3)


def test_groups_of_one_change_nothing():
    controls = [0.1, 3.0, 2.0, 2.0]
    assert conformal_p(2.0, controls, ["a", "b", "c", "d"]) == conformal_p(2.0, controls) == 4 / 5
    assert conformal_p(1.0, []) == 1.0


def test_the_larger_p_of_both_directions_with_its_floor():
    nan = float("nan")
    found = rank_test(
        Ranked(value=2.0, controls=np.array([1.0, 0.0, nan, 1.5]), groups=["a", "a", "b", "c"]),
        Ranked(value=2.0, controls=np.array([3.0, 0.0, 0.0, 0.0]), groups=["a", "b", "c", "d"]),
    )
    assert (found.p_teachers, found.n_teachers, found.vendors_teachers) == (1 / 3, 3, 2)
    assert (found.p_suspects, found.n_suspects, found.vendors_suspects) == (2 / 5, 4, 4)
    assert found.p == 2 / 5
    assert found.floor == 1 / 3


@pytest.mark.parametrize(("value", "controls"), [(float("nan"), [1.0]), (1.0, []), (1.0, [float("nan")])])
def test_without_score_or_controls_there_is_no_rank(value, controls):
    side = Ranked(value=value, controls=np.array(controls), groups=["v"] * len(controls))
    other = Ranked(value=1.0, controls=np.zeros(4), groups=list("abcd"))
    assert rank_test(side, other).p_teachers is None
    assert rank_test(side, other).p == 1 / 5
    assert rank_test(side, side).p == rank_test(side, side).floor == 1.0


def test_the_larger_of_two_ps_is_super_uniform_if_either_is():
    """Whatever the other one is: enumerated with an adversarial second direction."""
    first = [Fraction(rank, 4) for rank in range(1, 5)]
    for second in product([Fraction(1, 100), Fraction(1, 2), Fraction(1)], repeat=4):
        larger = [max(pair) for pair in zip(first, second, strict=True)]
        assert all(Fraction(sum(p <= level for p in larger), 4) <= level for level in larger)


def test_the_calibrator_integrates_to_one():
    assert quad(e_value, 0, 1)[0] == pytest.approx(1.0)


@given(st.integers(1, 400))
def test_e_values_of_ranks_have_mean_at_most_one(n):
    assert np.mean([e_value(rank / n) for rank in range(1, n + 1)]) <= 1.0


def test_the_mean_of_e_values_needs_some():
    assert mean_e_value([0.5, 4.0]) == 2.25
    with pytest.raises(ValueError, match="no e-values"):
        mean_e_value([])
