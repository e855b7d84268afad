"""Evidence: statements, bundle files, digests, summaries and the page; nothing that was changed passes."""

import copy
import hashlib
import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.watermark.core.errors import InputError, WmcheckError
from wmcheck.watermark.evidence.bundle import BUNDLE, PLAN, Sealed
from wmcheck.watermark.evidence.compare import differences
from wmcheck.watermark.evidence.digests import digest_path
from wmcheck.watermark.evidence.page import render_page
from wmcheck.watermark.evidence.signing import Signer
from wmcheck.watermark.evidence.statement import (
    RESULT_TYPE,
    STATEMENT,
    PlanStatement,
    ResultStatement,
    check_inputs,
    signer_of,
)
from wmcheck.watermark.evidence.strict import canonical
from wmcheck.watermark.evidence.summary import findings, in_words, summarize
from wmcheck.watermark.keys import SecretKey

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
DIGEST = "ab" * 32
RUN = {
    "argv": ["check", "suspect.jsonl", "--json"], "settings": {},
    "inputs": [{"name": "suspect.jsonl", "sha256": DIGEST, "bytes": 3}],
    "keys": [{"source": "file:lab.wmk", "id": "0" * 16, "commitment": "cd" * 32}], "versions": {"python": "3.12.1"},
}
RESULT = {
    "schema": "wmcheck.check/1", "alpha": 1e-05, "records": [
        {"record": "a", "verdict": "DETECTED", "log10_p": -12.5, "tests": [
            {"document": "a", "verdict": "DETECTED", "log10_p": -12.5, "log10_p_adjusted": -12.0, "family": 4,
             "correction": "Holm over 4 tests", "null": "Exp(1) sums", "assumptions": ["x", "y"], "key_commitment": "cd" * 32,
             "n_scored": 100, "statistic": "robust", "scheme": "gumbel"},
        ]},
    ],
}


@pytest.fixture(scope="module")
def signer():
    return Signer.new()


def statement_of(signer, **changed):
    values = {
        "created": NOW, "result": RESULT, "run": RUN, "profiles": [], "revealed": [], "summary": summarize(RESULT), "plan": None,
        "signer": signer_of(signer.identity), **changed,
    }
    return ResultStatement(**values)


def refused(action, match):
    with pytest.raises(InputError, match=match):
        action()


# --- statements and bundles ----------------------------------------------------------------------------------------

def seal(signer, **changed):
    return Sealed(BUNDLE, signer.sign(statement_of(signer, **changed).payload()))


def test_a_statement_comes_back(signer):
    statement = ResultStatement.parse(statement_of(signer).payload(), "b")
    assert statement == statement_of(signer)
    data = json.loads(statement.payload())
    assert data["_type"] == STATEMENT
    assert data["predicateType"] == RESULT_TYPE
    assert data["subject"] == [{"name": "suspect.jsonl", "digest": {"sha256": DIGEST}}]
    assert data["predicate"]["plan"] == "none"
    assert statement.summary["corrections"] == ["Holm over 4 tests"]
    assert statement.summary["assumptions"] == ["x", "y"]


def test_a_folder_is_a_subject_of_its_own_kind(signer):
    run = {**RUN, "inputs": [{"name": "model", "sha256": DIGEST, "bytes": 3, "files": 2}]}
    data = json.loads(statement_of(signer, run=run).payload())
    assert data["subject"] == [{"name": "model", "digest": {"dirHash": DIGEST}}]


def altered(signer, change):
    """A statement changed before it is signed: what a dishonest signer could make."""
    data = json.loads(statement_of(signer).payload())
    change(data)
    return canonical(data)


