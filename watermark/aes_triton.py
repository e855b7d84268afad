"""AES-128 inside Triton kernels, twice: by table, where few blocks are waited for, and bit-sliced, where many are computed.

- :func:`encrypt_words`: one block an element, four little-endian words, by lookups in the one table of
  :func:`table` (Daemen and Rijmen, "The Design of Rijndael", section 4.2; the other three are its rotations). Ten rounds
  of dependent lookups take about a microsecond whatever the number of blocks up to some thousands.
- :func:`encrypt_slices`: eight blocks an element without any lookup, so that only logic units work and no cache line
  tells an index. The state is four rows of eight bit planes: bit ``8 c + b`` of plane ``p`` in row ``r`` is bit ``p`` of
  byte ``4 c + r`` (FIPS 197 numbering: row ``r``, column ``c``) of block ``b``. Rotating words by eight bits is
  ShiftRows, MixColumns combines words of different rows, and the S-box is the 113-gate circuit of Boyar and Peralta
  ("A new combinational logic minimization technique with applications to cryptology", SEA 2010).

Words are uint32 in kernels and int32 in tensors. Imported where Triton is installed only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from wmcheck.watermark.prf_torch import ROUNDS, round_table

# Words of an expanded key: 44 for the table cipher, then 11 rounds of 4 rows of 8 planes.
PLAIN_WORDS = 4 * (ROUNDS + 1)
KEY_WORDS = PLAIN_WORDS + 32 * (ROUNDS + 1)


@lru_cache(maxsize=8)
def table(device: torch.device) -> Tensor:
    """int32 [256] on ``device``: the round table of row 0, whose byte 1 is the S-box."""
    return torch.tensor(round_table(0), dtype=torch.int32, device=device)


def sliced_key(words: list[int]) -> list[int]:
    """The 352 words, of int32 signs, that :func:`encrypt_slices` adds: planes of the round keys, alike in all eight blocks."""
    octets = np.array(words, np.int32).view(np.uint8).reshape(ROUNDS + 1, 4, 4, 1)
    bits = np.unpackbits(octets, axis=3, bitorder="little")  # round, column, row, plane
    planes = np.ascontiguousarray(bits.transpose(0, 2, 3, 1)) * np.uint8(255)
    found: list[int] = planes.view(np.int32).reshape(-1).tolist()
    return found


@triton.jit
def _rotated(word, by: tl.constexpr):
    return (word << by) | (word >> (32 - by))


@triton.jit
def _looked_up(lookup, word, place: tl.constexpr):
    return tl.load(lookup + ((word >> (8 * place)) & 0xFF)).to(tl.uint32, bitcast=True)


@triton.jit
def _mixed(lookup, a, b, c, d, key):
    mixed = _looked_up(lookup, a, 0) ^ _rotated(_looked_up(lookup, b, 1), 8)
    mixed ^= _rotated(_looked_up(lookup, c, 2), 16) ^ _rotated(_looked_up(lookup, d, 3), 24)
    return mixed ^ tl.load(key).to(tl.uint32, bitcast=True)


@triton.jit
def _last(lookup, a, b, c, d, key):
    out = (_looked_up(lookup, a, 0) >> 8) & 0xFF
    out |= _looked_up(lookup, b, 1) & 0xFF00
    out |= (_looked_up(lookup, c, 2) << 8) & 0xFF0000
    out |= (_looked_up(lookup, d, 3) << 16) & 0xFF000000
    return out ^ tl.load(key).to(tl.uint32, bitcast=True)


@triton.jit
def encrypt_words(lookup, key, a, b, c, d):
    """The four words of AES of the block ``a, b, c, d``; ``key`` points to an expanded key, ``lookup`` to :func:`table`."""
    a ^= tl.load(key).to(tl.uint32, bitcast=True)
    b ^= tl.load(key + 1).to(tl.uint32, bitcast=True)
    c ^= tl.load(key + 2).to(tl.uint32, bitcast=True)
    d ^= tl.load(key + 3).to(tl.uint32, bitcast=True)
    for turn in range(1, 10):
        own = key + 4 * turn
        e = _mixed(lookup, a, b, c, d, own)
        f = _mixed(lookup, b, c, d, a, own + 1)
        g = _mixed(lookup, c, d, a, b, own + 2)
        d = _mixed(lookup, d, a, b, c, own + 3)
        a, b, c = e, f, g
    e = _last(lookup, a, b, c, d, key + 40)
    f = _last(lookup, b, c, d, a, key + 41)
    g = _last(lookup, c, d, a, b, key + 42)
    h = _last(lookup, d, a, b, c, key + 43)
    return e, f, g, h


@triton.jit
def big_endian(word):
    """``word`` with its bytes in reverse order."""
    return (word << 24) | ((word << 8) & 0xFF0000) | ((word >> 8) & 0xFF00) | (word >> 24)


@triton.jit
def _substituted(x):
    # The circuit of the paper, top linear layer, inversion in GF(2^8), bottom linear layer; x[7] is its U0.
    y14, y13, y9, y8, t0 = x[4] ^ x[2], x[7] ^ x[1], x[7] ^ x[4], x[7] ^ x[2], x[6] ^ x[5]
    y1 = t0 ^ x[0]
    y4, y12, y2, y5 = y1 ^ x[4], y13 ^ y14, y1 ^ x[7], y1 ^ x[1]
    y3, t1 = y5 ^ y8, x[3] ^ y12
    y15, y20 = t1 ^ x[2], t1 ^ x[6]
    y6, y10, y11 = y15 ^ x[0], y15 ^ t0, y20 ^ y9
    y7, y17, y19, y16 = x[0] ^ y11, y10 ^ y11, y10 ^ y8, t0 ^ y11
    y21, y18 = y13 ^ y16, x[7] ^ y16

    t2, t7, t12 = y12 & y15, y13 & y16, y9 & y11
    t14, t16 = (y14 & y17) ^ t12, (y8 & y10) ^ t12
    t21 = (y3 & y6) ^ t2 ^ t14 ^ y20
    t22 = (y4 & x[0]) ^ t2 ^ t16 ^ y19
    t23 = (y5 & y1) ^ t7 ^ t14 ^ y21
    t24 = (y2 & y7) ^ t7 ^ t16 ^ y18
    t25, t26 = t21 ^ t22, t21 & t23
    t27 = t24 ^ t26
    t29 = (t25 & t27) ^ t22
    t33 = ((t22 ^ t26) & (t23 ^ t24)) ^ t24
    t36 = t24 & (t27 ^ t33)
    t37 = t36 ^ t23 ^ t33
    t40 = t25 ^ (t29 & (t27 ^ t36))
    t41, t42, t43, t44 = t40 ^ t37, t29 ^ t33, t29 ^ t40, t33 ^ t37
    t45 = t42 ^ t41

    z0, z1, z2, z3, z4, z5 = t44 & y15, t37 & y6, t33 & x[0], t43 & y16, t40 & y1, t29 & y7
    z6, z7, z8, z9, z10, z11 = t42 & y11, t45 & y17, t41 & y10, t44 & y12, t37 & y3, t33 & y4
    z12, z13, z14, z15, z16, z17 = t43 & y13, t40 & y5, t29 & y2, t42 & y9, t45 & y14, t41 & y8
    t46, t48, t53, t54 = z15 ^ z16, z5 ^ z13, z0 ^ z3, z6 ^ z7
    t57, t58, t59 = z2 ^ z12 ^ t53, z4 ^ t46, z3 ^ t54
    t62, t63, t64 = z7 ^ z8 ^ t58, z9 ^ z10 ^ t58, z4 ^ t59
    t65, t66 = z14 ^ t57 ^ t62, z1 ^ t63
    s3 = t53 ^ t66
    return (
        t48 ^ ~(t46 ^ t57), z12 ^ t48 ^ ~t62, z10 ^ z11 ^ t65, z2 ^ z5 ^ t66, s3, z16 ^ z17 ^ ~(t64 ^ t65), t64 ^ ~s3, t59 ^ t63,
    )


@triton.jit
def _turned(x, by: tl.constexpr):
    # ShiftRows: column c of the new row is column c + r of the old one.
    x0, x1, x2, x3 = _rotated(x[0], by), _rotated(x[1], by), _rotated(x[2], by), _rotated(x[3], by)
    return x0, x1, x2, x3, _rotated(x[4], by), _rotated(x[5], by), _rotated(x[6], by), _rotated(x[7], by)


@triton.jit
def _added(x, key):
    # `key` points to the eight planes of one row.
    k0, k1, k2, k3 = tl.load(key), tl.load(key + 1), tl.load(key + 2), tl.load(key + 3)
    k4, k5, k6, k7 = tl.load(key + 4), tl.load(key + 5), tl.load(key + 6), tl.load(key + 7)
    return (
        x[0] ^ k0.to(tl.uint32, bitcast=True), x[1] ^ k1.to(tl.uint32, bitcast=True), x[2] ^ k2.to(tl.uint32, bitcast=True),
        x[3] ^ k3.to(tl.uint32, bitcast=True), x[4] ^ k4.to(tl.uint32, bitcast=True), x[5] ^ k5.to(tl.uint32, bitcast=True),
        x[6] ^ k6.to(tl.uint32, bitcast=True), x[7] ^ k7.to(tl.uint32, bitcast=True),
    )


@triton.jit
def _column(a, b, c, d):
    # 2 a + 3 b + c + d in GF(2^8): the doubled sum of a and b, reduced by 0x11B, and the bytes that are not doubled.
    top = a[7] ^ b[7]
    return (
        top ^ b[0] ^ c[0] ^ d[0],
        a[0] ^ b[0] ^ top ^ b[1] ^ c[1] ^ d[1],
        a[1] ^ b[1] ^ b[2] ^ c[2] ^ d[2],
        a[2] ^ b[2] ^ top ^ b[3] ^ c[3] ^ d[3],
        a[3] ^ b[3] ^ top ^ b[4] ^ c[4] ^ d[4],
        a[4] ^ b[4] ^ b[5] ^ c[5] ^ d[5],
        a[5] ^ b[5] ^ b[6] ^ c[6] ^ d[6],
        a[6] ^ b[6] ^ b[7] ^ c[7] ^ d[7],
    )


@triton.jit
def encrypt_slices(key, a, b, c, d):
    """Rows ``a`` to ``d``, eight planes each, of the ciphertext; ``key`` points to an expanded key and is one an element."""
    own = key + 44
    a, b, c, d = _added(a, own), _added(b, own + 8), _added(c, own + 16), _added(d, own + 24)
    for turn in range(1, 10):
        own = key + 44 + 32 * turn
        e, f = _substituted(a), _turned(_substituted(b), 24)
        g, h = _turned(_substituted(c), 16), _turned(_substituted(d), 8)
        a, b = _added(_column(e, f, g, h), own), _added(_column(f, g, h, e), own + 8)
        c, d = _added(_column(g, h, e, f), own + 16), _added(_column(h, e, f, g), own + 24)
    own = key + 364
    a, b = _added(_substituted(a), own), _added(_turned(_substituted(b), 24), own + 8)
    c, d = _added(_turned(_substituted(c), 16), own + 16), _added(_turned(_substituted(d), 8), own + 24)
    return a, b, c, d


@triton.jit
def _plane(d0, d1, d2, index, low: tl.constexpr, row: tl.constexpr, place: tl.constexpr):
    # One plane of counter blocks: bytes 4 c + row of three digest words, and byte `row` of the big-endian block index, in
    # which the block's own number fills three bits from `low` on.
    at: tl.constexpr = 24 - 8 * row + place
    shift: tl.constexpr = 8 * row + place
    bits = ((d0 >> shift) & 1) * 0xFF + ((d1 >> shift) & 1) * 0xFF00 + ((d2 >> shift) & 1) * 0xFF0000
    if at == low:
        return bits | tl.full(index.shape, 0xAA000000, tl.uint32)
    elif at == low + 1:
        return bits | tl.full(index.shape, 0xCC000000, tl.uint32)
    elif at == low + 2:
        return bits | tl.full(index.shape, 0xF0000000, tl.uint32)
    else:
        return bits | ((index >> at) & 1) * 0xFF000000


@triton.jit
def _counter_row(d0, d1, d2, index, low: tl.constexpr, row: tl.constexpr):
    x0, x1 = _plane(d0, d1, d2, index, low, row, 0), _plane(d0, d1, d2, index, low, row, 1)
    x2, x3 = _plane(d0, d1, d2, index, low, row, 2), _plane(d0, d1, d2, index, low, row, 3)
    x4, x5 = _plane(d0, d1, d2, index, low, row, 4), _plane(d0, d1, d2, index, low, row, 5)
    return x0, x1, x2, x3, x4, x5, _plane(d0, d1, d2, index, low, row, 6), _plane(d0, d1, d2, index, low, row, 7)


@triton.jit
def counter_slices(digest, index, low: tl.constexpr):
    """Rows of the eight blocks ``digest || big-endian(index + (b << low))``, ``b`` 0 to 7, ``digest`` one pointer an element."""
    d0 = tl.load(digest).to(tl.uint32, bitcast=True)
    d1 = tl.load(digest + 1).to(tl.uint32, bitcast=True)
    d2 = tl.load(digest + 2).to(tl.uint32, bitcast=True)
    word = index.to(tl.uint32, bitcast=True)
    a, b = _counter_row(d0, d1, d2, word, low, 0), _counter_row(d0, d1, d2, word, low, 1)
    c, d = _counter_row(d0, d1, d2, word, low, 2), _counter_row(d0, d1, d2, word, low, 3)
    return a, b, c, d


@triton.jit
def _swapped(high, low, by: tl.constexpr, mask: tl.constexpr):
    # Exchange the bits of `low` under `mask << by` with those of `high` under `mask`.
    moved = ((low >> by) ^ high) & mask
    return high ^ moved, low ^ (moved << by)


@triton.jit
def blocks_of_row(x):
    """From eight planes of a row to the row's bytes of eight blocks: byte ``c`` of element ``b`` is byte ``c`` of block ``b``."""
    x1, x0 = _swapped(x[1], x[0], 1, 0x55555555)
    x3, x2 = _swapped(x[3], x[2], 1, 0x55555555)
    x5, x4 = _swapped(x[5], x[4], 1, 0x55555555)
    x7, x6 = _swapped(x[7], x[6], 1, 0x55555555)
    x2, x0 = _swapped(x2, x0, 2, 0x33333333)
    x3, x1 = _swapped(x3, x1, 2, 0x33333333)
    x6, x4 = _swapped(x6, x4, 2, 0x33333333)
    x7, x5 = _swapped(x7, x5, 2, 0x33333333)
    x4, x0 = _swapped(x4, x0, 4, 0x0F0F0F0F)
    x5, x1 = _swapped(x5, x1, 4, 0x0F0F0F0F)
    x6, x2 = _swapped(x6, x2, 4, 0x0F0F0F0F)
    x7, x3 = _swapped(x7, x3, 4, 0x0F0F0F0F)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def words_of_block(a, b, c, d):
    """From the four rows of one block, byte ``c`` each its column, to its four words, joined on a last axis of four."""
    b, a = _swapped(b, a, 8, 0x00FF00FF)
    d, c = _swapped(d, c, 8, 0x00FF00FF)
    c, a = _swapped(c, a, 16, 0x0000FFFF)
    d, b = _swapped(d, b, 16, 0x0000FFFF)
    return tl.join(tl.join(a, c), tl.join(b, d)).reshape(a.shape[0], 4)
