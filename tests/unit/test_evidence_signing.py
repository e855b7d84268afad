"""What evidence is signed with: strict JSON, envelopes and signers; one reading, one spelling, one key."""

import base64
import copy
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.watermark.core.errors import InputError, KeyFileError
from wmcheck.watermark.evidence.compare import differences
from wmcheck.watermark.evidence.dsse import IN_TOTO, Envelope, from_base64, pae, to_base64
from wmcheck.watermark.evidence.signing import Identity, Signer
from wmcheck.watermark.evidence.strict import canonical, fields, parse, parse_canonical

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def signer():
    return Signer.new()


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
