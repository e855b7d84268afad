"""Secret keys: what is read back, what is refused, and that nothing but ``reveal`` shows a secret."""

import base64
import copy
import dataclasses
import functools
import hashlib
import json
import logging
import pickle
import re
import struct
import time
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark import keys
from wmcheck.watermark.core.errors import KeyFileError
from wmcheck.watermark.keys import (
    MAX_LABEL_BYTES,
    PUBLIC_DEFAULTS,
    SecretKey,
    TenantKey,
    as_tenant,
    canonical,
    check_label,
    parse_key,
    refuse_weak,
)

SECRET = hashlib.sha256(b"a key for tests").digest()
ROOT = SecretKey(SECRET)
TENANT = ROOT.tenant("acct-91", "2026-11")
BASE32 = "abcdefghijklmnopqrstuvwxyz234567"

secrets = st.integers(0, 2**64).map(lambda number: hashlib.sha256(b"secret %d" % number).digest())
# 60 characters of at most 4 bytes: two labels and the NUL between them stay below 512 bytes.
labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


def refusal(text, **options):
    with pytest.raises(KeyFileError) as caught:
        parse_key(text, **options)
    return caught.value


def shown(error):
    """Everything that an error can show: message, fields, notes and traceback text, without source lines."""
    parts = [error.message(), repr(error), repr(error.args), repr(vars(error))]
    while error is not None:
        parts += [str(error), *traceback.format_exception_only(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def encodings(secret):
    """Ways in which a secret could leak."""
    base32 = base64.b32encode(secret).decode()
    base64s = base64.b64encode(secret).decode()
    number = str(int.from_bytes(secret))
    return [secret.hex(), secret.hex().upper(), base32, base32.lower(), base64s, repr(secret), number]


def octets(text):
    return {text[place : place + 8] for place in range(len(text) - 7)}


@functools.cache
def pieces(key):
    """Every run of eight characters of the key text and of other encodings of the secret."""
    return set().union(*map(octets, [key.reveal().removeprefix("wmk1_"), *encodings(key._secret)]))


def assert_hidden(text, key):
    """No piece of the key stands in ``text``."""
    assert not octets(text) & pieces(key)


def craft(kind, secret, label=b""):
    """Key text with a sound checksum."""
    body = bytes([kind]) + secret + label
    checksum = hashlib.sha256(canonical("wmcheck/key/1", body)).digest()[:4]
    return "wmk1_" + base64.b32encode(body + checksum).decode().lower().rstrip("=")


@given(secrets)
def test_a_root_key_reads_back(secret):
    key = SecretKey(secret)
    again = parse_key(key.reveal())
    assert isinstance(again, SecretKey)
    assert again == key
    assert hash(again) == hash(key)
    assert (again._secret, again.id, again.commitment) == (secret, key.id, key.commitment)
    assert re.fullmatch(r"wmk1_[a-z2-7]{60}", key.reveal())
    assert key.commitment[:16] == key.id
    assert craft(0, secret) == key.reveal()


@given(secrets, labels, labels)
def test_a_tenant_key_reads_back(secret, tenant, epoch):
    key = SecretKey(secret).tenant(tenant, epoch)
    again = parse_key(f"# comment\n\n  {key.reveal()} \r\n#\n")
    assert isinstance(again, TenantKey)
    assert again == key != SecretKey(secret)
    assert (again.tenant_name, again.epoch, again.commitment) == (tenant, epoch, key.commitment)
    assert again.subkey("redgreen/left/4", "ctx") == key.subkey("redgreen/left/4", "ctx")
    assert re.fullmatch(r"wmk1_[a-z2-7]{60,}", key.reveal())


def test_new_keys_differ():
    assert len({SecretKey.new() for _ in range(100)}) == 100


# Every symbol of the encoding, and what editors, mail programs and fonts turn symbols into.
REPLACEMENTS = [*BASE32, *"0189AKZ_-=+/ .#\n\t\r\0", "\u017f", "\u0131", "\u00e9", "\u2028", "\uff21", "\U0001f642"]


@pytest.mark.parametrize("key", [ROOT, TENANT], ids=["root", "tenant"])
def test_every_changed_character_is_refused(key):
    text = key.reveal()
    for place in range(len(text)):
        for other in REPLACEMENTS:
            if other != text[place]:
                error = refusal(text[:place] + other + text[place + 1 :], where="file:lab.wmk")
                assert error.where == "file:lab.wmk"
                assert_hidden(shown(error), key)


@pytest.mark.parametrize("key", [ROOT, TENANT], ids=["root", "tenant"])
def test_lost_added_and_swapped_characters_are_refused(key):
    text = key.reveal()
    for place in range(len(text)):
        changed = [text[:place] + text[place + 1 :], text[:place], text[place:] if place else text[1:]]
        changed += [text[:place] + symbol + text[place:] for symbol in [*BASE32, "=", "-", " " if place else "x"]]
        if place and text[place - 1] != text[place]:
            changed.append(text[: place - 1] + text[place] + text[place - 1] + text[place + 1 :])
        for other in changed:
            assert_hidden(shown(refusal(other)), key)
    for tail in [*BASE32, "=", "====", "_", text]:
        refusal(text + tail)


def test_a_damaged_key_says_what_to_do():
    error = refusal(ROOT.reveal()[:-1], where="file:lab.wmk")
    assert str(error) == "file:lab.wmk: the key is damaged (got checksum mismatch, expected an unaltered wmk1_ line)"
    assert "backup" in error.hint


def test_unused_bits_of_the_last_symbol_are_no_second_spelling():
    key = ROOT.tenant("x")
    text = key.reveal()  # 39 bytes and a NUL: 62.4 symbols, three unused bits
    last = BASE32.index(text[-1])
    assert last % 8 == 0
    for bits in range(1, 8):
        refusal(text[:-1] + BASE32[last + bits])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no single key line (got 0 lines, expected one wmk1_ line)"),
        ("\n# only a comment\n\n", "no single key line (got 0 lines, expected one wmk1_ line)"),
        (ROOT.reveal() + "\n" + TENANT.reveal(), "no single key line (got 2 lines, expected one wmk1_ line)"),
        (ROOT.reveal() + "\n" + ROOT.reveal(), "no single key line (got 2 lines, expected one wmk1_ line)"),
        (ROOT.reveal().upper(), "not a wmcheck key (got 65 characters, expected wmk1_...)"),
        ("wmk1_" + ROOT.reveal()[5:].upper(), "the key is damaged"),
        ("wmk2_" + ROOT.reveal()[5:], "key file of another version (got wmk2_..., expected wmk1_...)"),
        ("wmk11_" + ROOT.reveal()[5:], "key file of another version (got wmk11_..., expected wmk1_...)"),
        ("wmk1_", "the key is damaged"),
        ("wmk1-" + ROOT.reveal()[5:], "not a wmcheck key (got 65 characters, expected wmk1_...)"),
        (SECRET.hex(), "not a wmcheck key (got 64 characters, expected wmk1_...)"),
        (ROOT.reveal() + " # my key", "the key is damaged"),
        ('"' + ROOT.reveal() + '"', "not a wmcheck key"),
        ("key = " + ROOT.reveal(), "not a wmcheck key"),
        ("\0" * 70, "not a wmcheck key"),
    ],
)
def test_other_text_is_refused(text, message):
    error = refusal(text)
    assert str(error).startswith(f"key: {message}")
    assert_hidden(shown(error), ROOT)
    assert SECRET.hex()[:8] not in shown(error)