@pytest.mark.parametrize("change, match", [
    (lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"), "another kind of statement"),
    (lambda d: d.update(predicateType="urn:wmcheck:plan:1"), "another kind of predicate"),
    (lambda d: d.update(predicateType="urn:wmcheck:result:0"), "another kind of predicate"),
    (lambda d: d["subject"].append(d["subject"][0]), "subject and inputs differ"),
    (lambda d: d["subject"][0].update(name="other"), "subject and inputs differ"),
    (lambda d: d["predicate"].update(note="x"), "unknown field"),
    (lambda d: d["predicate"].pop("plan"), "missing"),
    (lambda d: d["predicate"].update(plan=None), "not an object"),
    (lambda d: d["predicate"].update(plan="None"), "not an object"),
    (lambda d: d["predicate"]["summary"].update(alpha=0.05), "the summary is not that of the result"),
    (lambda d: d["predicate"]["summary"].update(corrections=[]), "the summary is not that of the result"),
    (lambda d: d["predicate"]["summary"].update(assumptions=["x"]), "the summary is not that of the result"),
    (lambda d: d["predicate"]["result"].update(run={}), "no result"),
    (lambda d: d["predicate"]["run"].update(argv="check"), "no command line"),
    (lambda d: d["predicate"]["run"].update(argv=[]), "no command line"),
    (lambda d: d["predicate"]["run"]["inputs"][0].update(sha256="AB" * 32), "not a digest"),
    (lambda d: d["predicate"]["run"]["inputs"][0].update(bytes=3.0), "not a digest"),
    (lambda d: d["predicate"]["run"]["inputs"][0].update(md5="x"), "unknown field"),
    (lambda d: d["predicate"]["run"]["keys"][0].update(commitment=1), "not text"),
    (lambda d: d["predicate"]["run"].update(versions=[]), "impossible value"),
    (lambda d: d["predicate"].update(created="2026-11-21"), "not a moment"),
    (lambda d: d["predicate"].update(created="2026-11-21T09:30:00+00:00"), "not a moment"),
    (lambda d: d["predicate"]["signer"].update(keyid="0" * 64), "not that of its key"),
    (lambda d: d["predicate"].update(profiles=[{"name": "p", "sha256": DIGEST, "text": "{}"}]), "profile is not the one"),
    (lambda d: d["predicate"].update(revealed_keys=[{"id": "", "commitment": "", "key": "wmk1_aa"}]), "damaged"),
])
def test_statements_that_contradict_themselves_are_refused(signer, change, match):
    with pytest.raises(WmcheckError, match=match):
        ResultStatement.parse(altered(signer, change), "b")


def test_a_shown_key_must_be_a_tested_tenants_key(signer, lab_key):
    tenant = lab_key.tenant("acct-17")
    shown = [{"id": tenant.id, "commitment": tenant.commitment, "key": tenant.reveal()}]
    result = copy.deepcopy(RESULT)
    result["records"][0]["tests"][0]["key_commitment"] = tenant.commitment
    good = statement_of(signer, result=result, summary=summarize(result), revealed=shown)
    assert ResultStatement.parse(good.payload(), "b").revealed == shown
    refused(lambda: ResultStatement.parse(statement_of(signer, revealed=shown).payload(), "b"), "was not tested")
    lie = [{**shown[0], "commitment": "cd" * 32}]
    refused(lambda: ResultStatement.parse(statement_of(signer, revealed=lie).payload(), "b"), "not the one that it is said")
    root = [{"id": lab_key.id, "commitment": lab_key.commitment, "key": lab_key.reveal()}]
    refused(lambda: ResultStatement.parse(statement_of(signer, revealed=root).payload(), "b"), "a root key is shown")


@pytest.fixture(scope="module")
def lab_key():
    return SecretKey(hashlib.sha256(b"a test key: evidence").digest())


@pytest.mark.parametrize("inputs, match", [
    ([], "no inputs"),
    ([{"name": "-", "sha256": None}], "cannot be read again"),
    ([{"name": "a", "sha256": DIGEST}, {"name": "a", "sha256": DIGEST}], "two inputs of one name"),
    ([{"name": "\u00e9", "sha256": DIGEST}, {"name": "e\u0301", "sha256": DIGEST}], "two inputs of one name"),
])
def test_inputs_that_no_one_could_give_again(inputs, match):
    refused(lambda: check_inputs(inputs, "r"), match)


def test_a_bundle_comes_back_byte_by_byte(signer):
    data = seal(signer).to_bytes()
    sealed = Sealed.parse(data, BUNDLE, "b")
    assert sealed.to_bytes() == data
    sealed.check(signer.identity, "b")
    refused(lambda: sealed.check(Signer.new().identity, "b"), "signed by another key")
    refused(lambda: Sealed.parse(data, PLAN, "b"), "another format")


def passes(data, identity):
    """Whether anybody could take the file for one that ``identity`` signed."""
    try:
        sealed = Sealed.parse(data, BUNDLE, "b")
        sealed.check(identity, "b")
        ResultStatement.parse(sealed.envelope.payload, "b")
    except WmcheckError:
        return False
    return True


def test_every_changed_byte_of_a_bundle_is_seen(signer):
    """Not a sample: each bit of each byte, and each byte left out or doubled."""
    good = Sealed(BUNDLE, signer.sign(canonical({"a": 1}))).to_bytes()
    identity = signer.identity

    def sound(data):
        try:
            Sealed.parse(data, BUNDLE, "b").check(identity, "b")
        except WmcheckError:
            return False
        return True

    assert sound(good)
    for place in range(len(good)):
        for bit in range(8):
            assert not sound(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]), (place, bit)
        assert not sound(good[:place] + good[place + 1 :])
        assert not sound(good[:place] + good[place : place + 1] + good[place:])
        assert not sound(good[:place])


@given(st.data())
def test_random_changes_of_a_whole_bundle_are_seen(data):
    signer = WHOLE[0]
    good = WHOLE[1]
    place = data.draw(st.integers(0, len(good) - 1))
    length = data.draw(st.integers(0, 6))
    put = data.draw(st.binary(max_size=6))
    changed = good[:place] + put + good[place + length :]
    assert passes(changed, signer.identity) == (changed == good)


WHOLE = (lambda one: (one, seal(one).to_bytes()))(Signer.new())


