"""``compare``: files and logs in, reports out, and what stops it."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wmcheck.cli.tags import parse_tags
from wmcheck.fingerprint.cohort import Cohort
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.watermark.core.errors import ConfigError

sys.path.append(str(Path(__file__).parents[1] / "support"))
from fingerprint_world import SUITE, tag_text, world, write_run, write_table

FAST = ("--cohort", "cohort", "--draws", "40", "--no-sensitivity")
TAGS = ("--suspect-tags", "vendor=student,base=base1", "--teacher-tags", "family=v0-l0,vendor=v0")
CASE = ("compare", "student.run", "--teacher", "teacher.run", *FAST, *TAGS)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """Run logs of a student and its teacher, tables of others, and a cohort."""
    one, folder = world(), tmp_path_factory.mktemp("evidence")
    write_run(one.student, folder / "student.run")
    write_run(one.teacher, folder / "teacher.run")
    write_table(one.rival, folder / "rival.behaviour.json.gz")
    write_table(one.base, folder / "base.behaviour.json")
    one.cohort.save(folder / "cohort")
    return folder


@pytest.fixture
def lab(wm, evidence):
    """The command line in a folder with the evidence."""
    shutil.copytree(evidence, wm.path, dirs_exist_ok=True)
    return wm


def test_a_report_in_every_format(lab):
    table = lab(*CASE)
    assert (table.code, table.err) == (0, "")
    assert table.out.startswith("H_T: the training data of the suspect included outputs of the teacher\nA0:")
    assert "Suspect student, teacher v0-l0.0" in table.out
    data = lab(*CASE, "--format", "json").json
    assert data["schema"] == "wmcheck.comparison/1"
    assert data["settings"]["draws"] == 40
    starts = {".html": "<!DOCTYPE html>", ".md": "# Behaviour of student", ".json": '{\n "schema"', ".txt": "H_T"}
    for ending, start in starts.items():
        done = lab(*CASE, "-o", f"report{ending}")
        assert (done.code, done.out, done.err) == (0, "", "")
        assert lab.read(f"report{ending}").startswith(start)
    assert lab(*CASE, "-o", "report.html", "--format", "md").code == 0
    assert lab.read("report.html").startswith("# Behaviour")


def test_what_the_run_logs_record_stands_in_the_report(lab):
    data = lab(*CASE, "--format", "json").json
    evidence = data["suspect"]["evidence"]
    last = json.loads(lab.read("student.run").splitlines()[-1])
    assert evidence["run"] == last["hash"]
    counts = {"calls": 200, "failures": 0, "answers": 200, "prompt_tokens": 2000, "completion_tokens": 800}
    assert counts.items() <= evidence.items()
    assert evidence["suites"] == [SUITE]
    assert re.fullmatch("[0-9a-f]{64}", evidence["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", data["cohort"]["sha256"])
    assert data["suspect"]["tags"]["vendor"] == "student"
    assert len(data["cohort"]["members"]) == data["cohort"]["models"] == 34
    text = lab(*CASE, "--format", "md").out
    assert last["hash"] in text
    assert "| suspect | 200 | 200 | 0 | 2,000 | 800 |" in text
    assert "words of an answer" not in text + json.dumps(data)


def test_the_cohort_digest_follows_its_files(lab):
    before = lab(*CASE, "--format", "json").json["cohort"]["sha256"]
    index = json.loads(lab.read("cohort/cohort.json"))
    index["members"][3]["date"] = "2024-01"
    lab.write("cohort/cohort.json", json.dumps(index, indent=1))
    assert lab(*CASE, "--format", "json").json["cohort"]["sha256"] != before


def test_several_teachers_make_one_report(lab):
    teachers = ("--teacher", "teacher.run", "--teacher", "rival.behaviour.json.gz")
    tags = ("--suspect-tags", "vendor=student", "--teacher-tags", "vendor=v0", "--teacher-tags", "vendor=v8")
    base = ("--base", "base.behaviour.json", "--base-tags", "vendor=open")
    done = lab("compare", "student.run", *teachers, *FAST, *base, *tags, "--format", "json")
    assert (done.code, done.err) == (0, "")
    data = done.json
    assert [one["teacher"]["name"] for one in data["comparisons"]] == ["v0-l0.0", "v8-l1.1"]
    assert data["multiplicity"]["correction"] == "Holm, 2 comparisons"
    p = [one["rank"]["p"] for one in data["comparisons"]]
    adjusted = [one["rank"]["p_adjusted"] for one in data["comparisons"]]
    assert adjusted[p.index(min(p))] == pytest.approx(min(1.0, 2 * min(p)))
    assert all(one["base"]["name"] == "base1" for one in data["comparisons"])
    assert [shift["signature"] for shift in data["comparisons"][0]["difference_in_differences"]] == ["refusal"]


def test_a_family_of_the_whole_investigation(lab):
    rank = lab(*CASE, "--family", "5", "--format", "json").json["rank"]
    assert rank["correction"] == "Holm, 5 comparisons"
    assert rank["p_adjusted"] == pytest.approx(min(1.0, 5 * rank["p"]))


def test_signatures_can_be_chosen(lab):
    table = write_table(world().student, lab.path / "student.behaviour.json")
    write_table(world().teacher, lab.path / "teacher.behaviour.json")
    named = ("--teacher", "teacher.behaviour.json", "--signature", "tool_choice")
    done = lab("compare", table, *named, *FAST, *TAGS, "--format", "json")
    assert [one["name"] for one in done.json["signatures"]] == ["tool_choice"]


def test_a_report_never_replaces_evidence(lab, fail):
    before = lab.read("teacher.run")
    fail(lab(*CASE, "-o", "teacher.run"), "teacher.run: the output would replace an input", hint="choose another name for -o")
    assert lab.read("teacher.run") == before


def test_a_refused_comparison_leaves_no_report(lab):
    assert lab(*CASE[:4], "--cohort", "nowhere", "-o", "report.html").code == 2
    assert [path.name for path in lab.path.iterdir() if path.name.startswith("report")] == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["student.run"], "--teacher: no teacher"),
    (["student.run", "rival.run", "--teacher", "teacher.run"], "SUSPECT: one suspect at a time (got 2 files, expected 1)"),
    (["gone.run", "--teacher", "teacher.run"], "gone.run: "),
    (["student.run", "--teacher", "teacher.run", "--signature", "smell"], "--signature: no such signature (got 'smell'"),
    (["student.run", "--teacher", "teacher.run", "--suspect", "x"], "--suspect: --suspect names models in logs"),
    (["student.run", "--teacher", "teacher.run", "--tags", "x"], "--tags: --tags names models in logs"),
    (["student.run", "--teacher", "teacher.run", "--teacher", "rival.behaviour.json.gz", "--teacher-tags", "vendor=x"],
     "--teacher-tags: tags for some teachers only (got 1 for 2 teachers"),
    (["student.run", "--teacher", "teacher.run", "--teacher", "rival.behaviour.json.gz", "--family", "1"],
     "--family: the family is smaller than what is compared here (got 1, expected at least 2)"),
    (["--from", "smoke", "logs", "--suspect", "a", "--teacher", "b"],
     "--from: no such format (got 'smoke', expected anthropic, bfcl"),
    (["student.run", "--teacher", "student.run"], "--teacher: two models of the comparison have one name (got 'student'"),
    (["student.run", "--teacher", "student.run", "--teacher-tags", "name=other"],
     "student.run: suspect and teacher are the same run"),
    (["student.run", "--teacher", "teacher.run", "--cohort", "nowhere"], "nowhere: no cohort there"),
    (["student.run", "--teacher", "teacher.run", "--draws", "3"], "--draws: "),
])
def test_usage(lab, fail, arguments, message):
    fail(lab("compare", *arguments), message, hint=None)


@pytest.mark.parametrize(("text", "message"), [
    ("famly=x", "no such tag (got 'famly'"), ("vendor", "not a tag (got 'vendor', expected family=x"),
    ("vendor=", "not a tag"),
    ("vendor=a,vendor=b", "a tag is given twice (got vendor)"), ("date=May", "not a date (got 'May'"),
    ("date=2025-13", "not a date"),
    ("kind=robot", "unknown kind of member"), ("@gone.json", "the tags cannot be read"), ("@bad.json", "the tags are no JSON"),
    ("@list.json", "not an object of tags (got list"), ("@number.json", "tag 'vendor' of a member has the wrong type"),
])
def test_tags_that_mean_nothing(lab, text, message):
    lab.write("bad.json", "{")
    lab.write("list.json", "[1]")
    lab.write("number.json", '{"vendor": 3}')
    done = lab("compare", "student.run", "--teacher", "teacher.run", *FAST, "--suspect-tags", text)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_tags_as_text_and_as_file(lab):
    lab.write("tags.json", '{"family": "f", "teachers": ["a", "b"]}')
    assert parse_tags(" family=f , teachers=a+b,", "here") == parse_tags("@tags.json", "here")
    assert parse_tags("base=a=b,date=2025-01-31", "here") == {"base": "a=b", "date": "2025-01-31"}
    with pytest.raises(ConfigError, match="no such tag") as caught:
        parse_tags("vender=x", "here")
    assert caught.value.hint == "did you mean vendor?"


def test_untagged_models_are_a_stated_downgrade(lab):
    data = lab("compare", "student.run", "--teacher", "teacher.run", *FAST, "--format", "json").json
    assert any("the suspect student has no family, vendor or base tag" in note for note in data["downgrades"])
    tagged = lab(*CASE, "--format", "json").json
    assert not any("base tag" in note for note in tagged["downgrades"])


def test_a_member_of_the_cohort_brings_its_tags(lab):
    member = world().cohort.subjects[5]
    path = write_table(member, lab.path / "member.behaviour.json")
    data = lab("compare", "student.run", "--teacher", path, *FAST, "--format", "json").json
    assert data["teacher"]["tags"] == member.member.to_dict()


def test_an_empty_cohort(lab, fail):
    index = json.loads(lab.read("cohort/cohort.json"))
    lab.write("cohort/cohort.json", json.dumps({**index, "members": []}))
    fail(lab(*CASE), "cohort/cohort.json: the cohort is empty", hint="add models with 'wmcheck cohort build'")


def test_a_cohort_of_one_vendor(lab, fail):
    members = [replace(one, member=replace(one.member, vendor="only")) for one in world().cohort]
    Cohort(subjects=tuple(members)).save(lab.path / "single")
    done = lab("compare", "student.run", "--teacher", "teacher.run", "--cohort", "single")
    fail(done, "single: the cohort cannot say what is usual (got 34 usable models of 1 vendors", hint=None)
    assert "--cohort bundled" in done.err


def test_the_teacher_is_taken_out_of_the_cohort(lab):
    one = world()
    Cohort(subjects=(*one.cohort.subjects, one.teacher)).save(lab.path / "with-teacher")
    data = lab(*CASE[:4], "--cohort", "with-teacher", *CASE[6:], "--format", "json").json
    assert one.teacher.name not in data["cohort"]["names"]
    assert f"{one.teacher.name} is left out of the cohort: it is the teacher, {one.teacher.name}" in data["downgrades"]
    assert data["cohort"]["models"] == 34


def test_protocols_that_differ(lab, fail):
    write_run(world().teacher, lab.path / "warm.run", protocol=ProbeProtocol(temperature=0.7, suites={"refusal": "a" * 64}))
    case = [*CASE[:3], "warm.run", *CASE[4:]]
    done = lab(*case)
    fail(done, "warm.run: the protocols differ (got temperature", hint=None)
    assert "--loose-protocol" in done.err
    loose = lab(*case, "--loose-protocol", "--format", "json")
    assert loose.code == 0
    assert any("was asked under another protocol (temperature" in note for note in loose.json["downgrades"])


def test_a_suite_of_another_version(lab, fail):
    protocol = ProbeProtocol(suites={"refusal": "b" * 64})
    suite = {**SUITE, "version": "2", "digest": "b" * 64}
    write_run(world().teacher, lab.path / "newer.run", protocol=protocol, suite=suite)
    case = [*CASE[:3], "newer.run", *CASE[4:]]
    fail(
        lab(*case),
        "newer.run: the runs asked different editions of the suite 'refusal' (got version 2, seed 0, digest bbbbbbbbbbbb, "
        "expected version 1, seed 0, digest aaaaaaaaaaaa, as in student.run)",
        hint="probe both with one release of wmcheck and one --seed, or pass --loose-protocol to compare what they share",
    )
    loose = lab(*case, "--loose-protocol", "--format", "json")
    assert any("another protocol (suite refusal" in note for note in loose.json["downgrades"])


@pytest.mark.parametrize("decision", ["refuse", "comply"])
def test_a_model_that_always_decides_alike(lab, decision):
    """Refusing everything, or nothing, says nothing: an error if there is nothing else, a silent signature otherwise."""
    one = world().student
    write_run(one, lab.path / "alike.run", decide=lambda place: decision)
    done = lab("compare", "alike.run", *CASE[2:])
    assert done.code == 2
    assert "nothing to compare" in done.err
    assert "refusal: the suspect: " in done.err
    tables = {**one.behaviour.signatures}
    tables["refusal"] = {item: replace(seen, tokens=(decision,)) for item, seen in tables["refusal"].items()}
    changed = replace(one, behaviour=replace(one.behaviour, signatures=tables))
    write_table(changed, lab.path / "alike.behaviour.json")
    write_table(world().teacher, lab.path / "teacher.behaviour.json")
    rest = lab("compare", "alike.behaviour.json", "--teacher", "teacher.behaviour.json", *CASE[4:], "--format", "json").json
    found = {signature["name"]: signature for signature in rest["signatures"]}
    assert found["refusal"]["reason"].startswith("the suspect: ")
    assert (found["refusal"]["used"], found["tool_choice"]["used"]) == (False, True)


def test_answers_that_do_not_say_who_served_them(lab):
    write_run(world().student, lab.path / "unnamed.run", served=False)
    done = lab("compare", "unnamed.run", *CASE[2:], "--format", "json")
    assert done.code == 0
    assert "suspect: 200 of 200 answers do not say which model served them" in done.json["downgrades"]


def test_nothing_in_common_with_the_bundled_cohort(lab, fail):
    write_table(world().student, lab.path / "student.behaviour.json")
    done = lab("compare", "student.run", "--teacher", "teacher.run", "--draws", "40")
    fail(done, "student.run: nothing to compare", hint=None)


def logs(lab):
    """Labelled answers of every model of the world."""
    one = world()
    rows = [
        {"model": subject.name, "item": item[8:], "label": seen.tokens[0], "stratum": seen.stratum[8:]}
        for subject in (one.student, one.teacher, *one.cohort)
        for item, seen in subject.behaviour.signatures["refusal"].items()
    ]
    return lab.write("logs.jsonl", rows)


def test_logs_of_other_tools_need_no_call(lab):
    one = world()
    tags = {member.name: member.to_dict() for member in one.cohort.members}
    lab.write("tags.json", json.dumps({**tags, "absent": {"vendor": "x"}}))
    named = ("--from", "labelled", "--suspect", "student", "--teacher", one.teacher.name, "--tags", "tags.json")
    done = lab("compare", logs(lab), *named, *TAGS, "--draws", "40", "--no-sensitivity", "--format", "json")
    assert done.code == 0
    assert done.err == "note: tags.json: no model 'absent' in the logs\n"
    data = done.json
    assert (data["cohort"]["models"], data["cohort"]["vendors"]) == (34, 9)
    assert data["suspect"]["evidence"]["answers"] == 200
    assert re.fullmatch("[0-9a-f]{64}", data["suspect"]["evidence"]["digest"])
    assert data["headline"]["alternative"] == "A0"
    # The same models as files against the same models as a cohort folder.
    assert data["signatures"][1]["z"] == pytest.approx(lab(*CASE, "--format", "json").json["signatures"][1]["z"])
    mixed = lab("compare", "logs.jsonl", *named[:4], "--teacher", "teacher.run", *FAST, *TAGS, "--format", "json")
    assert mixed.json["signatures"][1]["z"] == pytest.approx(data["signatures"][1]["z"])
    assert mixed.json["cohort"]["source"] == "cohort"


def test_untagged_logs_are_a_stated_downgrade(lab):
    named = ("--from", "labelled", "--suspect", "student", "--teacher", world().teacher.name)
    done = lab("compare", logs(lab), *named, "--draws", "40", "--no-sensitivity", "--format", "json")
    assert done.code == 0
    assert any("34 of 34 models of the cohort have no family or vendor tag" in note for note in done.json["downgrades"])
    assert done.json["headline"] is None


def test_logs_without_names_list_what_they_hold(lab, fail):
    done = lab("compare", logs(lab), "--from", "labelled")
    assert done.out == ""
    assert re.search(r"^student +200$", done.err, re.MULTILINE)
    fail(
        done, "--suspect: the logs hold 36 models, and none is named as the suspect (expected one of the models listed above)",
        hint="name both: --suspect NAME --teacher NAME; the others become the cohort",
    )
    assert "--teacher: the logs hold 36 models" in lab("compare", "logs.jsonl", "--from", "labelled", "--suspect", "student").err
    wrong = lab("compare", "logs.jsonl", "--from", "labelled", "--suspect", "studnt", "--teacher", world().teacher.name)
    fail(wrong, "--suspect: no such model in the logs (got 'studnt'", hint=None)
    assert "did you mean student?" in wrong.err


def test_bad_records_are_shown_and_counted(lab):
    path = logs(lab)
    with open(path, "a", encoding="utf-8") as file:
        file.write("no json\n" * 8)
    named = ("--from", "labelled", "--suspect", "student", "--teacher", world().teacher.name)
    done = lab("compare", path, *named, *FAST, *TAGS, "--format", "json")
    assert done.err.count("skipped: logs.jsonl:") == 5
    assert "skipped: 3 more records" in done.err
    assert "8 records of the logs could not be read" in done.json["downgrades"]


def test_no_progress_without_a_terminal_and_a_seed_repeats(lab):
    first, second = (lab(*CASE, "--seed", "5", "--format", "json") for _ in range(2))
    assert first.err == ""
    assert first.json == second.json


def test_tags_of_the_world_can_be_written_on_a_command_line():
    one = world().teacher
    assert parse_tags(tag_text(one), "here").items() <= one.member.to_dict().items()