# Without digits that are no decimals: see below.
anything = st.text(st.characters(exclude_categories=["No"]), max_size=80)


@given(anything | st.text(BASE32, min_size=1, max_size=120).map("wmk1_{}".format))
def test_any_text_is_a_key_or_an_error(text):
    with pytest.raises(KeyFileError):
        parse_key(text)


@pytest.mark.parametrize("text", ["\u00b2", "\u2460"])
def test_digits_that_are_no_numbers(text):
    assert "not a wmcheck key" in str(refusal(text))


@pytest.mark.parametrize(
    "kind, label, message",
    [
        (0, b"tenant\0", "unknown kind of key"),
        (1, b"", "unknown kind of key"),
        (1, b"a\0b\0c", "unknown kind of key"),
        (2, b"", "unknown kind of key (got kind 2, expected 0 (root) or 1 (tenant))"),
        (255, b"", "unknown kind of key"),
    ],
)
def test_a_sound_checksum_over_nonsense(kind, label, message):
    error = refusal(craft(kind, SECRET, label))
    assert str(error).startswith(f"key: {message}")
    assert_hidden(shown(error), ROOT)


@pytest.mark.parametrize("label", [b"\xff\0", b"a" * 600 + b"\0", b"a" * 65_000 + b"\0"], ids=["utf8", "long", "huge"])
def test_a_sound_checksum_over_an_unusable_label(label):
    error = refusal(craft(1, SECRET, label))
    assert_hidden(shown(error), ROOT)


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_secrets_of_another_length(length):
    with pytest.raises(KeyFileError, match=rf"wrong key length \(got {length} bytes, expected 32 bytes\)"):
        SecretKey(hashlib.shake_256(b"x").digest(length))
    if length != 32:
        refusal(craft(0, hashlib.shake_256(b"x").digest(length)))


