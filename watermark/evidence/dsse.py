"""DSSE: the envelope round a signed statement (github.com/secure-systems-lab/dsse, protocol 1.0).

What is signed is the pre-authentication encoding of payload type and payload, so that neither can be read as another. Stricter
than the protocol: one signature, and base64 in its one canonical spelling, so that every byte of an envelope counts.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.evidence.strict import fields

IN_TOTO = "application/vnd.in-toto+json"
SIGNATURE_BYTES = 64


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding, version 1."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def to_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: Any, where: str) -> bytes:
    """The bytes of standard base64 with padding, in the one spelling that :func:`to_base64` gives.

    Raises:
        InputError: anything else: other alphabets, line breaks, missing padding, stray bits at the end.
    """
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (ValueError, binascii.Error):
        data = None
    if data is None or to_base64(data) != text:
        raise InputError("not canonical base64", where=where, got=repr(text)[:60], expected="standard base64 with padding")
    return data


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with one signature.

    Attributes:
        payload: the bytes that are signed, together with ``payload_type``.
        payload_type: a media type.
        keyid: the signer's key id.
        signature: Ed25519 over :func:`pae`.
    """

    payload: bytes
    payload_type: str
    keyid: str
    signature: bytes

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the protocol."""
        return {
            "payload": to_base64(self.payload), "payloadType": self.payload_type,
            "signatures": [{"keyid": self.keyid, "sig": to_base64(self.signature)}],
        }

    @classmethod
    def from_dict(cls, data: Any, *, where: str, payload_type: str = IN_TOTO) -> Envelope:
        """The envelope of a JSON object; its signature is not checked here.

        Raises:
            InputError: other fields, another payload type, no signature or several, or base64 that is not canonical.
        """
        found = fields(data, {"payload", "payloadType", "signatures"}, where)
        if found["payloadType"] != payload_type:
            raise InputError(
                "another payload type", where=f"{where}.payloadType", got=repr(found["payloadType"])[:80], expected=payload_type,
            )
        signatures = found["signatures"]
        if not isinstance(signatures, list) or len(signatures) != 1:
            got = f"{len(signatures)} signatures" if isinstance(signatures, list) else type(signatures).__name__
            raise InputError("not one signature", where=f"{where}.signatures", got=got, expected="exactly one")
        one = fields(signatures[0], {"keyid", "sig"}, f"{where}.signatures[0]")
        if not isinstance(one["keyid"], str):
            raise InputError("no key id", where=f"{where}.signatures[0].keyid", got=type(one["keyid"]).__name__, expected="text")
        signature = from_base64(one["sig"], f"{where}.signatures[0].sig")
        if len(signature) != SIGNATURE_BYTES:
            raise InputError(
                "not an Ed25519 signature", where=f"{where}.signatures[0].sig", got=f"{len(signature)} bytes",
                expected=f"{SIGNATURE_BYTES} bytes",
            )
        return cls(from_base64(found["payload"], f"{where}.payload"), payload_type, one["keyid"], signature)
