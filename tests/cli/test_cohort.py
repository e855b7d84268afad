"""``cohort``: built from run logs and other tools' logs, checked, listed; and what stops it."""

import json

import numpy as np
import pytest

from wmcheck.fingerprint.behaviour import save_behaviour
from wmcheck.fingerprint.simulate import ChoiceWorld, Population, subject


@pytest.fixture(scope="module")
def models():
    rng = np.random.default_rng(11)
    world = ChoiceWorld(rng, items=200)
    return [subject([world], recipe) for recipe in Population(vendors=6, lines=1, versions=2).recipes(rng)]


@pytest.fixture
def built(wm, models):
    names = []
    for one in models:
        save_behaviour(one.behaviour, wm.path / f"{one.name}.behaviour.json.gz")
        names.append(f"{one.name}.behaviour.json.gz")
    (wm.path / "tags.json").write_text(json.dumps({one.name: one.member.to_dict() for one in models}))
    done = wm("cohort", "build", "-o", "cohort", "--tags", "tags.json", *names)
    assert done.code == 0, done.err
    assert "12 models of 6 vendors" in done.err
    return wm


def test_a_built_cohort_is_checked_listed_and_scored(built):
    done = built("cohort", "check", "cohort", "--format", "json")
    assert done.code == 0
    assert done.json["schema"] == "wmcheck.cohort-check/1"
    assert done.json["problems"] == []
    assert [check["name"] for check in done.json["signatures"]] == ["tool_choice"]
    assert built("cohort", "show", "cohort", "--json").json[0]["vendor"] == "v0"
    rows = built("cohort", "pairs", "cohort", "--format", "json", "--limit", "3").json
    assert [row["relation"] for row in rows] == ["line"] * 3
    assert built("cohort", "pairs", "cohort", "--format", "csv").out.startswith("one,other,relation,")
    text = built("cohort", "check", "cohort").out
    assert "12 models of 6 vendors, 6 product lines" in text
    assert "no problem found" in text


def test_members_that_are_there_stay_and_a_new_run_replaces_its_namesake(built, models):
    done = built("cohort", "build", "-o", "cohort", f"{models[0].name}.behaviour.json.gz")
    assert done.code == 0
    assert "12 models" in done.err
    assert f"without a vendor tag, and so taken as unrelated to all others: {models[0].name}" in done.err


def test_logs_of_other_tools_become_members(wm):
    rows = [{"model": name, "id": f"q{i}", "label": "refuse" if i % 3 else "comply"} for name in ("a", "b") for i in range(20)]
    (wm.path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"model": "a"}\n')
    done = wm("cohort", "build", "-o", "cohort", "--from", "labelled", "rows.jsonl")
    assert done.code == 0, done.err
    assert "skipped: rows.jsonl:41" in done.err
    assert {row["name"] for row in wm("cohort", "show", "cohort", "--json").json} == {"a", "b"}
    strict = wm("cohort", "check", "cohort", "--strict")
    assert strict.code == 3
    assert "problem: too small: 2 models" in strict.out


def test_the_bundled_cohort_can_be_checked(wm):
    done = wm("cohort", "check", "bundled", "--format", "json")
    assert done.code == 0
    assert (done.json["models"], done.json["vendors"]) == (37, 9)
    assert done.json["problems"] == []


@pytest.mark.parametrize(("make", "message"), [
    (None, "no cohort there"),
    ("{}", "not a cohort index"),
    ('{"schema": "wmcheck.cohort/1", "members": []}', "the cohort is empty"),
    ('{"schema": "wmcheck.cohort/1", "members": [{"file": "a.json"}]}', "a member without a name"),
    ('{"schema": "wmcheck.cohort/1", "members": [{"name": "a"}]}', "a member without a file"),
    ('{"schema": "wmcheck.cohort/1", "members": [{"name": "a", "file": "a.json"}]}', "the file of a member is missing"),
    ('{"schema": "wmcheck.cohort/1", "members": [{"name": "a", "kind": "cat", "file": "a.json"}]}', "unknown kind of member"),
    ('{"schema": "wmcheck.cohort/1", "members": [{"name": "a", "teachers": "b", "file": "a.json"}]}', "wrong type"),
    ("{", "not a cohort index"),
])
def test_a_folder_that_is_no_cohort_is_refused_with_its_reason(wm, make, message):
    if make is not None:
        (wm.path / "bad").mkdir()
        (wm.path / "bad" / "cohort.json").write_text(make)
    done = wm("cohort", "check", "bad")
    assert done.code == 2
    assert message in done.err
    assert "bad" in done.err


def test_tags_that_cannot_be_used_are_refused(built, models):
    one = f"{models[0].name}.behaviour.json.gz"
    cases = (("[1]", "not a table of tags"), ("{", "no JSON"), (f'{{"{models[0].name}": {{"kind": 3}}}}', "wrong type"))
    for text, message in cases:
        (built.path / "bad.json").write_text(text)
        done = built("cohort", "build", "-o", "new", "--tags", "bad.json", one)
        assert done.code == 2
        assert message in done.err
    assert "the tags cannot be read" in built("cohort", "build", "-o", "new", "--tags", "gone.json", one).err
