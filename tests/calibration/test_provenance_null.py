"""Ranks, e-values and bounded likelihood ratios in simulated worlds in which the suspect is independent of the teacher."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.fingerprint.case_measures import rank
from wmcheck.fingerprint.casework import assemble
from wmcheck.fingerprint.conformal import conformal_p, e_value
from wmcheck.fingerprint.evidence_lr import headline
from wmcheck.fingerprint.provenance import Settings, compare
from wmcheck.fingerprint.simulate import ChoiceWorld, Population, cohort, subject, suspect
from wmcheck.watermark.core.multiplicity import holm

WORLDS = 40


def excess(hits, count, level):
    """Chance of so many hits or more at the nominal level."""
    return binom.sf(hits - 1, count, level)


@pytest.fixture(scope="module")
def tests():
    """Rank tests of an independent suspect against three teachers, in fresh worlds."""
    found = []
    for seed in range(WORLDS):
        rng = np.random.default_rng([7, seed])
        recipes = Population(vendors=12, lines=2, versions=1).recipes(rng)
        world = ChoiceWorld(rng, items=90)
        group = cohort([world], recipes)
        accused = subject([world], suspect())
        case = []
        for place in rng.permutation(len(recipes))[:3]:
            panel = assemble(accused, subject([world], recipes[place]), group.without([recipes[place].member.name]))
            case.append(rank(panel, {"tool_choice": panel.score("tool_choice").raw}))
        found.append(case)
    return found


@pytest.mark.parametrize("side", ["p_teachers", "p_suspects", "p"])
@pytest.mark.parametrize("level", [0.1, 0.2, 0.4])
def test_ranks_are_uniform_or_larger(tests, side, level):
    hits = sum(getattr(case[0], side) <= level for case in tests)
    assert excess(hits, WORLDS, level) > 1e-3


def test_e_values_have_mean_at_most_one(tests):
    values = np.array([e_value(case[0].p) for case in tests])
    assert values.mean() <= 1.0 + 3.0 * values.std() / np.sqrt(WORLDS)


def test_a_family_of_teachers_is_corrected(tests):
    hits = sum(np.exp(holm(np.log([test.p for test in case])).min()) <= 0.2 for case in tests)
    assert excess(hits, WORLDS, 0.2) > 1e-3


def test_every_p_is_at_or_above_its_floor(tests):
    for case in tests:
        for test in case:
            assert test.p >= test.floor
            assert test.floor == pytest.approx(1.0 / (1 + min(test.vendors_teachers, test.vendors_suspects)))


def test_conformal_p_by_enumeration():
    """All orders of ten values that differ are equally likely: p is uniform on 1/10, ..., 1."""
    values = np.arange(10.0)
    found = sorted(conformal_p(values[place], np.delete(values, place)) for place in range(10))
    assert found == pytest.approx(np.arange(1, 11) / 10)


def test_a_likelihood_ratio_seldom_misleads_and_grows_with_the_dose():
    ratios = {0.0: [], 1.0: []}
    for seed in range(5):
        rng = np.random.default_rng([11, seed])
        recipes = Population(vendors=12, lines=1, versions=2, students=12, open_share=0.0).recipes(rng)
        world = ChoiceWorld(rng, items=150)
        group = cohort([world], recipes)
        teacher = recipes[0]
        for dose, found in ratios.items():
            accused = subject([world], suspect(teacher=teacher, dose=dose))
            result = compare(
                accused, subject([world], teacher), group.without([teacher.member.name]),
                settings=Settings(draws=0, sensitivity=False),
            )
            best = headline(result.alternatives)
            assert best is not None
            assert best.bounds[0] <= best.log10_lr <= best.bounds[1]
            found.append(best.log10_lr)
    assert np.mean(np.array(ratios[0.0]) > 0.0) <= 0.25
    assert np.median(ratios[1.0]) > 0.3
    assert min(ratios[1.0]) > max(-0.5, np.median(ratios[0.0]))
