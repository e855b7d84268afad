"""A whole comparison in a simulated world: who is found, what is left out, and what the result may never say."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from wmcheck.fingerprint.behaviour import Behaviour, Observation
from wmcheck.fingerprint.case_measures import rank
from wmcheck.fingerprint.casework import assemble, usable_signatures
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.evidence_lr import verbal
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.propositions import ALTERNATIVES
from wmcheck.fingerprint.provenance import Settings, compare
from wmcheck.fingerprint.simulate import ChoiceWorld, Effects, Population, RaschWorld, Recipe, cohort, subject, suspect
from wmcheck.watermark.core.errors import ConfigError, InputError

QUICK = Settings(draws=20, sensitivity=False)
STRONG = Effects(base=0.4, vendor=0.2, line=1.2, data=0.4, own=0.3)


@cache
def lab():
    """Worlds of 200 items each, ten vendors of four models, and a teacher that is not among them."""
    rng = np.random.default_rng(3)
    worlds = (RaschWorld(rng, items=200, effects=STRONG), ChoiceWorld(rng, items=200, effects=STRONG))
    made = Population(vendors=10, lines=2, versions=2, open_share=0.0, data_share=0.0).recipes(rng)
    return worlds, made[0], cohort(worlds, made)


def with_tags(entry, **tags):
    return replace(entry, member=replace(entry.member, **tags))


def model(recipe):
    return subject(lab()[0], recipe)


def teacher():
    return model(lab()[1])


@cache
def found(dose, based=False):
    base = model(Recipe(member=Member(name="root", vendor="root"), base="root")) if based else None
    return compare(model(suspect(teacher=lab()[1], dose=dose, base="root")), teacher(), lab()[2], base=base, settings=QUICK)


def result(comparison, name="A0"):
    return next(entry for entry in comparison.alternatives if entry.name == name)


def test_a_student_is_told_from_a_stranger():
    student, stranger = found(0.95), found(0.0)
    assert result(student).log10_lr > 0.7 > 0.0 > result(stranger).log10_lr
    assert student.rank.p == student.rank.floor
    assert stranger.rank.p > 0.1
    assert {row["name"] for row in student.nearest[:2]} == {"v0-l0.0", "v0-l0.1"}, "another version of the teacher comes as near"
    assert next(row["role"] for row in student.nearest if row["name"] == "v0-l0.0") == "teacher"


def test_every_alternative_is_listed_with_its_lr_or_the_reason_why_there_is_none():
    comparison = found(0.95)
    assert [entry.name for entry in comparison.alternatives] == [entry.name for entry in ALTERNATIVES]
    for entry in comparison.alternatives:
        assert (entry.log10_lr is None) == bool(entry.reason)
        if entry.log10_lr is not None:
            low, high = entry.interval
            assert entry.bounds[0] <= low <= high <= entry.bounds[1]
            assert entry.bounds[0] <= entry.log10_lr <= entry.bounds[1]
    said = " ".join(comparison.not_excluded())
    assert all(f"A{number}:" in said for number in (1, 2, 3, 4, 5, 6, 7))


def test_the_headline_is_the_alternative_that_is_excluded_least():
    comparison = compare(*taught(schools=4), settings=replace(QUICK, draws=0))
    tested = [entry.log10_lr for entry in comparison.alternatives if entry.log10_lr is not None]
    assert comparison.target_examples == "teacher"
    assert len(tested) >= 3
    assert comparison.headline.log10_lr == min(tested)


def taught(schools):
    """A student, its teacher, and a cohort in which so many vendors have taught twelve other students."""
    rng = np.random.default_rng(8)
    worlds = (RaschWorld(rng, items=120), ChoiceWorld(rng, items=120))
    made = Population(vendors=8).recipes(rng)
    for number in range(12):
        school = made[4 + 4 * (number % schools)]
        tags = Member(name=f"student{number}", vendor=f"lab{number}", teachers=(school.member.name,))
        made.append(Recipe(member=tags, teacher=school, dose=0.8))
    return subject(worlds, suspect(teacher=made[0], dose=1.0)), subject(worlds, made[0]), cohort(worlds, made)


def test_students_of_one_vendor_alone_do_not_stand_for_the_target():
    """No fold can leave their teacher's vendor out: lines stand in, and an LR can be had."""
    comparison = compare(*taught(schools=1), settings=replace(QUICK, draws=0))
    assert comparison.target_examples == "line"
    assert comparison.headline is not None


def test_the_result_is_json_and_never_names_a_source():
    data = found(0.95).to_dict()
    text = json.dumps(data, allow_nan=False)
    assert data["schema"] == "wmcheck.comparison/1"
    for word in ("is distilled", "was distilled", "distilled from", "proves", "stolen", "probability that"):
        assert word not in text
    assert "times more probable if the training data" in data["statement"]
    assert data["limitations"]
    assert data["propositions"]["target_examples"] == "line"
    assert any("stand in for the target proposition" in note for note in data["downgrades"])


