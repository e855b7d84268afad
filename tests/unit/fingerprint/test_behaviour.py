"""Decision tables: round trips, bytes that depend on nothing else, hostile files, and what observation leaves out."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.fingerprint.behaviour import Behaviour, Observation, choice, load_behaviour, save_behaviour
from wmcheck.fingerprint.observe import observe
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import InputError

WHOLE = Behaviour(
    model="m", protocol=ProbeProtocol(system="Be brief.", suites={"refusal": "ab"}, extra={"effort": "low"}), notes=("a note",),
    evidence={"run": "head", "answers": 2},
    signatures={
        "refusal": {"refusal/q1": Observation("topic", ("refuse", "comply"))},
        "tool_choice": {"t#tool": Observation("k", ("x",))},
    },
)


@pytest.mark.parametrize("name", ["plain.json", "packed.json.gz"])
def test_a_table_comes_back(tmp_path, name):
    save_behaviour(WHOLE, tmp_path / name)
    again = load_behaviour(tmp_path / name)
    assert again.to_dict() == WHOLE.to_dict()
    assert again.signatures == WHOLE.signatures
    assert again.protocol == WHOLE.protocol
    assert again.source == str(tmp_path / name)


tokens = st.lists(st.text(max_size=4), min_size=1, max_size=3).map(tuple)
table = st.dictionaries(st.text(max_size=6), st.builds(Observation, st.text(max_size=4), tokens), max_size=4)
tables = st.dictionaries(st.text(max_size=6), table, max_size=3)


@given(st.text(max_size=9), tables)
def test_any_table_comes_back(model, signatures):
    made = Behaviour(model=model, signatures=signatures)
    assert Behaviour.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_equal_tables_are_equal_bytes(tmp_path):
    turned = Behaviour(
        model="m", protocol=WHOLE.protocol, notes=WHOLE.notes, evidence=WHOLE.evidence, source="elsewhere",
        signatures=dict(reversed(WHOLE.signatures.items())),
    )
    for name, table in (("one.json.gz", WHOLE), ("two.json.gz", turned)):
        save_behaviour(table, tmp_path / name)
    assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()


GOOD = WHOLE.to_dict()
HOSTILE = {
    "not a table": b'{"schema": "wmcheck.cohort/1"}',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "not JSON": b"refuse, comply",
    "cut": json.dumps(GOOD).encode()[:-20],
    "empty": b"",
    "not UTF-8": b'{"schema": "\xff\xfe"}',
    "deep": b"[" * 200_000,
    "another version": json.dumps({**GOOD, "schema": "wmcheck.behaviour/9"}).encode(),
    **{
        f"{name} is {value!r}": json.dumps({**GOOD, name: value}).encode()
        for name, value in (
            ("model", None), ("model", ["m"]), ("signatures", None), ("signatures", []), ("signatures", {"refusal": []}),
            ("signatures", {"refusal": {"q": "comply"}}), ("signatures", {"refusal": {"q": []}}),
            ("signatures", {"refusal": {"q": ["s"]}}),
            ("signatures", {"refusal": {"q": ["s", 1]}}), ("signatures", {"refusal": {"q": [None, "comply"]}}),
            ("signatures", {"refusal": {"q": {"0": "s", "1": "x"}}}), ("protocol", []), ("protocol", {"colour": "red"}),
            ("protocol", "greedy"), ("notes", "text"), ("notes", [1]), ("notes", None), ("evidence", []), ("evidence", "x"),
        )
    },
    "without a model": json.dumps({name: value for name, value in GOOD.items() if name != "model"}).encode(),
    "without signatures": json.dumps({name: value for name, value in GOOD.items() if name != "signatures"}).encode(),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_files_are_refused_by_name(tmp_path, kind, packed):
    path = tmp_path / ("x.json.gz" if packed else "x.json")
    path.write_bytes(gzip.compress(HOSTILE[kind]) if packed else HOSTILE[kind])
    with pytest.raises(InputError, match=r"x\.json.*: not a behaviour table"):
        load_behaviour(path)


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08broken", b"plain text"])
def test_broken_archives_are_refused(tmp_path, data):
    (tmp_path / "x.json.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.json\.gz"):
        load_behaviour(tmp_path / "x.json.gz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json"):
        load_behaviour(tmp_path / "nothing.json")


def test_a_choice_keeps_equality_and_no_words():
    assert choice("New York, NY") == choice("New York, NY") != choice("New York")
    assert len(choice("New York, NY")) == 12
    assert len(choice("\ud800")) == 12


# --- observation


def answer(item, served="m", text="I can't help with that.", **fields):
    return Transcript(suite="refusal", item=item, model_requested="m", model_served=served, text=text, **fields)


def test_answers_of_another_server_are_left_out_and_counted():
    seen = observe("m", [answer("a"), answer("b", "m-mini"), answer("c", None), answer("d", "m-2026-01-01")])
    assert set(seen.signatures["refusal"]) == {"refusal/a", "refusal/c", "refusal/d"}
    assert any("1 of 4 answers left out: served by m-mini" in note for note in seen.notes)
    assert any("1 of 3 answers do not say which model served them" in note for note in seen.notes)


@pytest.mark.parametrize(("answers", "said"), [
    ([], "no answers"), ([answer("a", "other")], "1 answers, all served by another model"),
])
def test_nothing_left_to_observe(answers, said):
    with pytest.raises(InputError, match=said):
        observe("m", answers, source="suspect.run")


def test_chosen_signatures_alone_are_observed():
    assert set(observe("m", [answer("a")], signatures=["refusal"]).signatures) == {"refusal"}
    assert "refusal_form" in observe("m", [answer("a")]).signatures


def test_tables_without_decisions_are_left_out():
    assert "tool_choice" not in observe("m", [answer("a")]).signatures