def test_the_keys_that_peers_publish_are_listed():
    kgw, unigram, transformers_synthid, synthid = 15485863, 0, 654, 990
    assert {kgw, 42, 35317, unigram, transformers_synthid, 715, synthid, 960, 2971215073} <= PUBLIC_DEFAULTS


@pytest.mark.parametrize("number", sorted(PUBLIC_DEFAULTS))
def test_published_keys_are_refused_in_every_dress(number):
    assert "published default key" in str(refusal(f"{number}\n"))
    digits = str(number).encode()
    for secret in [
        number.to_bytes(32), number.to_bytes(32, "little"), digits.rjust(32, b"\0"), digits.ljust(32, b"\0"),
        hashlib.sha256(digits).digest(), hashlib.sha256(struct.pack("<Q", number)).digest(),
    ]:
        with pytest.raises(KeyFileError, match="published default key"):
            SecretKey(secret)
        with pytest.raises(KeyFileError, match="published default key"):
            refuse_weak(secret)
        assert "published default key" in str(refusal(craft(0, secret)))
        assert "published default key" in str(refusal(craft(1, secret, b"\0")))


@pytest.mark.parametrize(
    "secret",
    [
        bytes(range(32)), bytes(range(0, 64, 2)), bytes(range(32))[::-1], b"\x07" * 32, b"0123456789abcdef" * 2,
        b"passwordpasswordpasswordpassword", bytes(11) + bytes(range(200, 221)), b"ab" * 16, bytes([0, 128] * 16),
    ],
)
def test_secrets_that_are_not_random(secret):
    with pytest.raises(KeyFileError, match="not random") as caught:
        SecretKey(secret)
    assert not any(encoded in shown(caught.value) for encoded in [secret.decode("latin-1"), *encodings(secret)])


@given(secrets)
def test_random_secrets_are_accepted(secret):
    refuse_weak(secret)


class Holder:
    def __init__(self, key):
        self.key = key


@dataclasses.dataclass
class Settings:
    key: object


@pytest.mark.parametrize("key", [ROOT, TENANT, SecretKey.new(), SecretKey.new().tenant("t")])
def test_no_display_shows_the_secret(key, caplog):
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r %s", key, key, [key])
    displays = [
        repr(key), str(key), f"{key}", f"{key!r:>99}", repr([key]), repr({key: key}), ascii(key), caplog.text,
        repr(Settings(key)), repr(dataclasses.asdict(Settings(key))), repr(vars(Holder(key))), key.id, key.commitment,
        json.dumps({"key": key}, default=str), json.dumps(key, default=repr), repr(dir(key)), str(hash(key)),
    ]
    for display in displays:
        assert_hidden(display, key)
    assert key.id in repr(key)
    assert format(key) == str(key)
    with pytest.raises(TypeError):
        format(key, "x")


@pytest.mark.parametrize("key", [ROOT, TENANT])
def test_no_serialiser_takes_a_key(key):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(key, protocol)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(Settings({"k": [key]}), protocol)
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps({"key": key})
    with pytest.raises(TypeError, match="__dict__"):
        vars(key)
    with pytest.raises(TypeError):
        bytes(key)
    with pytest.raises(TypeError):
        json.dumps(key, default=vars)


@pytest.mark.parametrize("key", [ROOT, TENANT])
def test_copies_are_the_key_itself(key):
    assert copy.copy(key) is copy.deepcopy(key) is copy.deepcopy([key])[0] is key


def test_a_traceback_of_a_refused_key_has_no_secret():
    text = ROOT.reveal()[:-1] + ("a" if ROOT.reveal()[-1] != "a" else "b")
    try:
        parse_key(text)
    except KeyFileError:
        assert_hidden(traceback.format_exc(), ROOT)


def test_keys_compare_by_what_they_are():
    assert SecretKey(SECRET) == ROOT
    assert ROOT.tenant() != ROOT
    assert ROOT.commitment != ROOT
    assert TenantKey(SECRET, "", "") != ROOT
    assert TenantKey(SECRET, "a", "") != TenantKey(SECRET, "", "a")


@given(st.lists(st.tuples(labels, labels), min_size=2, max_size=8, unique=True))
@settings(max_examples=50)
def test_tenants_are_independent(names):
    tenants = [ROOT.tenant(*name) for name in names]
    for value in ("_secret", "id", "commitment"):
        assert len({getattr(key, value) for key in tenants}) == len(names)
    assert len({key.reveal() for key in tenants}) == len(names)
    subkeys = {key.subkey("gumbel/left/4", purpose) for key in tenants for purpose in ("ctx", "tok")}
    assert len(subkeys) == 2 * len(names)


