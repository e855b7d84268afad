"""Keys of peers: every form is read, nothing is shown."""

import pickle

import pytest

from wmcheck.watermark.core.errors import KeyFileError
from wmcheck.watermark.keys import SYNTHID_DEFAULTS, SecretKey
from wmcheck.watermark.peer_keys import PeerKey, parse_peer_key


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12345678901234567", 12345678901234567),
        ("# vLLM, production\n0xFFFFFFFFFFFFFFFF\n", 2**64 - 1),
        ("[3, -7, 9]", (3, -7, 9)),
        ('["0x10", 5]', (16, 5)),
        ("3\n7\n\n9", (3, 7, 9)),
        ("\ufeff-5", -5),
        ("hex:00ff10", b"\x00\xff\x10"),
    ],
)
def test_every_form_is_read(text, value):
    assert parse_peer_key(text) == PeerKey(value)
    assert parse_peer_key(parse_peer_key(text).reveal()) == PeerKey(value)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing", "twelve", "1.5", "[1, 2.5]", "[1, true]", "[]", "[[1]]", "hex:", "hex:0", "hex:" + "00" * 2000, "1 2",
     str(1 << 128), "[" * 100_000, "9" * 5000, "٣"],
    ids=lambda text: text[:12] or "empty",
)
def test_other_text_is_refused_without_echo(text):
    with pytest.raises(KeyFileError) as refused:
        parse_peer_key(text, where="file:x.key")
    assert str(refused.value) == (
        f"file:x.key: not a peer's key (got {len(text) if text != '# nothing' else 0} characters, "
        "expected an integer, a JSON list of integers, or hex:BYTES)"
    )


def test_a_key_of_ours_is_no_peers_key():
    key = SecretKey.new()
    with pytest.raises(KeyFileError, match="a wmcheck key under a peer's contract") as refused:
        parse_peer_key(key.reveal())
    assert key.reveal() not in str(refused.value)


def test_shapes_are_checked_and_values_never_shown():
    key = PeerKey((111222333444, 555666777888))
    with pytest.raises(KeyFileError) as refused:
        key.integer("vllm-gumbel")
    assert str(refused.value) == (
        "key: a key that vllm-gumbel cannot take (got a list of 2 integers, expected one integer from 0 to 2^64 - 1)"
    )
    assert key.integers("x", count=2) == (111222333444, 555666777888)
    for call in (lambda: key.integers("x", count=3), lambda: key.octets("x"), lambda: PeerKey(-1).integer("x"),
                 lambda: PeerKey(1 << 64).integer("x"), lambda: PeerKey(b"1").integer("x"), lambda: PeerKey(b"1").integers("x")):
        with pytest.raises(KeyFileError) as refused:
            call()
        assert "111222333444" not in str(refused.value)
    shown = repr(key) + str(key) + key.id + key.commitment
    assert "111222333444" not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)


def test_identity_is_that_of_the_value():
    assert PeerKey(7) == PeerKey((7,))
    assert PeerKey(7) != PeerKey(b"\x07")
    assert PeerKey(7).commitment == PeerKey(7).commitment != PeerKey((7, 7)).commitment
    assert len(PeerKey(7).commitment) == 64
    assert PeerKey(7).commitment.startswith(PeerKey(7).id)
    assert PeerKey((1, 23)).commitment != PeerKey((12, 3)).commitment
    assert PeerKey(7).subkey("a", "b") != PeerKey(8).subkey("a", "b")


@pytest.mark.parametrize(
    ("value", "published"),
    [(15485863, True), (42, True), (987654321987, False), (SYNTHID_DEFAULTS, True), (SYNTHID_DEFAULTS[:5], True),
     (tuple(range(1000, 1030)), False), ((42, 987654321), True), (b"\x2a", False)],
)
def test_published_defaults_are_known(value, published):
    assert PeerKey(value).published is published
