"""Secret keys: one 32-byte root, HKDF subkeys for tenants and epochs, and the text form that secret scanners match.

Key text, version 1: ``wmk1_`` followed by lower-case base32 without padding of ``kind || secret || label || checksum``,
where ``kind`` is one byte (0 root, 1 tenant), ``secret`` is 32 bytes, ``label`` is empty for a root and
``tenant NUL epoch`` in UTF-8 for a tenant, and ``checksum`` is the first 4 bytes of SHA-256 over all that precedes it
under the domain ``wmcheck/key/1``. A key file is that line plus comment lines that start with ``#``.

A tenant's secret is ``HKDF-SHA256(root, info=canonical("wmcheck/tenant/1", tenant, epoch))``: it can be handed to an
auditor without exposing the root or another tenant (RFC 5869).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from functools import cache
from itertools import pairwise
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wmcheck.watermark.core.errors import KeyFileError

PREFIX = "wmk1_"
SECRET_BYTES = 32
ROOT, TENANT = 0, 1
MAX_LABEL_BYTES = 512
MAX_PAYLOAD_BYTES = 1 + SECRET_BYTES + MAX_LABEL_BYTES
_CHECKSUM_BYTES = 4

# Keys that peers publish in their code, papers or examples: a watermark under one of them proves nothing.
SYNTHID_DEFAULTS = (
    654, 400, 836, 123, 340, 443, 597, 160, 57, 29, 590, 639, 13, 715, 468,
    990, 966, 226, 324, 585, 118, 504, 421, 521, 129, 669, 732, 225, 90, 960,
)
PUBLIC_DEFAULTS = frozenset((
    0, 1, 42, 123, 1234, 12345, 35317, 15485863, 2971215073, 2**31 - 1, 2**32 - 1, 2**61 - 1, 2**63 - 1, 2**64 - 1,
    *SYNTHID_DEFAULTS,
))


def canonical(*fields: str | bytes) -> bytes:
    """Injective encoding of a list of fields: each is preceded by its length as a big-endian u16."""
    encoded = [field.encode() if isinstance(field, str) else field for field in fields]
    return b"".join(struct.pack(">H", len(field)) + field for field in encoded)


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 with an empty salt (RFC 5869)."""
    return HKDF(hashes.SHA256(), length, None, info).derive(secret)


@cache
def _public_encodings() -> frozenset[bytes]:
    found = set()
    for number in PUBLIC_DEFAULTS:
        digits = str(number).encode()
        found.add(number.to_bytes(SECRET_BYTES, "big"))
        found.add(number.to_bytes(SECRET_BYTES, "little"))
        found.add(digits.rjust(SECRET_BYTES, b"\0"))
        found.add(digits.ljust(SECRET_BYTES, b"\0"))
        found.add(hashlib.sha256(digits).digest())
        found.add(hashlib.sha256(struct.pack("<Q", number)).digest())
    return frozenset(found)


def refuse_weak(secret: bytes, *, where: str = "key") -> None:
    """Refuse secrets that are published, structured or too short.

    Raises:
        KeyFileError: the secret is not 32 bytes, encodes a public default key of a known project, or has fewer than
            12 distinct bytes (a random key fails that test with probability below 1e-13).
    """
    made = "make one with: wmcheck key new -o lab.wmk"
    if len(secret) != SECRET_BYTES:
        raise KeyFileError("wrong key length", where=where, got=f"{len(secret)} bytes", expected="32 bytes", hint=made)
    if secret in _public_encodings():
        raise KeyFileError("this is a published default key; a watermark under it proves nothing", where=where, hint=made)
    steps = {(b - a) % 256 for a, b in pairwise(secret)}
    if len(set(secret)) < 12 or len(steps) < 6:
        raise KeyFileError("the key is not random", where=where, expected="32 bytes from a secure generator", hint=made)