def test_a_plan_comes_back(signer):
    plan = PlanStatement(
        NOW, "Was it?", 1e-6, ["check", "{inputs}"], {}, [{"name": "p", "sha256": DIGEST, "bytes": 2}], RUN["keys"],
        RUN["versions"], signer_of(signer.identity),
    )
    assert PlanStatement.parse(plan.payload(), "p") == plan
    data = json.loads(plan.payload())
    data["predicate"]["alpha"] = 1
    refused(lambda: PlanStatement.parse(canonical(data), "p"), "no error rate")
    refused(lambda: ResultStatement.parse(plan.payload(), "p"), "another kind of predicate")
    sealed = Sealed(PLAN, signer.sign(plan.payload()))
    held = statement_of(signer, plan=sealed)
    assert ResultStatement.parse(held.payload(), "b").plan == sealed
    data = json.loads(held.payload())
    data["predicate"]["plan"]["sha256"] = DIGEST
    refused(lambda: ResultStatement.parse(canonical(data), "b"), "plan is not the one")


# --- digests -------------------------------------------------------------------------------------------------------

def test_digests_of_files_and_folders(tmp_path):
    """A folder's digest is Go's dirhash Hash1, worked out here by hand."""
    (tmp_path / "a").write_bytes(b"one")
    one = hashlib.sha256(b"one").hexdigest()
    assert digest_path(str(tmp_path / "a")).to_dict() == {"sha256": one, "bytes": 3}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"two")
    two = hashlib.sha256(b"two").hexdigest()
    expected = hashlib.sha256(f"{one}  a\n{two}  b/c\n".encode()).hexdigest()
    assert digest_path(str(tmp_path)).to_dict() == {"sha256": expected, "bytes": 6, "files": 2}
    (tmp_path / "d").symlink_to(tmp_path / "a")
    assert digest_path(str(tmp_path)).files == 3
    (tmp_path / "e").symlink_to(tmp_path / "b")
    refused(lambda: digest_path(str(tmp_path)), "a linked folder")


@pytest.mark.parametrize("name", ["missing", "/dev/null"])
def test_what_has_no_digest(tmp_path, name):
    refused(lambda: digest_path(name if name.startswith("/") else str(tmp_path / name)), "cannot read|neither a file")


# --- comparison, summary, page ---------------------------------------------------------------------------------------

def test_differences_have_a_place():
    got = {"a": [1, {"b": 2.0}], "c": True, "e": 1}
    expected = {"a": [1, {"b": 2.0000000000000004}], "c": 1, "d": None}
    found = [(one.where, one.got, one.expected) for one in differences(got, expected)]
    assert found == [
        ("a[1].b", "2.0", "2.0000000000000004"), ("c", "True", "1"), ("d", "nothing", "None"), ("e", "1", "nothing"),
    ]


@pytest.mark.parametrize("got, expected, same", [
    (1, 1.0, False), (True, 1, False), (0.0, -0.0, False), ("a", "a", True), ([1], [1, 2], False), (None, 0, False),
    ({}, [], False),
])
def test_types_are_compared_too(got, expected, same):
    assert (list(differences(got, expected)) == []) is same


def test_fewer_digits_loosen_real_numbers_alone():
    assert list(differences([1.23456789, 5, "x"], [1.234567891, 5, "x"], digits=9)) == []
    assert list(differences([1.2345], [1.234567891], digits=9)) != []
    assert list(differences([5], [6], digits=6)) != []
    assert list(differences([1.0], [-1.0], digits=6)) != []


def test_a_summary_does_not_depend_on_the_order_of_names():
    assert summarize(json.loads(canonical(RESULT))) == summarize(RESULT)
    assert summarize(RESULT)["verdicts"] == {"DETECTED": 1}


def test_findings_are_the_tests_and_not_their_repetitions():
    (one,) = findings(RESULT)
    assert (one["name"], one["log10_p"], one["corrected"], one["n"]) == ("a", -12.0, True, 100)
    assert findings({"log10_p": "-inf"})[0]["log10_p"] == -math.inf


@pytest.mark.parametrize("log10_p, words", [
    (0.0, "no rarer than one in three"), (-2.0, "about one in 100"), (-5.5, "about one in 316,228"),
    (-12.9, "about one in 10^12"), (-1e6, "about one in 10^1000000"), (-math.inf, "rarer than any number can say"),
])
def test_numbers_in_words_never_exaggerate(log10_p, words):
    assert in_words(log10_p) == words


def test_the_page_is_inert_and_says_what_matters(signer):
    evil = '<script>alert(1)</script>" onload="x'
    result = copy.deepcopy(RESULT)
    result["records"][0]["tests"][0].update(document=evil, null=evil, correction=evil, assumptions=[evil, "a\u202eb"])
    run = {**RUN, "argv": ["check", evil], "inputs": [{**RUN["inputs"][0], "name": evil}]}
    statement = statement_of(signer, result=result, summary=summarize(result), run=run)
    page = render_page(Sealed(BUNDLE, signer.sign(statement.payload())), statement)
    assert "<script" not in page
    assert 'onload="' not in page
    assert "\u202e" not in page
    assert "http" not in page.replace("http-equiv", "")
    said = "one in 10^12", "1e-05", "What this does not say", "wmcheck verify", DIGEST, "without a plan", "not been verified"
    assert [text for text in said if text not in page] == []
