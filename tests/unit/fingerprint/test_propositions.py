"""Which pairs of a cohort stand for the target proposition and for each alternative."""

from __future__ import annotations

import pytest

from wmcheck.fingerprint.member import Member, related
from wmcheck.fingerprint.propositions import ALTERNATIVES, EXAMPLES, TARGET, alternative_pairs, target_pairs

COHORT = [
    Member(name="giant-1", family="giant", vendor="bigco", date="2025-01", channel="chat"),
    Member(name="giant-2", family="giant", vendor="bigco", date="2025-06", channel="chat"),
    Member(name="giant-2-raw", family="giant", vendor="bigco", date="2025-06", channel="raw"),
    Member(name="giant-2@monday", family="giant", vendor="bigco", same_as="giant-2", channel="chat"),
    Member(name="pupil", vendor="lab1", base="open", teachers=("giant-1",), date="2025-07"),
    Member(name="classmate", vendor="lab2", teachers=("giant-1",), date="2025-07"),
    Member(name="tuned", vendor="lab3", base="open", date="2025-08"),
    Member(name="open", vendor="foundation", kind="base", date="2025-09"),
    Member(name="reader", vendor="lab4", data=("chats",), date="2025-03"),
    Member(name="other-reader", vendor="lab5", data=("chats", "more"), date="2025-03"),
    Member(name="volunteers", vendor="commons", kind="human", date="2025-05"),
    Member(name="hermit", vendor="lab6", date="2025-02"),
]


def names(pairs):
    return {frozenset((COHORT[i].name, COHORT[j].name)) for i, j in pairs}


def pairs_for(name):
    return names(alternative_pairs(COHORT, next(entry for entry in ALTERNATIVES if entry.name == name)))


def both(*pairs):
    return {frozenset(pair) for pair in pairs}


def test_the_alternatives_are_those_of_the_report_in_order():
    assert [entry.name for entry in ALTERNATIVES] == [f"A{number}" for number in range(8)]
    assert "outputs of the teacher" in TARGET
    assert [entry.name for entry in ALTERNATIVES if entry.falling] == ["A6"]


def test_students_and_their_teachers_stand_for_the_target():
    pairs = target_pairs(COHORT, "teacher")
    assert names(pairs) == both(("pupil", "giant-1"), ("classmate", "giant-1"))
    assert all(COHORT[j].name == "giant-1" for _, j in pairs)


def test_versions_of_one_line_stand_in_for_it_on_one_channel():
    assert names(target_pairs(COHORT, "line")) == both(("giant-1", "giant-2"), ("giant-1", "giant-2@monday"))
    assert names(target_pairs(COHORT, "line, any channel")) == both(
        ("giant-1", "giant-2"), ("giant-1", "giant-2@monday"), ("giant-1", "giant-2-raw"), ("giant-2", "giant-2-raw"),
        ("giant-2@monday", "giant-2-raw"),
    )


def test_a_student_made_from_the_teachers_base_is_no_clean_example():
    teacher = Member(name="t", family="line", base="open")
    for base in ("open", "t", "line"):
        assert target_pairs([teacher, Member(name="s", base=base, teachers=("t",))], "teacher") == []
    assert len(target_pairs([teacher, Member(name="s", base="another", teachers=("t",))], "teacher")) == 1


def test_a_base_may_be_named_by_its_family():
    pair = [Member(name="open-7b", family="open", vendor="x"), Member(name="tuned", base="open", vendor="y")]
    assert alternative_pairs(pair, ALTERNATIVES[1]) == [(1, 0)]


def test_a0_is_chat_models_without_any_common_tag():
    found = pairs_for("A0")
    assert frozenset(("hermit", "giant-1")) in found
    assert not found & both(("pupil", "tuned"), ("pupil", "classmate"), ("giant-1", "giant-2"), ("reader", "other-reader"))
    assert not any({"open", "volunteers"} & pair for pair in found)
    apart = {
        frozenset((one.name, other.name)) for one in COHORT for other in COHORT
        if not related(one, other) and one.kind == other.kind == "chat"
    }
    assert found == apart


def test_a1_shares_a_base_or_is_made_from_the_other():
    assert pairs_for("A1") == both(("pupil", "tuned"), ("open", "tuned"), ("open", "pupil"))


def test_a2_shares_data_and_nothing_stronger():
    assert pairs_for("A2") == both(("reader", "other-reader"))


def test_a3_shares_a_teacher():
    assert pairs_for("A3") == both(("pupil", "classmate"))


@pytest.mark.parametrize("name", ["A4", "A7"])
def test_a4_and_a7_cannot_be_shown_and_say_why(name):
    assert pairs_for(name) == set()
    entry = next(entry for entry in ALTERNATIVES if entry.name == name)
    assert entry.holds is None
    assert entry.why_not


def test_a5_is_a_plain_model_after_a_chat_model():
    found = pairs_for("A5")
    assert frozenset(("open", "giant-1")) in found
    assert frozenset(("volunteers", "hermit")) in found
    assert frozenset(("volunteers", "giant-2")) not in found, "the chat model came later"
    assert frozenset(("open", "tuned")) not in found, "made from it"
    assert frozenset(("open", "volunteers")) not in found, "neither is a chat model"
    assert frozenset(("open", "giant-2@monday")) not in found, "no date"


def test_a6_is_one_model_twice():
    assert pairs_for("A6") == both(("giant-2", "giant-2@monday"))


def test_no_pair_stands_for_a0_and_for_something_else():
    for name in ("A1", "A2", "A3", "A6"):
        assert not pairs_for("A0") & pairs_for(name)
    for examples in EXAMPLES:
        for name in ("A0", "A1", "A2", "A3", "A6"):
            assert not names(target_pairs(COHORT, examples)) & pairs_for(name), (examples, name)
