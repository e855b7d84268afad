"""The AES subkeys of very many accounts, the same bytes as ``root.tenant(name, epoch).subkey(label, purpose)``.

An account costs four HMACs. The states of SHA-256 after the pads of the root and of the empty salt are computed once and copied,
the pads of the account's own key are hashed together with the message that follows them: eight short hashes an account.

References:
    RFC 5869 (HKDF), RFC 2104 (HMAC: pads 0x36 and 0x5c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NoReturn

from wmcheck.watermark.keys import SecretKey, canonical

KEY_BYTES = 16
# Accounts between two reports of progress.
STEP = 1 << 14

_BLOCK, _DIGEST = 64, 32
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
# What stands in the pads after a key of 32 bytes.
_INNER_REST, _OUTER_REST = (bytes([pad]) * (_BLOCK - _DIGEST) for pad in (0x36, 0x5C))
# HKDF's counter: 16 or 32 bytes are the first block of its output.
_FIRST = b"\x01"


class BulkKeys:
    """AES keys of contexts and of tokens of many accounts. Holds secrets: no repr, not pickled.

    Attributes:
        shared: all accounts have one key of contexts.
    """

    __slots__ = ("_contexts", "_tokens", "shared")

    def __init__(self, contexts: bytes, tokens: bytes) -> None:
        self._contexts, self._tokens = contexts, tokens
        self.shared = len(contexts) < len(tokens)

    def __len__(self) -> int:
        return len(self._tokens) // KEY_BYTES

    def __repr__(self) -> str:
        return f"BulkKeys({len(self)} accounts)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of accounts are secrets and are not pickled")

    def contexts(self, start: int, stop: int) -> list[bytes]:
        """The AES keys of contexts of accounts ``start`` to ``stop - 1``, or the one that all share. They ARE secret."""
        return [self._contexts] if self.shared else _slices(self._contexts, start, stop)

    def tokens(self, start: int, stop: int) -> list[bytes]:
        """The AES keys of tokens of accounts ``start`` to ``stop - 1``. They ARE secret."""
        return _slices(self._tokens, start, stop)


def _slices(joined: bytes, start: int, stop: int) -> list[bytes]:
    return [joined[place : place + KEY_BYTES] for place in range(start * KEY_BYTES, stop * KEY_BYTES, KEY_BYTES)]


def derive_keys(
    root: SecretKey, names: Sequence[str], epoch: str, label: str, *, context: bytes | None = None,
    progress: Callable[[int], None] | None = None,
) -> BulkKeys:
    """The subkeys of accounts in one epoch.

    Args:
        root: the root key.
        names: of accounts, checked.
        epoch: of their keys.
        label: of the scheme's keyed function.
        context: the AES key of contexts, where all accounts share one.
        progress: called now and then.
    """
    # HMAC under a root's pseudorandom key, and under the empty salt: 64 bytes of pad, hashed once.
    inner, outer = _pads(_hmac(bytes(_DIGEST), root._secret))
    salted_inner, salted_outer = _pads(bytes(_DIGEST))
    head, tail = canonical("wmcheck/tenant/1"), canonical(epoch) + _FIRST
    purposes = [canonical("wmcheck/prf/1", label, purpose) + _FIRST for purpose in ("ctx", "tok")]
    context_tail, token_tail = (_INNER_REST + info for info in purposes)
    contexts, tokens = bytearray(context or b""), bytearray()
    for done, name in enumerate(names):
        if progress is not None and done % STEP == 0:
            progress(0)
        spelled = name.encode()
        state, last = inner.copy(), outer.copy()
        state.update(head + len(spelled).to_bytes(2, "big") + spelled + tail)
        last.update(state.digest())
        state, once = salted_inner.copy(), salted_outer.copy()
        state.update(last.digest())
        once.update(state.digest())
        own = once.digest()
        within, around = own.translate(_INNER), own.translate(_OUTER) + _OUTER_REST
        if context is None:
            contexts += sha256(around + sha256(within + context_tail).digest()).digest()[:KEY_BYTES]
        tokens += sha256(around + sha256(within + token_tail).digest()).digest()[:KEY_BYTES]
    return BulkKeys(bytes(contexts), bytes(tokens))


def _hmac(key: bytes, message: bytes) -> bytes:
    inner, outer = _pads(key)
    inner.update(message)
    outer.update(inner.digest())
    return bytes(outer.digest())


def _pads(key: bytes) -> tuple[Any, Any]:
    """SHA-256 states after the inner and the outer pad of a key of 32 bytes."""
    return sha256(key.translate(_INNER) + _INNER_REST), sha256(key.translate(_OUTER) + _OUTER_REST)
