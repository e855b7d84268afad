"""Keys of peers' watermarks: integers, lists of integers or bytes, as their owners have them.

Key text: one integer in decimal or ``0x`` hexadecimal, a JSON list of integers (or one integer a line), or ``hex:`` and bytes.
Lines that start with ``#`` are comments. Peers accept any integer, published defaults included: a text can be tested under those
too, and the result says that anyone could have made it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import NoReturn

from wmcheck.watermark.core.errors import KeyFileError
from wmcheck.watermark.keys import PREFIX, PUBLIC_DEFAULTS, SYNTHID_DEFAULTS, canonical, hkdf

FORMS = "an integer, a JSON list of integers, or hex:BYTES"
MAX_NUMBERS = 64
MAX_BITS = 128
MAX_OCTETS = 1024


class PeerKey:
    """A secret that a peer's contract understands. Its repr, its id and its commitment are public; nothing else is.

    The commitment is a slow hash (scrypt), because peers' keys may have few bits; of a key that can be guessed it hides nothing,
    as does any text marked with it.

    Args:
        numbers: the integers of the key, or its bytes.
    """

    tenant_name = ""
    epoch = ""

    def __init__(self, numbers: int | tuple[int, ...] | bytes) -> None:
        self._value = (numbers,) if isinstance(numbers, int) else numbers

    @classmethod
    def load(cls, source: str) -> PeerKey:
        """Load from ``file:PATH``, ``env:NAME`` or ``keyring:SERVICE/NAME``.

        Raises:
            KeyFileError: the source cannot be read, or holds no such key.
        """
        from wmcheck.watermark.key_sources import read_source

        return parse_peer_key(read_source(source), where=source)

    def integer(self, contract: str, *, high: int = 2**64 - 1, low: int = 0) -> int:
        """The key as one integer.

        Raises:
            KeyFileError: it is something else, or out of range; the message does not repeat it.
        """
        if isinstance(self._value, bytes) or len(self._value) != 1 or not low <= self._value[0] <= high:
            self._unfit(contract, f"one integer from {low} to {_power(high)}")
        return int(self._value[0])

    def integers(
        self, contract: str, *, count: int | None = None, high: int = 2**63 - 1, low: int = 0
    ) -> tuple[int, ...]:
        """The key as a list of integers; see :meth:`integer` for errors."""
        value = self._value
        if isinstance(value, bytes) or (count is not None and len(value) != count) or not all(low <= n <= high for n in value):
            self._unfit(contract, f"{count or 'a list of'} integers from {low} to {_power(high)}")
        return tuple(int(number) for number in value)

    def octets(self, contract: str) -> bytes:
        """The key as bytes; see :meth:`integer` for errors."""
        if not isinstance(self._value, bytes):
            self._unfit(contract, "hex:BYTES")
        return self._value

    def _unfit(self, contract: str, expected: str) -> NoReturn:
        # The last error before the frames that hold the key: nothing of it may be in the message.
        raise KeyFileError(f"a key that {contract} cannot take", where="key", got=self.shape, expected=expected)

    @property
    def shape(self) -> str:
        """What kind of key it is, without its value."""
        if isinstance(self._value, bytes):
            return f"{len(self._value)} bytes"
        if len(self._value) > 1:
            return f"a list of {len(self._value)} integers"
        return "a negative integer" if self._value[0] < 0 else f"an integer of {_bits(self._value[0])}"

    @property
    def published(self) -> bool:
        """Whether the key is a default that a peer publishes: text under it can be anyone's."""
        if isinstance(self._value, bytes):
            return False
        if len(self._value) <= 2:
            return any(number in PUBLIC_DEFAULTS for number in self._value)
        return self._value == SYNTHID_DEFAULTS[: len(self._value)]

    @cached_property
    def commitment(self) -> str:
        """scrypt of the key under a domain tag, in hex."""
        return hashlib.scrypt(self._encoded(), salt=b"wmcheck/peer-commitment/1", n=2**13, r=8, p=1, dklen=32).hex()

    @property
    def id(self) -> str:
        """Public key id: the first 16 hex digits of the commitment."""
        return self.commitment[:16]

    def subkey(self, label: str, purpose: str) -> bytes:
        """16 bytes for a keyed function of ours, such as the mask of a kept set of seen items."""
        return hkdf(self._encoded(), canonical("wmcheck/peer-prf/1", label, purpose), 16)

    def reveal(self) -> str:
        """The key as text. This IS the secret: write it to a 0600 file and nowhere else."""
        if isinstance(self._value, bytes):
            return f"hex:{self._value.hex()}"
        return str(self._value[0]) if len(self._value) == 1 else json.dumps(list(self._value))

    def _encoded(self) -> bytes:
        if isinstance(self._value, bytes):
            return canonical("bytes", self._value)
        return canonical("integers", *(str(number) for number in self._value))

    def __repr__(self) -> str:
        return f"PeerKey({self.shape})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeerKey) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled; give workers a key source such as 'file:vllm.key'")


def parse_peer_key(text: str, *, where: str = "key") -> PeerKey:
    """Read the text of a peer's key; no message repeats it.

    Raises:
        KeyFileError: a wmcheck key, or no form that is known.
    """
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
    body = "\n".join(line for line in lines if line and not line.startswith("#"))
    if body.startswith(PREFIX):
        raise KeyFileError(
            "a wmcheck key under a peer's contract", where=where, expected=FORMS,
            hint="give the key of the serving stack, in a file of its own",
        )
    try:
        return PeerKey(_value(body))
    except (ValueError, RecursionError):
        pass
    raise KeyFileError("not a peer's key", where=where, got=f"{len(body)} characters", expected=FORMS)


def _value(body: str) -> tuple[int, ...] | bytes:
    if body.startswith("hex:"):
        found = bytes.fromhex(body[4:])
        if not 0 < len(found) <= MAX_OCTETS:
            raise ValueError
        return found
    if body.startswith("["):
        listed = json.loads(body)
        numbers = [number if type(number) is int else _number(number) for number in listed]
    else:
        numbers = [_number(line) for line in body.split("\n")]
    if not 0 < len(numbers) <= MAX_NUMBERS or any(abs(number) >= 1 << MAX_BITS for number in numbers):
        raise ValueError
    return tuple(numbers)


def _number(text: object) -> int:
    if not isinstance(text, str) or len(text) > 50 or not text.isascii():
        raise ValueError
    return int(text, 16 if text.lower().startswith("0x") else 10)


def _bits(number: int) -> str:
    for bits in (32, 64):
        if number < 1 << bits:
            return f"at most {bits} bits"
    return "more than 64 bits"


def _power(number: int) -> str:
    return f"2^{number.bit_length()} - 1" if number & (number + 1) == 0 and number > 1000 else str(number)