class _Key:
    """What root and tenant keys share: a secret that is never shown and a public identity."""

    __slots__ = ("_commitment", "_secret", "epoch", "tenant_name")
    _kind: int
    tenant_name: str
    epoch: str

    def __init__(self, secret: bytes, tenant: str, epoch: str, *, where: str = "key") -> None:
        refuse_weak(secret, where=where)
        self._secret = bytes(secret)
        self.tenant_name = tenant
        self.epoch = epoch
        message = canonical("wmcheck/commitment/1", bytes([self._kind]), self._secret, tenant, epoch)
        self._commitment = hashlib.sha256(message).hexdigest()

    @property
    def commitment(self) -> str:
        """SHA-256 of the key under a domain tag, in hex: publish it before use; it reveals nothing about the key."""
        return self._commitment

    @property
    def id(self) -> str:
        """Public key id: the first 16 hex digits of the commitment."""
        return self._commitment[:16]

    def reveal(self) -> str:
        """The key as ``wmk1_...`` text. This IS the secret: write it to a 0600 file and nowhere else."""
        label = b"" if self._kind == ROOT else f"{self.tenant_name}\0{self.epoch}".encode()
        body = bytes([self._kind]) + self._secret + label
        return PREFIX + base64.b32encode(body + _checksum(body)).decode().lower().rstrip("=")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and hmac.compare_digest(self._commitment, other._commitment)

    def __hash__(self) -> int:
        return hash(self._commitment)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled; give workers a key source such as 'file:lab.wmk'")

    def __getstate__(self) -> NoReturn:
        self.__reduce__()

    def __copy__(self) -> _Key:
        return self

    def __deepcopy__(self, memo: object) -> _Key:
        return self


class SecretKey(_Key):
    """The root secret of one deployment. Its repr, its id and its commitment are public; nothing else is.

    Example:
        >>> key = SecretKey.load("file:lab.wmk")            # doctest: +SKIP
        >>> tenant = key.tenant("acct-91", epoch="2026-11")  # doctest: +SKIP
    """

    __slots__ = ()
    _kind = ROOT

    def __init__(self, secret: bytes, *, where: str = "key") -> None:
        super().__init__(secret, "", "", where=where)

    @classmethod
    def new(cls) -> SecretKey:
        """A fresh key from the operating system's secure generator."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def load(cls, source: str) -> SecretKey:
        """Load a root key from ``file:PATH``, ``env:NAME`` or ``keyring:SERVICE/NAME``.

        Raises:
            KeyFileError: the source cannot be read, or holds no root key.
        """
        key = load_key(source)
        if not isinstance(key, SecretKey):
            raise KeyFileError(
                "not a root key", where=source, got=f"the key of tenant '{key.tenant_name}'", expected="a root key",
                hint="use TenantKey.load for a tenant's key",
            )
        return key

    def tenant(self, name: str = "", epoch: str = "") -> TenantKey:
        """The key of one tenant (account, cohort, deployment) in one epoch; ``""`` is the deployment's own.

        Raises:
            KeyFileError: a label that holds NUL or is longer than 512 bytes.
        """
        check_label(name, epoch)
        secret = hkdf(self._secret, canonical("wmcheck/tenant/1", name, epoch), SECRET_BYTES)
        return TenantKey(secret, name, epoch)

    def __repr__(self) -> str:
        return f"SecretKey(id={self.id})"


class TenantKey(_Key):
    """The key of one tenant and epoch; scheme subkeys derive from it, the root cannot be computed from it."""

    __slots__ = ()
    _kind = TENANT

    @classmethod
    def load(cls, source: str, tenant: str = "", epoch: str = "") -> TenantKey:
        """Load a tenant's key, or derive ``tenant`` and ``epoch`` from a root key at ``source``."""
        return as_tenant(load_key(source), tenant, epoch)

    def subkey(self, label: str, purpose: str) -> bytes:
        """16 bytes for one keyed function: ``HKDF(secret, canonical("wmcheck/prf/1", label, purpose))``."""
        return hkdf(self._secret, canonical("wmcheck/prf/1", label, purpose), 16)

    def __repr__(self) -> str:
        return f"TenantKey(id={self.id}, tenant={self.tenant_name!r}, epoch={self.epoch!r})"


def check_label(tenant: str, epoch: str) -> None:
    """Refuse labels that a key file cannot carry."""
    label = f"{tenant}\0{epoch}"
    try:
        sound = label.count("\0") == 1 and len(label.encode()) <= MAX_LABEL_BYTES
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise KeyFileError(
            "unusable tenant or epoch name", where="tenant", got=repr(label)[:60],
            expected=f"UTF-8 without NUL, at most {MAX_LABEL_BYTES} bytes",
        )