def test_a_comparison_has_no_truth_value_of_its_own():
    assert bool(found(0.0)) is bool(found(0.95))


def test_equal_seeds_give_equal_reports():
    case = model(suspect(teacher=lab()[1], dose=0.5))
    one, two, other = (compare(case, teacher(), lab()[2], settings=replace(QUICK, seed=seed)).to_dict() for seed in (4, 4, 5))
    assert one == two
    assert one["propositions"] != other["propositions"], "the interval is drawn anew"


def test_order_and_names_of_the_cohort_do_not_matter():
    group = lab()[2]
    renamed = [with_tags(entry, name=f"model-{number * 7 % 41}") for number, entry in enumerate(reversed(group.subjects))]
    case = model(suspect(teacher=lab()[1], dose=0.6))
    keep = group.without([lab()[1].member.name])
    turned = Cohort(subjects=tuple(entry for entry in renamed if entry.behaviour.model != lab()[1].member.name))
    one, other = (compare(case, teacher(), which, settings=replace(QUICK, draws=0)) for which in (keep, turned))
    assert result(one).log10_lr == pytest.approx(result(other).log10_lr, abs=1e-4)
    assert one.rank.p == pytest.approx(other.rank.p)


def test_models_of_the_vendors_in_question_never_calibrate():
    """The teacher's vendor has four models of two lines: of 20 line pairs 2 fall away, with every A0 pair that they are in."""
    assert result(found(0.0)).pairs[0] == 18
    assert result(found(0.0)).vendors == (9, 9)


def test_the_teacher_in_the_cohort_is_taken_out_with_a_note():
    assert any(note.startswith("v0-l0.0 is left out of the cohort: it is the teacher") for note in found(0.0).downgrades)
    assert "v0-l0.0" not in found(0.0).cohort["names"]


@pytest.mark.parametrize("role", ["suspect", "teacher"])
def test_copies_of_the_case_are_taken_out_whatever_their_name(role):
    case = model(suspect("stranger"))
    original = case if role == "suspect" else teacher()
    copy = Subject(member=Member(name="renamed copy", vendor="elsewhere"), behaviour=original.behaviour)
    panel = assemble(case, teacher(), Cohort(subjects=(*lab()[2], copy)))
    assert "renamed copy" not in [entry.name for entry in panel.subjects]
    assert any(f"renamed copy is left out of the cohort: it is the {role}" in note for note in panel.notes)


def test_another_serving_of_the_teacher_is_taken_out():
    again = with_tags(subject(lab()[0], lab()[1], serving=1), name="v0-l0.0@monday", same_as="v0-l0.0")
    panel = assemble(model(suspect()), teacher(), Cohort(subjects=(*lab()[2], again)))
    assert "v0-l0.0@monday" not in [entry.name for entry in panel.subjects]


def only(vendors):
    return Cohort(subjects=tuple(entry for entry in lab()[2] if entry.member.vendor in vendors), source="small/")


@pytest.mark.parametrize("vendors", [(), ("v1",), ("v1", "v2"), ("v0", "v1", "v2")])
def test_a_cohort_that_cannot_say_what_is_usual(vendors):
    with pytest.raises(ConfigError, match="cohort cannot say what is usual") as caught:
        compare(model(suspect()), teacher(), Cohort(subjects=only(vendors).subjects[:7], source="small/"), settings=QUICK)
    assert "small/" in str(caught.value)


def with_protocol(entry, protocol):
    return replace(entry, behaviour=replace(entry.behaviour, protocol=protocol))


def test_other_protocols_are_refused_or_stated():
    one, two = ProbeProtocol(suites={"refusal": "aa"}), ProbeProtocol(system="Be brief.", suites={"refusal": "aa"})
    case, other = with_protocol(model(suspect()), one), with_protocol(teacher(), two)
    with pytest.raises(InputError, match="the protocols differ"):
        compare(case, other, lab()[2], settings=QUICK)
    panel = assemble(case, other, lab()[2], loose=True)
    assert any("was asked under another protocol" in note for note in panel.notes)
    assert any("have no recorded protocol" in note for note in panel.notes)


def test_a_run_is_not_compared_with_itself():
    same = replace(teacher().behaviour, evidence={"run": "abc", "answers": 10})
    with pytest.raises(ConfigError, match="the same run"):
        compare(replace(model(suspect()), behaviour=same), replace(teacher(), behaviour=same), lab()[2], settings=QUICK)


