"""Bundle and plan files: one envelope, and a timestamp beside it.

``{"schema": "wmcheck.bundle/1" | "wmcheck.plan/1", "envelope": {...}, "timestamp": null | {"reply", "sig"}}``, written in one
way only: a file with another byte anywhere is another file, and is refused. The signer signs the timestamp reply too, so that
a change in it shows even to those who do not know the authority.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.evidence.dsse import Envelope, from_base64, pae, to_base64
from wmcheck.watermark.evidence.signing import Identity, Signer
from wmcheck.watermark.evidence.strict import fields, first_difference, parse
from wmcheck.watermark.evidence.timestamp import REPLY_TYPE

BUNDLE = "wmcheck.bundle/1"
PLAN = "wmcheck.plan/1"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A signed statement with what came with it.

    Attributes:
        schema: ``BUNDLE`` or ``PLAN``.
        envelope: the signed statement.
        reply: RFC 3161 reply over the envelope's signature, or None.
        reply_signature: the signer's, over the reply.
    """

    schema: str
    envelope: Envelope
    reply: bytes | None = None
    reply_signature: bytes | None = None

    def stamped(self, reply: bytes, signer: Signer) -> Sealed:
        """This statement with a timestamp reply, signed by its own signer.

        Raises:
            InputError: another signer.
        """
        if signer.identity.id != self.envelope.keyid:
            raise InputError("signed by another key", where="--sign", got=signer.identity.id, expected=self.envelope.keyid)
        return Sealed(self.schema, self.envelope, reply, signer.sign_bytes(pae(REPLY_TYPE, reply)))

    def check(self, identity: Identity, where: str) -> None:
        """Check every signature by the signer.

        Raises:
            InputError: made by another key, or over other bytes.
        """
        identity.verify(self.envelope, where)
        if self.reply is not None and self.reply_signature is not None:
            identity.verify_bytes(self.reply_signature, pae(REPLY_TYPE, self.reply), f"{where}, timestamp")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the file."""
        stamp = None
        if self.reply is not None and self.reply_signature is not None:
            stamp = {"reply": to_base64(self.reply), "sig": to_base64(self.reply_signature)}
        return {"schema": self.schema, "envelope": self.envelope.to_dict(), "timestamp": stamp}

    def to_bytes(self) -> bytes:
        """The file."""
        return (json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n").encode("ascii")

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_dict(cls, data: Any, schema: str, where: str) -> Sealed:
        """Of a JSON object; see :meth:`parse`."""
        found = data.get("schema") if isinstance(data, dict) else None
        if found != schema:
            raise InputError("another format", where=f"{where}, schema", got=repr(found)[:80], expected=schema)
        fields(data, {"schema", "envelope", "timestamp"}, where)
        reply = signature = None
        if data["timestamp"] is not None:
            stamp = fields(data["timestamp"], {"reply", "sig"}, f"{where}, timestamp")
            reply = from_base64(stamp["reply"], f"{where}, timestamp.reply")
            signature = from_base64(stamp["sig"], f"{where}, timestamp.sig")
        return cls(schema, Envelope.from_dict(data["envelope"], where=f"{where}, envelope"), reply, signature)

    @classmethod
    def parse(cls, data: bytes, schema: str, where: str) -> Sealed:
        """Read a file; no signature is checked here.

        Raises:
            InputError: another format, unknown fields, or bytes that :meth:`to_bytes` would not write.
        """
        sealed = cls.from_dict(parse(data, where), schema, where)
        own = sealed.to_bytes()
        if own != data:
            place = first_difference(own, data)
            raise InputError(
                "the file was written anew or changed", where=f"{where}, byte {place}", got=repr(data[place : place + 20]),
                expected=repr(own[place : place + 20]), hint="use the file as 'wmcheck attest' wrote it",
            )
        return sealed

    @classmethod
    def load(cls, path: str, schema: str) -> Sealed:
        """Read a file; see :meth:`parse`."""
        return cls.parse(read_bytes(path), schema, path)


def read_bytes(path: str) -> bytes:
    """A whole file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError("cannot read", where=path, got=error.strerror or type(error).__name__) from None
