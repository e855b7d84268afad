"""Schemes as fused Triton kernels: keystream, change of the logits and choice in a few launches, in place.

Logits are ``[B', V]`` of float32, float16 or bfloat16 with neighbouring columns; ``rows`` (int64 [b], or None for all in order)
says which of them the ``b`` keys and windows belong to, and no other row is touched. Nothing here waits for the device.
Imported where Triton is installed only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from wmcheck.watermark.aes_triton import big_endian, blocks_of_row, encrypt_words, table, words_of_block
from wmcheck.watermark.prf_triton import SLOT, TOKEN_KEY, elements, interpreted, slices, tiling

if TYPE_CHECKING:
    from wmcheck.watermark.rows import RowKeys

# Rows with at most so many finite logits are worked on as a list of candidates (gumbel, tournament).
CANDIDATES = 1024
# Vocabulary that one program reads at a time where it goes through a whole row.
CHUNK = 4096


def colour(
    logits: Tensor, rows: Tensor | None, keys: RowKeys, digests: Tensor, green: int, delta: float, *, own: bool
) -> None:
    """Add ``delta`` to the logit of every green token (``redgreen``).

    Args:
        digests: int32 [b, 3], the effective seed of each row.
        own: rule ``self``: tokens that come before their row's seed have the colour of their own seed.
    """
    batch, vocabulary, prf = len(keys), logits.shape[1], keys.on_kernels()
    if not batch:
        return
    order, lane, owner = keys.own(vocabulary) if own else (prf.slots, prf.slots, prf.slots)
    tiles = tiling(batch, -(-vocabulary // 16))
    _colour[tiles.grid](
        logits, logits.stride(0), prf.slots if rows is None else rows, prf.keys, prf.slots, digests.contiguous(),
        order, lane, owner, green, float(delta), batch, vocabulary, R=tiles.rows, LOW=tiles.low, ALL=rows is None, OWN=own,
    )


def choose(
    logits: Tensor, rows: Tensor | None, keys: RowKeys, digests: Tensor, losers: float, *, capacity: int = CANDIDATES
) -> None:
    """Set the token with the largest logit plus keyed noise to 0, others to ``losers`` below their distance from the top.

    Rows with at most ``capacity`` finite logits are worked on as lists. How many there are only the device knows, so the
    kernels for the other rows are launched as well, and find there whether they have anything to do.
    """
    batch, vocabulary, prf, device = len(keys), logits.shape[1], keys.on_kernels(), logits.device
    if not batch:
        return
    place, every, digests = prf.slots if rows is None else rows, rows is None, digests.contiguous()
    tokens, counts = _lists(logits, place, batch, capacity, every=every)
    held = tokens.shape[1]
    _choose_listed[(batch,)](
        logits, logits.stride(0), place, table(device), prf.keys, prf.slots, digests, tokens, counts, float(losers),
        CAPACITY=held, ALL=every,
    )
    if held < vocabulary:
        tiles = tiling(batch, -(-vocabulary // 4), one_row=True)
        parts = tiles.grid[0]
        best = torch.empty((2, batch, parts), dtype=torch.float32, device=device)
        chosen = torch.empty((batch, parts), dtype=torch.int32, device=device)
        _noisy[tiles.grid](
            logits, logits.stride(0), place, prf.keys, prf.slots, digests, best, chosen, counts, batch, vocabulary, parts,
            LOW=tiles.low, CAPACITY=held, ALL=every,
        )
        size = triton.next_power_of_2(vocabulary) if interpreted() else CHUNK
        _choose[(triton.cdiv(vocabulary, size), batch)](
            logits, logits.stride(0), place, best, chosen, counts, batch, vocabulary, parts, float(losers),
            PARTS=triton.next_power_of_2(parts), SIZE=size, CAPACITY=held, ALL=every,
        )


def compete(
    logits: Tensor, rows: Tensor | None, keys: RowKeys, digests: Tensor, layers: int, *, capacity: int = CANDIDATES
) -> None:
    """Apply ``layers`` layers of two-candidate tournaments; ``capacity`` as for :func:`choose`."""
    batch, vocabulary, prf, device = len(keys), logits.shape[1], keys.on_kernels(), logits.device
    if not batch:
        return
    place, every, digests = prf.slots if rows is None else rows, rows is None, digests.contiguous()
    tokens, counts = _lists(logits, place, batch, capacity, every=every)
    held = tokens.shape[1]
    _compete_listed[(batch,)](
        logits, logits.stride(0), place, table(device), prf.keys, prf.slots, digests, tokens, counts,
        LAYERS=layers, CAPACITY=held, ALL=every,
    )
    if held < vocabulary:
        words = prf.words(prf.slots, digests, -(-vocabulary // 4), counts, held + 1)
        gains = torch.empty((batch, vocabulary), dtype=torch.float32, device=device)
        _compete_all[(batch,)](
            logits, logits.stride(0), place, words, words.shape[1], gains, counts, vocabulary, LAYERS=layers, CAPACITY=held,
            SIZE=triton.next_power_of_2(vocabulary) if interpreted() else 1024, ALL=every, num_warps=16,
        )


def _lists(logits: Tensor, place: Tensor, batch: int, capacity: int, *, every: bool) -> tuple[Tensor, Tensor]:
    """(int32 [b, K] ids of the finite logits of each row as far as there is room, int32 [b] how many there are)."""
    vocabulary = logits.shape[1]
    size = triton.next_power_of_2(vocabulary)
    tokens = torch.empty((batch, min(capacity, size)), dtype=torch.int32, device=logits.device)
    counts = torch.empty(batch, dtype=torch.int32, device=logits.device)
    _list[(batch,)](
        logits, logits.stride(0), place, tokens, counts, vocabulary, CAPACITY=tokens.shape[1],
        SIZE=size if interpreted() else min(CHUNK, size), ALL=every, num_warps=8,
    )
    return tokens, counts


@triton.jit
def _start(logits, stride, rows, row, ALL: tl.constexpr):
    # Pointer to the logits of each row of the keys.
    if ALL:
        return logits + row.to(tl.int64) * stride
    else:
        return logits + tl.load(rows + row).to(tl.int64) * stride


@triton.jit
def _less(x, green, place: tl.constexpr, before):
    # Whether the number in the planes up to `place` is below that of `green`, given the answer for the planes before.
    wanted = (0 - ((green >> place) & 1)).to(tl.uint32, bitcast=True)
    return (~x & (wanted | before)) | (wanted & before)


@triton.jit
def _below(x, green):
    # One bit for each byte of a bit-sliced row: whether it is less than `green`.
    found = _less(x[1], green, 1, _less(x[0], green, 0, x[0] ^ x[0]))
    found = _less(x[3], green, 3, _less(x[2], green, 2, found))
    found = _less(x[5], green, 5, _less(x[4], green, 4, found))
    return _less(x[7], green, 7, _less(x[6], green, 6, found))


@triton.jit(do_not_specialize=["green", "batch"])
def _colour(
    logits, stride, rows, keys, slots, digests, order, lane, owner, green, delta, batch, vocabulary,
    R: tl.constexpr, LOW: tl.constexpr, ALL: tl.constexpr, OWN: tl.constexpr,
):
    row, inside, index = elements(batch, R, LOW)
    a, b, c, d = slices(keys, slots, digests, row, inside, index, R, LOW)
    a, b, c, d = _below(a, green), _below(b, green), _below(c, green), _below(d, green)
    safe = tl.where(inside, row, 0)
    start = _start(logits, stride, rows, safe, ALL)[:, None]
    token = tl.arange(0, 16)[None, :]
    held = token & 3
    # Token 16 i + 4 c + r is green if bit 8 c + (number of block i among the eight) of row r is set.
    bits = tl.where(held == 0, a[:, None], tl.where(held == 1, b[:, None], tl.where(held == 2, c[:, None], d[:, None])))
    bits = bits >> (8 * (token >> 2)).to(tl.uint32)
    if OWN:
        first = tl.load(digests + 3 * safe).to(tl.uint32, bitcast=True).to(tl.int64) << 31
        first |= (tl.load(digests + 3 * safe + 1).to(tl.uint32, bitcast=True) >> 1).to(tl.int64)
        table_row = tl.load(owner + safe).to(tl.int64)[:, None] * vocabulary
    for part in range(8):
        at = 16 * (index + (part << LOW))[:, None] + token
        known = inside[:, None] & (at < vocabulary)
        is_green = ((bits >> part) & 1) != 0
        if OWN:
            alone = tl.load(order + table_row + at, mask=known, other=0) < first[:, None]
            is_green = tl.where(alone, tl.load(lane + table_row + at, mask=known, other=0).to(tl.int32) < green, is_green)
        plain = tl.load(start + at, mask=known, other=0.0).to(tl.float32)
        marked = plain + tl.where(is_green, delta, 0.0)
        tl.store(start + at, marked.to(logits.dtype.element_ty), mask=known)


@triton.jit
def _gumbel(word):
    # -log(-log u) of u = (w + 1/2) / 2^32, from the complement of u, which float32 keeps to full relative precision near 0.
    above = tl.minimum(((~word).to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # -log(1 - a) = 2 artanh(a / (2 - a)) where the logarithm itself would lose digits.
    s = above / (2.0 - above)
    q = s * s
    series = 1.0 + q * (0.33333334 + q * (0.2 + q * (0.14285715 + q * (0.11111111 + q * (0.09090909 + q * 0.07692308)))))
    return -tl.log(tl.where(above < 0.4, 2.0 * s * series, -tl.log(1.0 - above)))


@triton.jit(do_not_specialize=["batch", "parts"])
def _noisy(
    logits, stride, rows, keys, slots, digests, best, chosen, counts, batch, vocabulary, parts,
    LOW: tl.constexpr, CAPACITY: tl.constexpr, ALL: tl.constexpr,
):
    held = tl.program_id(1)
    if tl.load(counts + held) <= CAPACITY:
        return
    row, inside, index = elements(batch, 1, LOW)
    a, b, c, d = slices(keys, slots, digests, row, inside, index, 1, LOW)
    a, b, c, d = blocks_of_row(a), blocks_of_row(b), blocks_of_row(c), blocks_of_row(d)
    start = _start(logits, stride, rows, held, ALL)
    word = tl.arange(0, 4)[None, :]
    score = tl.full((1 << LOW, 4), float("-inf"), tl.float32)
    top, token = score, tl.zeros((1 << LOW, 4), tl.int32)
    for part in tl.static_range(8):
        at = 4 * (index + (part << LOW))[:, None] + word
        plain = tl.load(start + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
        noisy = plain + _gumbel(words_of_block(a[part], b[part], c[part], d[part]))
        token = tl.where(noisy > score, at, token)
        score, top = tl.maximum(score, noisy), tl.maximum(top, plain)
    score, token = score.reshape(4 << LOW), token.reshape(4 << LOW)
    most = tl.max(score, 0)
    at = held * parts + tl.program_id(0)
    tl.store(best + at, most)
    tl.store(best + batch * parts + at, tl.max(top.reshape(4 << LOW), 0))
    tl.store(chosen + at, tl.min(tl.where(score == most, token, 0x7FFFFFFF), 0))


@triton.jit(do_not_specialize=["batch", "parts"])
def _choose(
    logits, stride, rows, best, chosen, counts, batch, vocabulary, parts, losers,
    PARTS: tl.constexpr, SIZE: tl.constexpr, CAPACITY: tl.constexpr, ALL: tl.constexpr,
):
    row = tl.program_id(1)
    if tl.load(counts + row) > CAPACITY:
        part = tl.arange(0, PARTS)
        score = tl.load(best + row * parts + part, mask=part < parts, other=float("-inf"))
        top = tl.max(tl.load(best + (batch + row) * parts + part, mask=part < parts, other=float("-inf")), 0)
        token = tl.load(chosen + row * parts + part, mask=part < parts, other=0x7FFFFFFF)
        winner = tl.min(tl.where(score == tl.max(score, 0), token, 0x7FFFFFFF), 0)
        start = _start(logits, stride, rows, row, ALL)
        at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        plain = tl.load(start + at, mask=at < vocabulary, other=0.0).to(tl.float32)
        out = tl.where(at == winner, 0.0, plain - (top + losers))
        tl.store(start + at, out.to(logits.dtype.element_ty), mask=at < vocabulary)


@triton.jit
def _list(
    logits, stride, rows, tokens, counts, vocabulary, CAPACITY: tl.constexpr, SIZE: tl.constexpr, ALL: tl.constexpr
):
    # Ids of finite logits in ascending order, as many as there is room for, and how many there are.
    row = tl.program_id(0)
    start = _start(logits, stride, rows, row, ALL)
    count = 0
    for chunk in range(0, vocabulary, SIZE):
        at = chunk + tl.arange(0, SIZE)
        plain = tl.load(start + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
        finite = (plain > float("-inf")).to(tl.int32)
        place = count + tl.cumsum(finite, 0) - 1
        tl.store(tokens + row * CAPACITY + place, at, mask=(finite != 0) & (place < CAPACITY))
        count += tl.sum(finite, 0)
    tl.store(counts + row, count)


@triton.jit
def _candidates(lookup, keys, slots, digests, tokens, row, known, CAPACITY: tl.constexpr):
    # Ids of a row's list and their 32-bit lanes.
    token = tl.load(tokens + row * CAPACITY + tl.arange(0, CAPACITY), mask=known, other=0)
    nonce = digests + 3 * row + tl.zeros((CAPACITY,), tl.int32)
    a, b, c, d = encrypt_words(
        lookup, keys + tl.load(slots + row) * SLOT + TOKEN_KEY, tl.load(nonce).to(tl.uint32, bitcast=True),
        tl.load(nonce + 1).to(tl.uint32, bitcast=True), tl.load(nonce + 2).to(tl.uint32, bitcast=True),
        big_endian((token >> 2).to(tl.uint32, bitcast=True)),
    )
    column = token & 3
    return token, tl.where(column == 0, a, tl.where(column == 1, b, tl.where(column == 2, c, d)))


@triton.jit
def _choose_listed(
    logits, stride, rows, lookup, keys, slots, digests, tokens, counts, losers, CAPACITY: tl.constexpr, ALL: tl.constexpr
):
    row = tl.program_id(0)
    count = tl.load(counts + row)
    # A row without any finite logit has nothing to choose and stays as it is.
    if (count > 0) & (count <= CAPACITY):
        known = tl.arange(0, CAPACITY) < count
        token, word = _candidates(lookup, keys, slots, digests, tokens, row, known, CAPACITY)
        at = _start(logits, stride, rows, row, ALL) + token
        plain = tl.load(at, mask=known, other=float("-inf")).to(tl.float32)
        score = plain + _gumbel(word)
        winner = tl.min(tl.where(score == tl.max(score, 0), token, 0x7FFFFFFF), 0)
        out = tl.where(token == winner, 0.0, plain - (tl.max(plain, 0) + losers))
        tl.store(at, out.to(logits.dtype.element_ty), mask=known)


@triton.jit
def _compete_listed(
    logits, stride, rows, lookup, keys, slots, digests, tokens, counts,
    LAYERS: tl.constexpr, CAPACITY: tl.constexpr, ALL: tl.constexpr,
):
    row = tl.program_id(0)
    count = tl.load(counts + row)
    if (count > 0) & (count <= CAPACITY):
        known = tl.arange(0, CAPACITY) < count
        token, word = _candidates(lookup, keys, slots, digests, tokens, row, known, CAPACITY)
        at = _start(logits, stride, rows, row, ALL) + token
        plain = tl.load(at, mask=known, other=float("-inf")).to(tl.float32)
        mass = tl.exp(plain - tl.max(plain, 0)).to(tl.float64)
        mass = mass / tl.sum(mass, 0)
        gain = tl.full((CAPACITY,), 1.0, tl.float64)
        for layer in range(LAYERS):
            won = ((word >> layer) & 1).to(tl.float64)
            # 1 - s as the losers' share: the difference itself would turn negative by rounding once one side has it all.
            step = won + tl.sum(mass * (1.0 - won), 0)
            mass *= step
            gain *= step
        marked = plain + tl.log(gain).to(tl.float32)
        tl.store(at, marked.to(logits.dtype.element_ty), mask=known)


@triton.jit
def _compete_all(
    logits, stride, rows, words, width, gains, counts, vocabulary,
    LAYERS: tl.constexpr, CAPACITY: tl.constexpr, SIZE: tl.constexpr, ALL: tl.constexpr,
):
    # Three layers a pass: they multiply all tokens with the same three bits by the same factor.
    row = tl.program_id(0)
    if tl.load(counts + row) > CAPACITY:
        start = _start(logits, stride, rows, row, ALL)
        lanes, gain = words + row.to(tl.int64) * width, gains + row.to(tl.int64) * vocabulary
        bins = tl.arange(0, 8)
        best = tl.full((SIZE,), float("-inf"), tl.float32)
        for chunk in range(0, vocabulary, SIZE):
            at = chunk + tl.arange(0, SIZE)
            best = tl.maximum(best, tl.load(start + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32))
            tl.store(gain + at, tl.full((SIZE,), 1.0, tl.float32), mask=at < vocabulary)
        top = tl.max(best, 0)
        factors = tl.full((8,), 1.0, tl.float64)
        for first in range(0, LAYERS + 3, 3):
            tl.debug_barrier()
            held = tl.zeros((SIZE, 8), tl.float64)
            for chunk in range(0, vocabulary, SIZE):
                at = chunk + tl.arange(0, SIZE)
                known = at < vocabulary
                plain = tl.load(start + at, mask=known, other=float("-inf")).to(tl.float32)
                word = tl.load(lanes + at, mask=known, other=0).to(tl.uint32, bitcast=True)
                before = (word >> tl.maximum(first - 3, 0)).to(tl.int32, bitcast=True) & 7
                step = tl.sum(tl.where(before[:, None] == bins[None, :], factors[None, :], 0.0), 1)
                so_far = tl.load(gain + at, mask=known, other=0.0) * step.to(tl.float32)
                tl.store(gain + at, so_far, mask=known)
                mass = tl.exp(plain - top).to(tl.float64) * so_far.to(tl.float64)
                pattern = (word >> tl.minimum(first, 31)).to(tl.int32, bitcast=True) & 7
                held += tl.where(pattern[:, None] == bins[None, :], mass[:, None], 0.0)
            factors = _factors(tl.sum(held, 0), first, LAYERS)
        tl.debug_barrier()
        for chunk in range(0, vocabulary, SIZE):
            at = chunk + tl.arange(0, SIZE)
            plain = tl.load(start + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
            marked = plain + tl.log(tl.load(gain + at, mask=at < vocabulary, other=1.0))
            tl.store(start + at, marked.to(logits.dtype.element_ty), mask=at < vocabulary)


@triton.jit
def _factors(held, first, LAYERS: tl.constexpr):
    # float64 [8]: the factor by which up to three layers from `first` multiply each pattern of their bits.
    bins = tl.arange(0, 8)
    factors = tl.full((8,), 1.0, tl.float64)
    whole = tl.sum(held, 0)
    for layer in tl.static_range(3):
        won = ((bins >> layer) & 1).to(tl.float64)
        step = won + tl.sum(held * (1.0 - won), 0) / whole
        step = tl.where(first + layer < LAYERS, step, 1.0)
        held *= step
        factors *= step
    return factors
