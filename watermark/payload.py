"""Messages in a watermark, for when the accounts are not known in advance.

A scheme with a payload (``payload-shift``, ``payload-code``) lets a message choose, at each context, a permutation of the token
ids: token ``v`` reads the keyed lane of ``v`` moved. For one fixed message, distinct (context, token) pairs therefore read
distinct lanes, and its sum of scores has the exact null law of the inner scheme. Detection takes the message with the largest
sum; :class:`AnyMessage` is the law of that search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.payload_nulls import BestOf
from wmcheck.watermark.core.tails import Floats
from wmcheck.watermark.keys import SecretKey, TenantKey, as_tenant
from wmcheck.watermark.prf import PrfKey

# From here down 1 - (1 - p)^M and M p are one number in doubles.
_BONFERRONI = -600.0


class Payload(TenantKey):
    """A tenant's key together with the message that texts generated under it carry.

    It takes the place of a key wherever text is generated: one a row, so that rows of a batch may carry different messages.

    Args:
        key: the tenant's key, or a root key.
        message: a whole number; the profile says how large it may be.
        tenant, epoch: of a root key.

    Raises:
        ConfigError: the message is not a whole number, or below 0.
        KeyFileError: the key is another tenant's.

    Example:
        >>> WatermarkProcessor(profile, Payload(key, 0x2F3A))  # doctest: +SKIP
    """

    __slots__ = ("message",)

    def __init__(self, key: SecretKey | TenantKey, message: int, tenant: str = "", epoch: str = "") -> None:
        held = as_tenant(key, tenant, epoch)
        super().__init__(held._secret, held.tenant_name, held.epoch)
        if isinstance(message, bool) or not isinstance(message, (int, np.integer)) or message < 0:
            raise ConfigError("not a message", where="payload", got=repr(message)[:40], expected="a whole number, 0 or more")
        self.message = int(message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and super().__eq__(other) and self.message == other.message

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.message))

    def __repr__(self) -> str:
        return f"Payload(id={self.id}, tenant={self.tenant_name!r}, epoch={self.epoch!r}, message={self.message:#x})"


class PayloadPrf(PrfKey):
    """The keyed function of a row whose text carries ``message``. Holds secrets: no repr, not pickled."""

    __slots__ = ("message",)

    def __init__(self, context_key: bytes, token_key: bytes, message: int) -> None:
        super().__init__(context_key, token_key)
        self.message = message

    @classmethod
    def of(cls, key: Payload, label: str) -> PayloadPrf:
        """The keyed function of ``key`` for ``label``."""
        return cls(key.subkey(label, "ctx"), key.subkey(label, "tok"), key.message)


@dataclass(frozen=True)
class AnyMessage(BestOf):
    """The largest of the sums that ``choices`` messages give the same n items, each with the null law ``inner``.

    ``P(largest >= s) <= 1 - (1 - P(one >= s))^choices`` (Sidak), however many lanes the messages share. For text that is
    independent of the key, scores of distinct lanes are independent, and every message's sum is a sum of some of them: a
    nondecreasing function. Such functions are associated (Esary, Proschan, Walkup 1967, theorem 2.1), so the chance that all
    sums stay below s is at least the product of their chances. Where no two messages read a lane in common, the sums are
    independent and the bound is the probability itself. A search that misses the largest sum only makes p larger.
    """

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        """Of the largest sum; see :class:`~wmcheck.watermark.core.nulls.Null`."""
        one = self.inner.log_sf(totals, n)
        bound = np.minimum(one + math.log(self.choices), 0.0)
        likely = np.maximum(one, _BONFERRONI)
        with np.errstate(divide="ignore"):
            exact = np.log(-np.expm1(self.choices * np.log1p(-np.exp(likely))))
        return np.where(np.asarray(n) == 0, 0.0, np.where(one > _BONFERRONI, np.minimum(exact, bound), bound))

    def describe(self, n: int) -> str:
        return f"{self.inner.describe(n)}, best of {self.choices} messages (Sidak)"


def parse_message(text: str) -> int:
    """A message as people write it: decimal, ``0x``, ``0o`` or ``0b``.

    Raises:
        ConfigError: not a whole number, or below 0.
    """
    try:
        found = int(text, 0)
    except ValueError:
        found = -1
    if found < 0:
        raise ConfigError(
            "not a message", where="--payload", got=repr(text)[:40], expected="a whole number, 0 or more, such as 0x2f3a or 12090"
        )
    return found


def shown(message: int, messages: int) -> str:
    """A message as it is printed: hexadecimal, with as many digits as the largest one has."""
    return f"0x{message:0{max(1, -(-(messages - 1).bit_length() // 4))}x}"