def always(entry, token):
    table = {item: Observation(seen.stratum, (token,)) for item, seen in entry.behaviour.signatures["refusal"].items()}
    return replace(entry, behaviour=replace(entry.behaviour, signatures={**entry.behaviour.signatures, "refusal": table}))


@pytest.mark.parametrize(("token", "said"), [("refuse", "all but 0 of 200"), ("comply", "declined on 0 of 200")])
def test_a_model_that_always_decides_alike_is_compared_by_its_tools(token, said):
    comparison = compare(always(model(suspect()), token), teacher(), lab()[2], settings=replace(QUICK, draws=0))
    refusal = next(entry for entry in comparison.signatures if entry.name == "refusal")
    assert not refusal.used
    assert said in refusal.reason
    assert "suspect" in refusal.reason
    assert next(entry for entry in comparison.signatures if entry.name == "tool_choice").used


def test_a_model_that_always_decides_alike_and_nothing_else_is_no_case():
    case = always(model(suspect()), "refuse")
    bare = replace(case, behaviour=replace(case.behaviour, signatures={"refusal": case.behaviour.signatures["refusal"]}))
    with pytest.raises(InputError, match="nothing to compare") as caught:
        compare(bare, teacher(), lab()[2], settings=QUICK)
    assert "all but 0 of 200" in str(caught.value)


def test_another_suite_has_nothing_in_common():
    tables = {"refusal": {f"{item}@other": seen for item, seen in teacher().behaviour.signatures["refusal"].items()}}
    with pytest.raises(InputError, match="nothing to compare"):
        compare(Subject(member=Member(name="s"), behaviour=Behaviour(model="s", signatures=tables)), teacher(), lab()[2])


def test_signatures_can_be_chosen_and_must_exist():
    comparison = compare(model(suspect()), teacher(), lab()[2], settings=replace(QUICK, draws=0, signatures=("refusal",)))
    assert [entry.name for entry in comparison.signatures] == ["refusal"]
    with pytest.raises(ConfigError, match="no such signature"):
        compare(model(suspect()), teacher(), lab()[2], settings=replace(QUICK, signatures=("colour",)))


def test_difference_in_differences_shows_the_move_towards_the_teacher():
    moved, still = ({entry.signature: entry for entry in found(dose, based=True).shifts} for dose in (0.95, 0.0))
    assert set(moved) == {"refusal", "tool_choice"}
    assert moved["tool_choice"].difference > 2 * moved["tool_choice"].error > 0
    assert moved["tool_choice"].difference > still["tool_choice"].difference + 1
    for shift in (*moved.values(), *still.values()):
        assert shift.difference == pytest.approx(shift.suspect - shift.base)
    assert found(0.0).shifts == []


def test_the_residual_map_adds_up_to_the_raw_score():
    panel = assemble(model(suspect(teacher=lab()[1], dose=0.95, base="root")), teacher(), lab()[2])
    scores, _ = usable_signatures(panel, None)
    for name, entry in found(0.95).map.items():
        assert sum(entry["values"]) == pytest.approx(scores[name].raw[panel.suspect, panel.teacher])
        assert sum(row["sum"] for row in entry["strata"]) == pytest.approx(sum(entry["values"]))


def test_every_vendor_of_controls_counts_once_in_the_rank():
    panel = assemble(model(suspect()), teacher(), lab()[2])
    scores, _ = usable_signatures(panel, None)
    ranks = rank(panel, {name: entry.raw for name, entry in scores.items()})
    assert (ranks.n_teachers, ranks.vendors_teachers) == (36, 9)
    assert (ranks.n_suspects, ranks.vendors_suspects) == (36, 9)
    assert ranks.floor == pytest.approx(1 / 10)
    assert ranks.p == max(ranks.p_teachers, ranks.p_suspects)


def test_sensitivity_repeats_the_headline_under_changed_choices():
    case = model(suspect(teacher=lab()[1], dose=0.95))
    comparison = compare(case, teacher(), lab()[2], settings=Settings(draws=0, signatures=("refusal", "tool_choice")))
    rows = {row["change"]: row["log10_lr"] for row in comparison.sensitivity}
    assert rows["as reported"] == comparison.headline.log10_lr
    assert {"5% of refusal labels flipped", "one half of the questions", "without the refusal signature"} <= rows.keys()
    assert all(value is None or abs(value) < 2 for value in rows.values())


@pytest.mark.parametrize(("log10_lr", "said"), [
    (0.0, "no support"), (0.01, "no support"), (0.5, "weak support for the target"), (1.0, "weak"), (1.2, "moderate support"),
    (-2.5, "moderately strong support for the alternative"), (3.5, "strong"), (9.0, "very strong"),
])
def test_the_verbal_scale(log10_lr, said):
    assert said in verbal(log10_lr)