@pytest.mark.parametrize(
    "one, other",
    [
        (("ab", "c"), ("a", "bc")), (("", "abc"), ("abc", "")), (("a/b", "c"), ("a", "b/c")),
        (("a ", "b"), ("a", " b")), (("é", ""), ("e\u0301", "")), (("A", ""), ("a", "")), (("\x01", ""), ("", "\x01")),
        (("a\n", ""), ("a", "")),
    ],
)
def test_labels_do_not_run_together(one, other):
    first, second = ROOT.tenant(*one), ROOT.tenant(*other)
    assert first != second
    assert first._secret != second._secret
    assert first.reveal() != second.reveal()


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_the_canonical_encoding_is_injective(one, other):
    assert (canonical(*one) == canonical(*other)) == (one == other)


def test_the_canonical_encoding():
    assert canonical() == b""
    assert canonical("ab", b"", "é") == bytes.fromhex("0002 6162 0000 0002 c3a9")
    assert canonical("ab", "c") != canonical("a", "bc") != canonical("abc")


def test_subkeys_of_labels_and_purposes_differ():
    left = "redgreen/left/4"
    pairs = [(left, "ctx"), (left, "tok"), ("redgreen/left/", "4ctx"), ("redgreen/left/40", "ctx")]
    found = [TENANT.subkey(*pair) for pair in pairs]
    assert len(set(found)) == len(pairs)
    assert {len(subkey) for subkey in found} == {16}
    assert TENANT.subkey(*pairs[0]) == keys.hkdf(TENANT._secret, canonical("wmcheck/prf/1", *pairs[0]), 16)


def test_longest_label():
    longest = "é" * 255  # 510 bytes, the NUL and one byte more
    key = ROOT.tenant(longest, "x")
    assert parse_key(key.reveal()) == key
    assert len(f"{longest}\0x".encode()) == MAX_LABEL_BYTES


@pytest.mark.parametrize(
    "name, epoch", [("é" * 255, "xy"), ("a" * 513, ""), ("", "a" * 512), ("a\0", ""), ("", "\0"), ("\0", "\0")]
)
def test_unusable_labels(name, epoch):
    for attempt in (check_label, ROOT.tenant, lambda *names: as_tenant(ROOT, *names)):
        with pytest.raises(KeyFileError, match="unusable tenant or epoch name"):
            attempt(name, epoch)


@pytest.mark.parametrize("name", ["\ud800", "acct-\udcff"])
def test_labels_that_are_no_unicode(name):
    # A command line with bytes that are no UTF-8 arrives like this.
    with pytest.raises(KeyFileError, match="unusable tenant or epoch name"):
        ROOT.tenant(name)


def test_as_tenant():
    assert as_tenant(ROOT) == ROOT.tenant("", "") == ROOT.tenant()
    assert as_tenant(ROOT, "acct-91", "2026-11") == TENANT
    for asked in [(), ("acct-91",), ("acct-91", "2026-11"), ("", "2026-11")]:
        assert as_tenant(TENANT, *asked) is TENANT


@pytest.mark.parametrize("asked", [("acct-92",), ("acct-91", "2026-12"), ("", "2026-12"), ("acct-92", "2026-11")])
def test_a_tenant_key_is_no_other_tenant(asked):
    with pytest.raises(KeyFileError, match="holds that tenant alone") as caught:
        as_tenant(TENANT, *asked)
    assert caught.value.expected == "'acct-91' epoch '2026-11'"
    assert_hidden(shown(caught.value), TENANT)


def test_the_root_cannot_be_had_from_a_tenant():
    assert not hasattr(TENANT, "tenant")
    assert ROOT._secret not in TENANT._secret + TENANT.reveal().encode()


def test_a_thousand_tenants_are_cheap():
    started = time.process_time()
    for number in range(1000):
        ROOT.tenant(str(number))
    assert time.process_time() - started < 2.0


def test_no_frame_of_a_refusal_holds_the_key():
    import traceback

    damaged = ROOT.reveal()[:-1] + ("a" if ROOT.reveal()[-1] != "a" else "b")
    try:
        parse_key(damaged)
    except KeyFileError as error:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
        inside = "".join(str(frame.locals) for frame in frames if frame.name != "test_no_frame_of_a_refusal_holds_the_key")
        assert damaged[10:40] not in inside
        assert frames[-1].name == "parse_key"
