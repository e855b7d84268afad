"""RFC 3161 timestamps over a bundle's signature: proof by a third party that it existed at a moment."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography import x509

from wmcheck.watermark.core.errors import ConfigError, InputError, KeyFileError, MissingExtraError
from wmcheck.watermark.evidence.signing import CERTIFICATE

REPLY_TYPE = "application/timestamp-reply"
_QUERY_TYPE = "application/timestamp-query"
_HASHES = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
MAX_REPLY_BYTES = 1 << 20
SECONDS = 30.0
ADDRESSES = ("http://", "https://")
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _library() -> Any:
    try:
        import rfc3161_client
    except ImportError:
        raise MissingExtraError(
            "rfc3161-client is not installed", where="--timestamp", hint="pip install 'wmcheck[timestamp]'"
        ) from None
    return rfc3161_client


def query(signature: bytes) -> bytes:
    """The DER request for a timestamp over SHA-256 of a signature.

    Raises:
        MissingExtraError: rfc3161-client is not installed.
    """
    library = _library()
    builder = library.TimestampRequestBuilder().data(signature).hash_algorithm(library.HashAlgorithm.SHA256)
    return bytes(builder.build().as_bytes())


def fetch(url: str, signature: bytes) -> bytes:
    """Ask a timestamp authority for a reply over a signature, and return it after :func:`read`.

    Raises:
        ConfigError: not an http or https address.
        InputError: no answer, or not one over this signature.
        MissingExtraError: rfc3161-client is not installed.
    """
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    if not url.startswith(ADDRESSES):
        raise ConfigError("not an address of a timestamp authority", where="--timestamp", got=url[:80], expected="http(s)://...")
    data = query(signature)
    try:
        request = Request(url, data=data, headers={"Content-Type": _QUERY_TYPE, "Accept": REPLY_TYPE})
        with urlopen(request, timeout=SECONDS) as answer:
            reply = bytes(answer.read(MAX_REPLY_BYTES + 1))
    except (URLError, HTTPException, OSError, ValueError) as error:
        got = str(getattr(error, "reason", "") or error)[:100]
        raise InputError("the timestamp authority did not answer", where=url, got=got) from None
    read(reply, signature, url)
    return reply


def read(reply: bytes, signature: bytes, where: str) -> datetime:
    """The moment that a reply states, without any trust in who made it.

    Raises:
        InputError: no RFC 3161 reply, a refusal, or one over something else.
        MissingExtraError: rfc3161-client is not installed.
    """
    moment: datetime = _over(reply, signature, where).tst_info.gen_time
    return moment


def _over(reply: bytes, signature: bytes, where: str) -> Any:
    parsed = _parsed(reply, where)
    imprint = parsed.tst_info.message_imprint
    oid = imprint.hash_algorithm.dotted_string
    name = _HASHES.get(oid)
    if name is None:
        raise InputError("a timestamp under an unknown hash", where=where, got=oid, expected=", ".join(_HASHES.values()))
    expected = hashlib.new(name, signature).digest()
    if imprint.message != expected:
        raise InputError("a timestamp over something else", where=where, got=imprint.message.hex(), expected=expected.hex())
    return parsed


def verify(reply: bytes, signature: bytes, authorities: Sequence[x509.Certificate], where: str) -> datetime:
    """The moment that a reply proves, if one of the certificates given stands behind it.

    Raises:
        InputError: as of :func:`read`, or an authority that none of the certificates vouches for.
        MissingExtraError: rfc3161-client is not installed.
    """
    parsed = _over(reply, signature, where)
    verifier = _library().VerifierBuilder(roots=list(authorities)).build()
    try:
        verifier.verify_message(parsed, signature)
    except Exception as error:  # a damaged certificate in the reply raises almost anything, and is as good as none
        raise InputError(
            "the timestamp is not of a trusted authority", where=where, got=str(error)[:120],
            expected="; ".join(one.subject.rfc4514_string() for one in authorities)[:120],
        ) from None
    moment: datetime = parsed.tst_info.gen_time
    return moment


def load_authorities(paths: Sequence[str]) -> list[x509.Certificate]:
    """The certificates in PEM files.

    Raises:
        KeyFileError: a file that cannot be read, or holds no certificate.
    """
    found: list[x509.Certificate] = []
    for path in paths:
        try:
            with open(path, encoding="ascii") as file:
                text = file.read()
            blocks = [x509.load_pem_x509_certificate(block.encode()) for block in _BLOCK.findall(text)]
        except (OSError, ValueError) as error:
            raise KeyFileError("cannot read the certificate", where=path, got=type(error).__name__, expected="PEM") from None
        if not blocks:
            raise KeyFileError("no certificate", where=path, expected=CERTIFICATE)
        found += blocks
    return found


def _parsed(reply: bytes, where: str) -> Any:
    library = _library()
    try:
        parsed = library.decode_timestamp_response(reply)
        if library.PKIStatus(parsed.status) != library.PKIStatus.GRANTED:
            raise InputError("the timestamp authority refused", where=where, got=f"status {parsed.status}", expected="granted")
        _ = parsed.tst_info.gen_time
    except InputError:
        raise
    except Exception as error:  # as above: the bytes are anybody's
        raise InputError("not an RFC 3161 reply", where=where, got=str(error)[:100], expected="DER, as in FILE.tsr") from None
    return parsed
