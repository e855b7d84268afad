"""Cohort folders: round trips, names that files cannot carry, and every way in which an index can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from wmcheck.fingerprint.behaviour import Behaviour, Observation, save_behaviour
from wmcheck.fingerprint.cohort import INDEX, SCHEMA, Cohort, Subject, load_subject_file
from wmcheck.fingerprint.member import Member
from wmcheck.watermark.core.errors import ConfigError, InputError


def made(name, **tags):
    table = {"refusal": {"refusal/q": Observation("s", (f"only {name}",))}}
    return Subject(member=Member(name=name, **tags), behaviour=Behaviour(model="internal name", signatures=table))


def test_a_cohort_comes_back_in_the_order_of_its_names(tmp_path):
    about = {"name": "toy", "licence": "CC0-1.0"}
    group = Cohort(subjects=(made("b", vendor="v", teachers=("a",)), made("a", kind="human")), about=about)
    group.save(tmp_path)
    again = Cohort.load(tmp_path)
    assert [subject.name for subject in again] == ["a", "b"]
    assert again.members == [group.subjects[1].member, group.subjects[0].member]
    assert again.about == group.about
    assert [subject.behaviour.signatures for subject in again] == [group.subjects[i].behaviour.signatures for i in (1, 0)]
    assert [subject.behaviour.model for subject in again] == ["a", "b"]
    assert Cohort.load(tmp_path / INDEX).members == again.members


def test_saving_twice_gives_equal_bytes(tmp_path):
    group = Cohort(subjects=(made("a"), made("b")))
    for name in ("one", "two"):
        group.save(tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize("names", [
    ("org/model", "org_model"), ("Model", "model"), ("a:b", "a b", "a/b"), ("../up", "..\\up"), ("é", "\u202e"),
])
def test_names_that_meet_in_one_file_name_stay_apart(tmp_path, names):
    Cohort(subjects=tuple(made(name) for name in names)).save(tmp_path / "cohort")
    again = Cohort.load(tmp_path / "cohort")
    assert {subject.name: subject.behaviour.signatures["refusal"]["refusal/q"].tokens[0] for subject in again} == {
        name: f"only {name}" for name in names
    }
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"], "nothing is written beside the folder"


def test_two_members_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"two members have one name \(got a\)"):
        Cohort(subjects=(made("a"), made("b"), made("a", vendor="v")))


def test_parts_of_a_cohort():
    group = Cohort(subjects=(made("a", vendor="v"), made("b", vendor="v"), made("c", family="f"), made("d")))
    assert len(group) == 4
    assert group.clusters == ["d", "f", "v"]
    assert [subject.name for subject in group.without(["b", "nobody"])] == ["a", "c", "d"]
    with pytest.raises(AttributeError):
        group.source = "x"


@pytest.fixture
def folder(tmp_path):
    save_behaviour(made("a").behaviour, tmp_path / "a.json")
    return tmp_path


def write(folder, **changes):
    index = {"schema": SCHEMA, "members": [{"name": "a", "file": "a.json"}], **changes}
    (folder / INDEX).write_text(json.dumps(index))


INDEXES = {
    "another schema": ({"schema": "x"}, InputError, "not a cohort index"),
    "members no list": ({"members": {}}, InputError, "not a cohort index"),
    "no members": ({"members": []}, InputError, "the cohort is empty"),
    "a member no object": ({"members": ["a"]}, ConfigError, "member 1: a member is not an object"),
    "a member without a name": ({"members": [{"file": "a.json"}]}, ConfigError, "without a name"),
    "a member without a file": ({"members": [{"name": "a"}]}, ConfigError, "without a file"),
    "a file no string": ({"members": [{"name": "a", "file": 3}]}, ConfigError, "without a file"),
    "a missing file": ({"members": [{"name": "a", "file": "b.json"}]}, InputError, "missing"),
    "a wrong tag": ({"members": [{"name": "a", "file": "a.json", "vendor": 7}]}, ConfigError, "member 1"),
    "one name twice": ({"members": [{"name": "a", "file": "a.json"}] * 2}, ConfigError, "two members have one name"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_wrong_index_is_refused_with_its_place(folder, kind):
    changes, error, said = INDEXES[kind]
    write(folder, **changes)
    with pytest.raises(error, match=said):
        Cohort.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00"])
def test_a_damaged_index_is_refused(folder, text):
    (folder / INDEX).write_text(text)
    with pytest.raises(InputError, match="not a cohort index"):
        Cohort.load(folder)


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="no cohort there") as caught:
        Cohort.load(tmp_path)
    assert "cohort build" in caught.value.hint
    with pytest.raises(InputError, match="no cohort there"):
        Cohort.load(tmp_path / "nowhere")


def test_a_damaged_member_is_named(folder):
    write(folder)
    (folder / "a.json").write_text('{"schema": "other"}')
    with pytest.raises(InputError, match=r"a\.json"):
        Cohort.load(folder)


def test_a_file_that_is_neither_table_nor_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(InputError, match=r"notes\.txt"):
        load_subject_file(tmp_path / "notes.txt")


def test_a_subject_can_be_tagged_anew():
    assert replace(made("a"), member=Member(name="b")).name == "b"
