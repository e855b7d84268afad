"""Signers: Ed25519 key pairs in PEM files, and self-signed certificates for those whose signatures hold for a time only.

A signer's id is SHA-256 in hex over the DER form of its public key (SubjectPublicKeyInfo).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from wmcheck.watermark.core.errors import ConfigError, InputError, KeyFileError, printable
from wmcheck.watermark.evidence.dsse import IN_TOTO, Envelope, pae

PRIVATE = "-----BEGIN PRIVATE KEY-----"
ENCRYPTED = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
CERTIFICATE = "-----BEGIN CERTIFICATE-----"
PUBLIC = "-----BEGIN PUBLIC KEY-----"
MADE = "make one with: wmcheck attest --new-signer investigator.pem"
MAX_PEM_BYTES = 65_536

Passphrase = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Identity:
    """The public half of a signer.

    Attributes:
        key: its public key.
        name: the common name of its certificate; empty for a bare key.
        begins: first moment at which its signatures hold; None without a certificate.
        ends: last one.
        source: where it was read from.
    """

    key: Ed25519PublicKey
    name: str = ""
    begins: datetime | None = None
    ends: datetime | None = None
    source: str = ""

    @property
    def id(self) -> str:
        """SHA-256 of the public key, in hex."""
        return hashlib.sha256(self.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )).hexdigest()

    @property
    def pem(self) -> str:
        """The public key as PEM text."""
        return self.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")

    def verify(self, envelope: Envelope, where: str) -> None:
        """Check the signature of an envelope.

        Raises:
            InputError: made by another key, or over other bytes.
        """
        if envelope.keyid != self.id:
            raise InputError("signed by another key", where=f"{where}, signature", got=envelope.keyid[:80], expected=self.id)
        self.verify_bytes(envelope.signature, pae(envelope.payload_type, envelope.payload), where)

    def verify_bytes(self, signature: bytes, message: bytes, where: str) -> None:
        """Check a bare signature; see :meth:`verify`."""
        try:
            self.key.verify(signature, message)
        except InvalidSignature:
            raise InputError(
                "the signature does not fit the content", where=f"{where}, signature", got="a changed payload or signature",
                expected=f"what key {self.id[:16]} signed",
            ) from None

    def check_time(self, when: datetime, where: str) -> None:
        """Refuse a moment at which the certificate does not hold.

        Raises:
            InputError: ``when`` lies before or after its validity.
        """
        if self.begins is None or self.ends is None or self.begins <= when <= self.ends:
            return
        late = when > self.ends
        raise InputError(
            "the signer's certificate has expired" if late else "the signer's certificate did not hold yet", where=where,
            got=when.isoformat(timespec="seconds"), expected=f"{self.begins.isoformat()} to {self.ends.isoformat()}",
            hint="a signature holds after that only with a trusted timestamp from before (--tsa CERTIFICATE)" if late else "",
        )

    @classmethod
    def parse(cls, text: str, *, where: str) -> Identity:
        """The identity in PEM text: a public key, or a self-signed certificate.

        Raises:
            KeyFileError: a private key, no PEM, another kind of key, or a certificate that another key signed.
        """
        if PRIVATE in text or ENCRYPTED in text:
            raise KeyFileError("a private key where a public one belongs", where=where, expected="the signer's .pub.pem file")
        blocks = text.count("-----BEGIN ")
        if blocks != 1:
            raise KeyFileError("not one public key", where=where, got=f"{blocks} PEM blocks", expected="one", hint=MADE)
        try:
            if CERTIFICATE in text:
                return cls._of_certificate(x509.load_pem_x509_certificate(text.encode()), where)
            key = serialization.load_pem_public_key(text.encode())
        except (ValueError, TypeError, x509.InvalidVersion) as error:
            raise KeyFileError("not a public key", where=where, got=type(error).__name__, expected="PEM", hint=MADE) from None
        return cls(_ed25519(key, where), source=where)

    @classmethod
    def _of_certificate(cls, found: x509.Certificate, where: str) -> Identity:
        key = _ed25519(found.public_key(), where)
        try:
            found.verify_directly_issued_by(found)
        except (ValueError, TypeError, InvalidSignature):
            raise KeyFileError(
                "the certificate is not its own issuer's", where=where, expected="a self-signed certificate of the signer",
                hint="chains of authorities are not followed: trust the signer itself",
            ) from None
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = printable(str(names[0].value)) if names else ""
        return cls(key, name, found.not_valid_before_utc, found.not_valid_after_utc, where)

    @classmethod
    def load(cls, path: str) -> Identity:
        """Read a ``.pub.pem`` file; see :meth:`parse`."""
        return cls.parse(_read(path), where=path)


class Signer:
    """The private half. Its repr is public, it is not pickled, and no error shows it."""

    __slots__ = ("_key", "identity")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.identity = Identity(key.public_key())

    @classmethod
    def new(cls) -> Signer:
        """A fresh key pair."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str, passphrase: Passphrase | None = None) -> Signer:
        """Read a PEM file (PKCS #8).

        Args:
            path: the file.
            passphrase: asked where the file is encrypted.

        Raises:
            KeyFileError: missing, damaged, no Ed25519 key, or a wrong passphrase.
        """
        text = _read(path)
        try:
            return cls._parse(text, path, passphrase)
        except KeyFileError as error:
            failure = error.with_traceback(None)
        # Raised from here, so that tools which print the locals of every frame have no secret to print.
        del text
        raise failure

    @classmethod
    def _parse(cls, text: str, where: str, passphrase: Passphrase | None) -> Signer:
        if PUBLIC in text or CERTIFICATE in text:
            raise KeyFileError("a public key cannot sign", where=where, expected="the signer's private .pem file")
        encrypted = ENCRYPTED in text
        if encrypted and passphrase is None:
            raise KeyFileError("the private key is encrypted", where=where, expected="its passphrase")
        secret = passphrase() if encrypted and passphrase is not None else None
        try:
            key = serialization.load_pem_private_key(text.encode(), secret)
        except (ValueError, TypeError):
            what = "a wrong passphrase, or a damaged key" if encrypted else "not a private key"
            raise KeyFileError(what, where=where, expected="PEM (PKCS #8)", hint="" if encrypted else MADE) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError("not an Ed25519 key", where=where, got=type(key).__name__, expected="Ed25519", hint=MADE)
        return cls(key)

    def sign(self, payload: bytes, payload_type: str = IN_TOTO) -> Envelope:
        """An envelope round ``payload``."""
        return Envelope(payload, payload_type, self.identity.id, self.sign_bytes(pae(payload_type, payload)))

    def sign_bytes(self, message: bytes) -> bytes:
        """A bare signature."""
        return self._key.sign(message)

    def private_pem(self, passphrase: bytes | None = None) -> str:
        """The private key as PEM text. This IS the secret: write it to a 0600 file and nowhere else."""
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            protection = serialization.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
        ).decode("ascii")

    def public_pem(self, *, name: str = "", days: int | None = None, now: datetime | None = None) -> str:
        """The public half as PEM text: a bare key, or a self-signed certificate that holds for ``days``.

        Raises:
            ConfigError: a name that no certificate can hold, or a validity that ends after the year 9999.
        """
        if days is None:
            return self.identity.pem
        begins = (now or datetime.now(UTC)).replace(microsecond=0)
        try:
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or f"wmcheck signer {self.identity.id[:16]}")])
            made = (
                x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(self.identity.key)
                .serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(begins + timedelta(days))
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).sign(self._key, None)
            )
        except (ValueError, OverflowError) as error:
            raise ConfigError("no certificate can say that", where="--name, --valid-days", got=str(error)[:100]) from None
        return made.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def __repr__(self) -> str:
        return f"Signer(id={self.identity.id[:16]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signer is not pickled; give workers the path of its file")


def _ed25519(key: object, where: str) -> Ed25519PublicKey:
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError("not an Ed25519 key", where=where, got=type(key).__name__, expected="Ed25519", hint=MADE)
    return key


def _read(path: str) -> str:
    try:
        data = Path(path).read_bytes()
        if len(data) > MAX_PEM_BYTES:
            raise KeyFileError("too large for a PEM file", where=path, got=f"{len(data)} bytes")
        return data.decode("ascii")
    except FileNotFoundError:
        raise KeyFileError("no such key file", where=path, hint=MADE) from None
    except (OSError, ValueError) as error:
        raise KeyFileError("cannot read the key file", where=path, got=type(error).__name__) from None