def as_tenant(key: SecretKey | TenantKey, tenant: str = "", epoch: str = "") -> TenantKey:
    """``key`` itself if it is a tenant's key, else the named tenant of a root key.

    Raises:
        KeyFileError: ``key`` belongs to another tenant or epoch than the one asked for.
    """
    if isinstance(key, SecretKey):
        return key.tenant(tenant, epoch)
    if (tenant and tenant != key.tenant_name) or (epoch and epoch != key.epoch):
        raise KeyFileError(
            "a tenant's key holds that tenant alone", where=f"key {key.id}", got=f"{tenant!r} epoch {epoch!r}",
            expected=f"{key.tenant_name!r} epoch {key.epoch!r}", hint="use the root key, or leave out --tenant",
        )
    return key


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(canonical("wmcheck/key/1", body)).digest()[:_CHECKSUM_BYTES]


def parse_key(text: str, *, where: str = "key") -> SecretKey | TenantKey:
    """Read key text version 1; neither the message nor the frames of an error hold the text.

    Raises:
        KeyFileError: a public default, an unknown version, a damaged or a weak key.
    """
    try:
        return _parse(text, where)
    except KeyFileError as error:
        failure = error.with_traceback(None)
    # Raised from here, so that tools which print the locals of every frame have no secret to print.
    del text
    raise failure


def _parse(text: str, where: str) -> SecretKey | TenantKey:
    stripped = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
    lines = [line for line in stripped if line and not line.startswith("#")]
    made = "make one with: wmcheck key new -o lab.wmk"
    if len(lines) != 1:
        raise KeyFileError("no single key line", where=where, got=f"{len(lines)} lines", expected="one wmk1_ line", hint=made)
    line = lines[0]
    if not line.startswith(PREFIX):
        if line.isascii() and line.isdigit() and len(line) < 25 and int(line) in PUBLIC_DEFAULTS:
            raise KeyFileError("this is a published default key; a watermark under it proves nothing", where=where, hint=made)
        known = line.startswith("wmk") and "_" in line[:8]
        raise KeyFileError(
            "key file of another version" if known else "not a wmcheck key", where=where,
            got=line.split("_")[0][:8] + "_..." if known else f"{len(line)} characters", expected="wmk1_...", hint=made,
        )
    encoded = line[len(PREFIX) :]
    try:
        body = base64.b32decode(encoded.upper() + "=" * (-len(encoded) % 8)) if encoded == encoded.lower() else b""
    except ValueError:
        body = b""
    payload, checksum = body[:-_CHECKSUM_BYTES][:MAX_PAYLOAD_BYTES], body[-_CHECKSUM_BYTES:]
    plain = base64.b32encode(body).decode().lower().rstrip("=") == encoded
    if not plain or len(payload) < 1 + SECRET_BYTES or not hmac.compare_digest(_checksum(payload), checksum):
        raise KeyFileError(
            "the key is damaged", where=where, got="checksum mismatch", expected="an unaltered wmk1_ line",
            hint="restore it from a backup; a changed key detects nothing",
        )
    return _from_payload(payload, where)


def _from_payload(payload: bytes, where: str) -> SecretKey | TenantKey:
    kind, secret, label = payload[0], payload[1 : 1 + SECRET_BYTES], payload[1 + SECRET_BYTES :]
    if kind == ROOT and not label:
        return SecretKey(secret, where=where)
    if kind == TENANT and label.count(b"\0") == 1:
        # Bytes that are not UTF-8 become lone surrogates, which no label may hold.
        tenant, epoch = label.decode("utf-8", "surrogateescape").split("\0")
        check_label(tenant, epoch)
        return TenantKey(secret, tenant, epoch, where=where)
    raise KeyFileError("unknown kind of key", where=where, got=f"kind {kind}", expected="0 (root) or 1 (tenant)")


def load_key(source: str) -> SecretKey | TenantKey:
    """Load a root or tenant key from ``file:PATH``, ``env:NAME`` or ``keyring:SERVICE/NAME``.

    Raises:
        KeyFileError: an unknown source (a literal key included), an unreadable one, or a bad key in it.
    """
    from wmcheck.watermark.key_sources import read_source

    return parse_key(read_source(source), where=source)
