"""Evidence: strict JSON, envelopes, signers, statements and bundle files; nothing that was changed passes."""

import base64
import copy
import json
import math
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.watermark.core.errors import InputError, KeyFileError, WmcheckError
from wmcheck.watermark.evidence.bundle import BUNDLE, PLAN, Sealed
from wmcheck.watermark.evidence.compare import differences
from wmcheck.watermark.evidence.digests import digest_path
from wmcheck.watermark.evidence.dsse import IN_TOTO, Envelope, from_base64, pae, to_base64
from wmcheck.watermark.evidence.page import render_page
from wmcheck.watermark.evidence.signing import Identity, Signer
from wmcheck.watermark.evidence.statement import (
    RESULT_TYPE,
    STATEMENT,
    PlanStatement,
    ResultStatement,
    check_inputs,
    signer_of,
)
from wmcheck.watermark.evidence.strict import canonical, fields, parse, parse_canonical
from wmcheck.watermark.evidence.summary import findings, in_words, summarize

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


# --- strict JSON ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [
    '{"a": 1, "a": 1}', '{"a": NaN}', "[Infinity]", "[-Infinity]", "[1e999]", "[" + "9" * 41 + "]", "[" * 65 + "]" * 65,
    "[" * 100_000, "{} {}", "{}\x00", "\ufeff{}", "", "{'a': 1}", '{"a": 01}', '["\x07"]',
])
def test_json_with_two_readings_is_refused(text):
    refused(lambda: parse(text.encode(), "f"), "f: ")


def test_bytes_that_are_not_utf8_are_refused():
    refused(lambda: parse(b'["\xff"]', "f"), "not JSON")
    # An overlong slash.
    refused(lambda: parse(b'["\xc0\xaf"]', "f"), "not JSON")


@pytest.mark.parametrize("text", [
    '{"b":1,"a":2}', '{"a": 1}', "[1.0e0]", "[1E2]", "[0.10]", '["\\u0041"]', '["\\/"]', '["é"]', '["\\u00E9"]', "[1]\n", " [1]",
])
def test_another_spelling_of_the_same_value_is_refused(text):
    parse(text.encode(), "f")
    refused(lambda: parse_canonical(text.encode(), "f"), "f, byte .*not in canonical form")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
)


@given(JSON)
def test_canonical_bytes_come_back(value):
    data = canonical(value)
    assert data.isascii()
    back = parse_canonical(data, "f")
    assert list(differences(back, value)) == []
    assert canonical(back) == data


def test_composed_and_decomposed_names_stay_two_names():
    both = {"\u00e9": 1, "e\u0301": 2}
    assert parse_canonical(canonical(both), "f") == both


def test_fields_are_exactly_those_named():
    assert fields({"a": 1}, {"a"}, "f") == {"a": 1}
    refused(lambda: fields({"a": 1, "b": 2}, {"a"}, "f"), "unknown field .got 'b'")
    refused(lambda: fields({}, {"a"}, "f"), "missing .got 'a'")
    refused(lambda: fields([], {"a"}, "f"), "not an object")


# --- DSSE ----------------------------------------------------------------------------------------------------------

