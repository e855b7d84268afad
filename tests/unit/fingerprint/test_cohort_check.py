"""Duplicates, drift, and what a cohort can support, on simulated populations whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from wmcheck.fingerprint.cohort import Cohort
from wmcheck.fingerprint.cohort_check import check_cohort
from wmcheck.fingerprint.cohort_pairs import pair_rows
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.simulate import ChoiceWorld, Population, RaschWorld, cohort, subject


@pytest.fixture(scope="module")
def worlds():
    rng = np.random.default_rng(3)
    return [RaschWorld(rng, items=300), ChoiceWorld(rng, items=300)]


@pytest.fixture(scope="module")
def recipes():
    return Population(vendors=8, lines=2, versions=2).recipes(np.random.default_rng(5))


@pytest.fixture(scope="module")
def group(worlds, recipes):
    return cohort(worlds, recipes)


def test_a_sound_cohort_has_no_problem_and_its_figures(group):
    found = check_cohort(group)
    assert found.problems == []
    assert (found.models, found.vendors, found.lines) == (32, 8, 16)
    assert [check.name for check in found.signatures] == ["refusal", "tool_choice", "refusal + tool_choice"]
    choices = found.signatures[1]
    assert choices.targets == 16
    assert choices.validation is not None
    assert choices.validation.auc > 0.95
    low, high = choices.bounds
    assert low <= 0.0 <= high <= math.log10(17)
    assert choices.p_floor == pytest.approx(1 / 9)


def test_a_copied_run_is_found_and_a_declared_one_is_no_problem(group):
    first = group.subjects[0]
    for tags, problems in (({}, 1), ({"same_as": first.name}, 0)):
        copy = replace(first, member=Member(name="copy", vendor="other", **tags))
        found = check_cohort(Cohort(subjects=(*group.subjects, copy)))
        assert {(pair.one, pair.other, pair.share) for pair in found.twins} == {(first.name, "copy", 1.0)}
        assert len([text for text in found.problems if "two names" in text]) == problems


def test_models_that_never_decline_are_no_copies_of_each_other(group):
    quiet = []
    for number in (0, 4):
        one = group.subjects[number]
        table = {item: replace(seen, tokens=("comply",)) for item, seen in one.behaviour.signatures["refusal"].items()}
        quiet.append(replace(one, behaviour=replace(one.behaviour, signatures={**one.behaviour.signatures, "refusal": table})))
    found = check_cohort(Cohort(subjects=(*quiet, *group.subjects[5:])))
    assert not [pair for pair in found.twins if pair.signature == "refusal"]
    refusal = found.signatures[0]
    assert "declined on 0 of 300 items" in refusal.excluded[quiet[0].name]


def test_serving_drift_is_no_difference_and_another_model_under_the_name_is(worlds, recipes, group):
    again = subject(worlds, recipes[0], serving=1)
    served = replace(again, member=replace(again.member, name="again", same_as=recipes[0].member.name))
    calm = check_cohort(Cohort(subjects=(*group.subjects, served)))
    assert calm.drift
    assert not any(pair.differs for pair in calm.drift)
    stranger = replace(group.subjects[-1], member=replace(served.member, vendor="", family="", base="", data=()))
    swapped = check_cohort(Cohort(subjects=(*group.subjects[:-1], stranger)))
    assert any(pair.differs for pair in swapped.drift)
    assert any("differ like unrelated ones" in text for text in swapped.problems)


def test_what_is_missing_is_said(group):
    small = check_cohort(Cohort(subjects=group.subjects[:4]))
    assert any("too small: 4 models of 1 vendors" in text for text in small.problems)
    dated = [replace(one, member=replace(one.member, date=f"{2020 + i % 5}-06")) for i, one in enumerate(group)]
    found = check_cohort(Cohort(subjects=tuple(dated)))
    assert found.months == 48
    assert any("span 48 months" in text for text in found.problems)
    assert any("no declared students" in text for text in found.advice)


@pytest.mark.parametrize("others, said", [
    (ProbeProtocol(suites={"a": "1", "b": "2"}), ""),
    (ProbeProtocol(suites={"a": "2"}), "suite a: digest 1 against 2"),
    (ProbeProtocol(suites={"a": "1"}, temperature=1.0), "temperature: 0.0 against 1.0"),
])
def test_several_protocols_are_a_problem_only_where_they_differ(group, others, said):
    protocols = [ProbeProtocol(suites={"a": "1"}), others]
    mixed = [replace(one, behaviour=replace(one.behaviour, protocol=protocols[i % 2])) for i, one in enumerate(group)]
    problems = [text for text in check_cohort(Cohort(subjects=tuple(mixed))).problems if "several protocols" in text]
    assert bool(problems) == bool(said)
    assert all(said in text for text in problems)


def test_every_pair_has_a_row_and_lines_come_first(group):
    rows = pair_rows(group)
    assert len(rows) == 32 * 31 // 2
    assert {row.relation for row in rows[:10]} == {"line"}
    ratios = [row.log10_lr for row in rows]
    assert ratios == sorted(ratios, reverse=True)
    apart = np.array([row.log10_lr for row in rows if row.relation == "unrelated"])
    assert (apart > 0).mean() < 0.1
