"""The keyed function: AES-128 under HKDF subkeys, version ``aes128-hkdf-sha256/1``, in numpy.

Three steps, all fixed by the subkeys ``k_ctx`` and ``k_tok`` of one tenant and one label (scheme, hash rule, width):

1. digest of a context of ``h`` token ids: the first 12 bytes of CBC-MAC under ``k_ctx`` over the ids as little-endian
   u32, oldest first, zero-padded to whole blocks (one zero block when ``h = 0``). The length is fixed by the label, so
   CBC-MAC is a PRF here (Bellare, Kilian, Rogaway 2000).
2. block ``i`` of that context: ``AES(k_tok, digest || u32_big_endian(i))``. The block is AES-CTR keystream with nonce
   ``digest || 0``, so a whole vocabulary costs one CTR call.
3. lane of token ``v``: byte ``v mod 16`` of block ``v div 16`` (8-bit lanes), or little-endian word ``v mod 4`` of block
   ``v div 4`` (32-bit lanes).

:mod:`wmcheck.watermark.prf_torch` computes the same bits on any torch device. ``docs/prf.md`` has test vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.peer_keys import PeerKey

PRF_VERSION = "aes128-hkdf-sha256/1"
MAX_TOKEN_ID = 2**31 - 1

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class PrfKey:
    """The keyed function of one tenant key under one label. Holds secrets: no repr, not pickled."""

    __slots__ = ("_context_key", "_token_key", "cache")

    def __init__(self, context_key: bytes, token_key: bytes) -> None:
        self._context_key = context_key
        self._token_key = token_key
        self.cache: dict[object, object] = {}

    @classmethod
    def derive(cls, key: TenantKey | PeerKey, label: str) -> PrfKey:
        """The keyed function of ``key`` for ``label``, e.g. ``"redgreen/left/4"``."""
        return cls(key.subkey(label, "ctx"), key.subkey(label, "tok"))

    def __repr__(self) -> str:
        return "PrfKey(...)"

    def secrets(self) -> tuple[bytes, bytes]:
        """The two AES keys, for an implementation on another device. They ARE secret."""
        return self._context_key, self._token_key

    def __reduce__(self) -> str:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def digests(self, windows: U32) -> U32:
        """Context digests.

        Args:
            windows: u32[n, h] token ids, oldest first.

        Returns:
            u32[n, 3], the 12 digest bytes of each window as little-endian words.
        """
        n, width = windows.shape
        blocks = max(1, -(-width // 4))
        message = np.zeros((n, blocks * 4), np.uint32)
        message[:, :width] = windows
        state = _encrypt(self._context_key, np.ascontiguousarray(message[:, :4]))
        for block in range(1, blocks):
            state = _encrypt(self._context_key, state ^ message[:, 4 * block : 4 * block + 4])
        return state[:, :3]

    def lanes8(self, digests: U32, tokens: I64) -> U8:
        """u8[n]: the 8-bit lane of ``tokens[i]`` in the context ``digests[i]``."""
        blocks = self._token_blocks(digests, tokens >> 4).view(np.uint8)
        return blocks.reshape(-1)[np.arange(0, 16 * len(tokens), 16) + (tokens & 15)]

    def lanes32(self, digests: U32, tokens: I64) -> U32:
        """u32[n]: the 32-bit lane of ``tokens[i]`` in the context ``digests[i]``."""
        blocks = self._token_blocks(digests, tokens >> 2)
        return blocks.reshape(-1)[np.arange(0, 4 * len(tokens), 4) + (tokens & 3)]

    def _token_blocks(self, digests: U32, index: I64) -> U32:
        message = np.empty((len(index), 4), np.uint32)
        message[:, :3] = digests
        message[:, 3] = counter_words(index)
        return _encrypt(self._token_key, message)

    def stream(self, digest: U32, vocabulary: int, bits: int) -> U8 | U32:
        """Lanes of a whole vocabulary in one context: u8[V] for ``bits=8``, u32[V] for ``bits=32``."""
        size = -(-vocabulary * bits // 128) * 16
        out = np.empty(size + 16, np.uint8)
        self.stream_into(digest, size, out)
        used = out[: vocabulary * (bits // 8)]
        return used if bits == 8 else used.view(np.uint32)

    def stream_into(self, digest: U32, size: int, out: U8) -> None:
        """Write the first ``size`` bytes of a context's blocks into ``out``, u8[size + 16]; the rest of it is undefined."""
        nonce = digest.tobytes() + bytes(4)
        idle = self._idle("stream")
        try:
            cipher = idle.pop()
            cipher.reset_nonce(nonce)
        except (IndexError, AttributeError):  # cryptography 42 cannot change the nonce
            cipher = Cipher(algorithms.AES(self._token_key), modes.CTR(nonce)).encryptor()
        cipher.update_into(_zeros(size), out.data)
        idle.append(cipher)

    def encrypt_into(self, purpose: str, blocks: memoryview, out: memoryview) -> None:
        """AES under the key of contexts (``"context"``) or of tokens (``"token"``), for generation.

        A cipher costs ten microseconds to make, as much as the keystream of a small vocabulary, so it is kept with the key.

        Args:
            purpose: which key.
            blocks: bytes of whole blocks.
            out: as many bytes and 15 more, which are not written.
        """
        idle = self._idle(purpose)
        try:
            cipher = idle.pop()
        except IndexError:
            key = self._context_key if purpose == "context" else self._token_key
            cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        cipher.update_into(blocks, out)
        idle.append(cipher)

    def _idle(self, purpose: str) -> list[Any]:
        # Ciphers that no thread is using: one that is taken off the list belongs to one thread until it is put back.
        found: list[Any] = self.cache.setdefault(("cipher", purpose), [])  # type: ignore[assignment]
        return found


def counter_words(index: I64) -> U32:
    """The last words of the blocks ``index``: big-endian numbers, as little-endian words."""
    return index.astype(">u4").view(np.uint32)


def anchor_order(digests: U32) -> I64:
    """The order by which min hash and self hash choose an anchor: 63 bits of a digest as i64[n] >= 0."""
    return (digests[..., 0].astype(np.int64) << 31) | (digests[..., 1] >> 1).astype(np.int64)


def _encrypt(key: bytes, blocks: U32) -> U32:
    # ECB is AES itself, block by block; its inputs here are all distinct or deliberately equal. A context of its own for
    # each call costs microseconds and lets threads share a key.
    out = np.empty(blocks.nbytes + 16, np.uint8)
    Cipher(algorithms.AES(key), modes.ECB()).encryptor().update_into(blocks.reshape(-1).view(np.uint8).data, out.data)
    return out[: blocks.nbytes].view(np.uint32).reshape(-1, 4)


@lru_cache(maxsize=8)
def _zeros(size: int) -> bytes:
    return bytes(size)
