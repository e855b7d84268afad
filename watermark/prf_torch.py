"""The keyed function on torch tensors of any device: AES-128 by table lookups, the same bits as :mod:`.prf`.

All words are int32 tensors that carry unsigned bits; a block is four little-endian words. Tables follow Daemen and
Rijmen, "The Design of Rijndael", section 4.2. Lookups by secret index leak through caches on a shared CPU, so the CPU
path of :class:`~wmcheck.watermark.rows.RowKeys` uses AES instructions instead and this module serves other devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NoReturn

import torch
from torch import Tensor

from wmcheck.watermark.prf import PrfKey

ROUNDS = 10


def _xtime(value: int) -> int:
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


@lru_cache(maxsize=1)
def _sbox() -> list[int]:
    """The AES S-box, computed: multiplicative inverse in GF(2^8), then the affine map (FIPS 197, section 5.1.1)."""
    power, log, value = [0] * 255, [0] * 256, 1
    for exponent in range(255):
        power[exponent], log[value] = value, exponent
        value ^= _xtime(value)
    box = []
    for byte in range(256):
        inverse = power[(255 - log[byte]) % 255] if byte else 0
        mixed = inverse
        for shift in range(1, 5):
            mixed ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
        box.append(mixed ^ 0x63)
    return box


def _signed(word: int) -> int:
    return word - (1 << 32) if word & 0x80000000 else word


def round_table(row: int) -> list[int]:
    """The 256 words, of int32 signs, that MixColumns makes of a byte in one row of the state after SubBytes."""
    table = []
    for value in _sbox():
        double = _xtime(value) & 0xFF
        column = [double, value, value, double ^ value]
        turned = column[4 - row :] + column[: 4 - row]
        table.append(_signed(sum(byte << (8 * place) for place, byte in enumerate(turned))))
    return table


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """int32 [4, 256] round tables (one for each row of the state) and int32 [256] S-box."""
    rows = [round_table(row) for row in range(4)]
    return torch.tensor(rows, dtype=torch.int32, device=device), torch.tensor(_sbox(), dtype=torch.int32, device=device)


def expand_key(key: bytes) -> list[int]:
    """The 44 round-key words of AES-128 as little-endian words with int32 signs (FIPS 197, section 5.2)."""
    box, words, constant = _sbox(), [list(key[4 * i : 4 * i + 4]) for i in range(4)], 1
    for i in range(4, 44):
        word = list(words[i - 1])
        if i % 4 == 0:
            word = [box[byte] for byte in word[1:] + word[:1]]
            word[0] ^= constant
            constant = _xtime(constant) & 0xFF
        words.append([a ^ b for a, b in zip(words[i - 4], word, strict=True)])
    return [_signed(int.from_bytes(bytes(word), "little")) for word in words]


class RoundKeys:
    """Expanded keys, one a row. A class of its own so that no traceback or pickle shows the tensor.

    Args:
        keys: AES-128 keys, one a row.
        device: where the tensor lives.
    """

    __slots__ = ("_words",)

    def __init__(self, keys: Sequence[bytes], device: torch.device) -> None:
        self._words = torch.tensor([expand_key(key) for key in keys], dtype=torch.int32, device=device)

    @classmethod
    def joined(cls, parts: Sequence[RoundKeys]) -> RoundKeys:
        """The keys of all ``parts``, one after the other, without expanding them again."""
        made = cls.__new__(cls)
        made._words = torch.cat([part._words for part in parts]) if parts else torch.empty((0, 44), dtype=torch.int32)
        return made

    def take(self, rows: Sequence[int]) -> RoundKeys:
        """The keys of some rows, without expanding them again."""
        taken = RoundKeys.__new__(RoundKeys)
        taken._words = self._words[list(rows)]
        return taken

    def column(self, rows: slice, word: int) -> Tensor:
        """int32 [b, 1]: one round-key word of each row."""
        return self._words[rows, word, None]

    def __repr__(self) -> str:
        return "RoundKeys(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("round keys are secrets and are not pickled")


def encrypt(keys: RoundKeys, rows: slice, blocks: Tensor) -> Tensor:
    """AES-128 of each block under its row's key.

    Args:
        keys: one key a row of the whole batch.
        rows: the rows of the batch that ``blocks`` holds.
        blocks: int32 [b, n, 4].

    Returns:
        int32 [b, n, 4].
    """
    tables, box = _tables(blocks.device)
    state = [blocks[..., column] ^ keys.column(rows, column) for column in range(4)]
    for turn in range(1, ROUNDS):
        state = [
            tables[0][_byte(state[c], 0)]
            ^ tables[1][_byte(state[(c + 1) % 4], 1)]
            ^ tables[2][_byte(state[(c + 2) % 4], 2)]
            ^ tables[3][_byte(state[(c + 3) % 4], 3)]
            ^ keys.column(rows, 4 * turn + c)
            for c in range(4)
        ]
    last = [
        box[_byte(state[c], 0)]
        | box[_byte(state[(c + 1) % 4], 1)] << 8
        | box[_byte(state[(c + 2) % 4], 2)] << 16
        | box[_byte(state[(c + 3) % 4], 3)] << 24
        for c in range(4)
    ]
    return torch.stack([last[c] ^ keys.column(rows, 4 * ROUNDS + c) for c in range(4)], -1)


def _round_keys(key: PrfKey, device: torch.device) -> tuple[RoundKeys, RoundKeys]:
    """Round keys of contexts and of tokens; kept with the key, as the rows of a serving batch change at every step."""
    name = ("round keys", str(device))
    if name not in key.cache:
        context, token = key.secrets()
        key.cache[name] = RoundKeys([context], device), RoundKeys([token], device)
    found: tuple[RoundKeys, RoundKeys] = key.cache[name]  # type: ignore[assignment]
    return found


def _byte(word: Tensor, place: int) -> Tensor:
    return ((word >> (8 * place)) & 0xFF).long()


class TorchPrf:
    """Digests and lanes for one keyed function a row, on ``device``.

    Args:
        keys: one :class:`PrfKey` a row.
        device: where the tensors live.
    """

    def __init__(self, keys: Sequence[PrfKey], device: torch.device) -> None:
        pairs = [_round_keys(key, device) for key in keys]
        self._context = RoundKeys.joined([pair[0] for pair in pairs])
        self._token = RoundKeys.joined([pair[1] for pair in pairs])

    def take(self, rows: Sequence[int]) -> TorchPrf:
        """The keyed functions of some rows."""
        taken = TorchPrf.__new__(TorchPrf)
        taken._context, taken._token = self._context.take(rows), self._token.take(rows)
        return taken

    def digests(self, rows: slice, windows: Tensor) -> Tensor:
        """int32 [b, k, 3]: digests of ``windows`` int64 [b, k, h] under the keys of ``rows``."""
        count, each, width = windows.shape
        blocks = max(1, -(-width // 4))
        message = torch.zeros((count, each, 4 * blocks), dtype=torch.int32, device=windows.device)
        message[..., :width] = windows.to(torch.int32)
        state = encrypt(self._context, rows, message[..., :4])
        for block in range(1, blocks):
            state = encrypt(self._context, rows, state ^ message[..., 4 * block : 4 * block + 4])
        return state[..., :3]

    def lanes(self, rows: slice, digests: Tensor, vocabulary: int, bits: int) -> Tensor:
        """Lanes of the whole vocabulary: uint8 [b, V] (8 bits) or int32 [b, V] (32 bits) for digests int32 [b, 3]."""
        count = -(-vocabulary * bits // 128)
        index = torch.arange(count, dtype=torch.int64, device=digests.device)
        swapped = (index & 0xFF) << 24 | (index & 0xFF00) << 8 | (index >> 8) & 0xFF00 | index >> 24
        message = torch.empty((digests.shape[0], count, 4), dtype=torch.int32, device=digests.device)
        message[..., :3] = digests[:, None, :]
        message[..., 3] = torch.where(swapped >= 1 << 31, swapped - (1 << 32), swapped).to(torch.int32)
        words = encrypt(self._token, rows, message).reshape(digests.shape[0], -1)
        if bits == 32:
            return words[:, :vocabulary]
        return words.contiguous().view(torch.uint8)[:, :vocabulary]