def test_pae_of_the_protocol():
    """The published vector: encoding and its ECDSA P-256 signature (DSSE protocol 1.0)."""
    encoded = pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    numbers = ec.EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820, ec.SECP256R1(),
    )
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    numbers.public_key().verify(signature, encoded, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        numbers.public_key().verify(signature, encoded[:-1], ec.ECDSA(hashes.SHA256()))


def test_pae_counts_bytes_and_separates_fields():
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "
    assert pae("a 1", b"b") != pae("a", b"1 b")


@pytest.mark.parametrize("text", ["YQ", "YQ==\n", "YR==", "Y Q=", "YQ=", "YQ===", "-_-_", None, 1, "YQ==YQ=="])
def test_base64_has_one_spelling(text):
    refused(lambda: from_base64(text, "f"), "not canonical base64")


@given(st.binary(max_size=40))
def test_base64_comes_back(data):
    assert from_base64(to_base64(data), "f") == data


def envelope(signer, payload=b"{}"):
    return signer.sign(payload).to_dict()


@pytest.mark.parametrize("change, match", [
    (lambda e: e.update(payloadType="application/json"), "another payload type"),
    (lambda e: e.update(payloadType="Application/vnd.in-toto+json"), "another payload type"),
    (lambda e: e["signatures"].append(dict(e["signatures"][0])), "not one signature .got 2"),
    (lambda e: e.update(signatures=[]), "not one signature"),
    (lambda e: e.update(signatures={}), "not one signature"),
    (lambda e: e["signatures"][0].update(sig=to_base64(bytes(63))), "not an Ed25519 signature"),
    (lambda e: e["signatures"][0].update(cert="x"), "unknown field"),
    (lambda e: e["signatures"][0].update(keyid=None), "no key id"),
    (lambda e: e.update(extra=1), "unknown field"),
    (lambda e: e.update(payload=e["payload"] + "\n"), "not canonical base64"),
])
def test_envelopes_of_another_form_are_refused(signer, change, match):
    changed = envelope(signer)
    change(changed)
    refused(lambda: Envelope.from_dict(changed, where="b"), match)


def test_a_signature_holds_for_its_payload_type_alone(signer):
    sealed = signer.sign(b"{}", "application/other")
    other = Envelope(sealed.payload, IN_TOTO, sealed.keyid, sealed.signature)
    signer.identity.verify(sealed, "b")
    refused(lambda: signer.identity.verify(other, "b"), "does not fit the content")


def test_the_other_half_of_the_group_order_is_no_second_signature(signer):
    """Ed25519 is malleable where S is not reduced: S + L must be refused."""
    one = signer.sign(b"{}")
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(one.signature[32:], "little") + order
    twin = Envelope(one.payload, one.payload_type, one.keyid, one.signature[:32] + s.to_bytes(32, "little"))
    refused(lambda: signer.identity.verify(twin, "b"), "does not fit the content")


# --- signers -------------------------------------------------------------------------------------------------------

def test_a_signer_comes_back_from_its_file(signer, tmp_path):
    (tmp_path / "a.pem").write_text(signer.private_pem())
    (tmp_path / "a.pub.pem").write_text(signer.public_pem())
    loaded = Signer.load(str(tmp_path / "a.pem"))
    Identity.load(str(tmp_path / "a.pub.pem")).verify(loaded.sign(b"x"), "b")
    assert loaded.identity.id == signer.identity.id


def test_an_encrypted_signer_needs_its_passphrase(signer, tmp_path):
    path = tmp_path / "a.pem"
    path.write_text(signer.private_pem(b"correct horse"))
    assert Signer.load(str(path), lambda: b"correct horse").identity.id == signer.identity.id
    with pytest.raises(KeyFileError, match="a wrong passphrase, or a damaged key"):
        Signer.load(str(path), lambda: b"battery")
    with pytest.raises(KeyFileError, match="encrypted"):
        Signer.load(str(path))


def test_a_signer_shows_nothing(signer):
    secret = signer._key.private_bytes_raw()
    assert repr(signer) == f"Signer(id={signer.identity.id[:16]})"
    assert secret.hex() not in repr(vars(Signer)) + repr(signer)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(signer)
    with pytest.raises(TypeError):
        copy.deepcopy(signer)


@pytest.mark.parametrize("make, load, match", [
    (lambda s: s.private_pem(), Identity.load, "a private key where a public one belongs"),
    (lambda s: s.public_pem(), Signer.load, "a public key cannot sign"),
    (lambda s: s.public_pem(days=3), Signer.load, "a public key cannot sign"),
    (lambda s: "nothing", Signer.load, "not a private key"),
    (lambda s: "nothing", Identity.load, "not one public key"),
    (lambda s: s.public_pem() + Signer.new().public_pem(), Identity.load, "not one public key"),
    (lambda s: s.public_pem().replace("M", "A", 1), Identity.load, "not a public key|not an Ed25519 key"),
    (lambda s: ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
     Signer.load, "not an Ed25519 key"),
])
def test_pem_files_that_are_something_else(signer, tmp_path, make, load, match):
    path = tmp_path / "a.pem"
    path.write_text(make(signer))
    with pytest.raises(KeyFileError, match=match) as raised:
        load(str(path))
    assert signer._key.private_bytes_raw().hex() not in str(raised.value)


def test_certificates_hold_for_a_time(signer, tmp_path):
    path = tmp_path / "a.pub.pem"
    path.write_text(signer.public_pem(name="Jo\u00eb Doe", days=30, now=NOW))
    identity = Identity.load(str(path))
    assert (identity.id, identity.name) == (signer.identity.id, "Jo\u00eb Doe")
    assert (identity.begins, identity.ends) == (NOW, NOW + timedelta(30))
    identity.verify(signer.sign(b"x"), "b")
    identity.check_time(NOW, "b")
    identity.check_time(NOW + timedelta(30), "b")
    refused(lambda: identity.check_time(NOW + timedelta(30, 1), "b"), "expired")
    refused(lambda: identity.check_time(NOW - timedelta(0, 1), "b"), "did not hold yet")


def test_a_certificate_that_another_key_signed_is_refused(signer, tmp_path):
    other = Signer.new()
    forged = Signer(other._key)
    forged.identity = signer.identity
    path = tmp_path / "a.pub.pem"
    path.write_text(forged.public_pem(days=3))
    with pytest.raises(KeyFileError, match="not its own issuer's"):
        Identity.load(str(path))


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
    import hashlib

    from wmcheck.watermark.keys import SecretKey

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
    import hashlib

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
