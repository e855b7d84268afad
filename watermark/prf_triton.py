"""The keyed function as Triton kernels, the same bits as :mod:`.prf`: digests of all rows in one launch, vocabularies in one.

Nothing here waits for the device. Kernels find the key of a row by a slot in one tensor of expanded keys, so that rows that
share a key share its memory. A launch covers ``R`` rows and ``8 G`` blocks of each: block ``i`` of element ``(r, g)`` is
``g + G b``, and neighbouring elements hold neighbouring blocks, so that what they read and write lies together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch
import triton
import triton.language as tl
from torch import Tensor

from wmcheck.watermark.aes_triton import (
    KEY_WORDS,
    PLAIN_WORDS,
    blocks_of_row,
    counter_slices,
    encrypt_slices,
    encrypt_words,
    sliced_key,
    table,
    words_of_block,
)
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.prf_torch import expand_key

# Words of one slot: the context key for the table cipher alone, then the token key for both.
SLOT_WORDS = PLAIN_WORDS + KEY_WORDS
TOKEN_KEY = tl.constexpr(PLAIN_WORDS)
SLOT = tl.constexpr(SLOT_WORDS)
# Elements of a program: one a thread of four warps, as 32 words of state, temporaries and addresses fill its registers.
LANES = 128


class SecretWords(Tensor):
    """Expanded keys. A class of its own so that no traceback or pickle shows them, inside Triton's launcher either."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return "SecretWords(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("round keys are secrets and are not pickled")


class Tiling(NamedTuple):
    """How elements of a program stand for rows and blocks.

    Attributes:
        rows: ``R``, rows of a program.
        low: ``log2 G``.
        grid: programs along the blocks of a row, and along the rows.
    """

    rows: int
    low: int
    grid: tuple[int, int]


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU."""
    return not isinstance(_words, triton.JITFunction)


def tiling(batch: int, blocks: int, *, one_row: bool = False) -> Tiling:
    """A tiling of ``blocks`` blocks of each of ``batch`` rows; ``one_row`` asks for programs of a single row."""
    group = triton.next_power_of_2(triton.cdiv(blocks, 8))
    # The interpreter pays for each operation of a program and not for its size.
    lanes = group if one_row else max(group, triton.next_power_of_2(batch) * group)
    if not interpreted():
        group = min(group, LANES)
        lanes = LANES
    rows = 1 if one_row else max(1, min(lanes // group, triton.next_power_of_2(batch)))
    return Tiling(rows, group.bit_length() - 1, (triton.cdiv(blocks, 8 * group), triton.cdiv(batch, rows)))


class TritonPrf:
    """Digests and lanes for one keyed function a row, with the interface of :class:`~.prf_torch.TorchPrf`.

    Args:
        keys: one :class:`PrfKey` a row.
        device: where the tensors live; a CPU only under Triton's interpreter.
    """

    __slots__ = ("_keys", "_places", "slots")

    def __init__(self, keys: Sequence[PrfKey], device: torch.device) -> None:
        places: dict[PrfKey, int] = {}
        self._places = [places.setdefault(key, len(places)) for key in keys]
        parts: list[Tensor] = [_slot(key, device) for key in places]
        joined = torch.stack(parts) if parts else torch.empty((0, SLOT_WORDS), dtype=torch.int32, device=device)
        self._keys: SecretWords = joined.as_subclass(SecretWords)
        self.slots = on_device(self._places, device)

    def take(self, rows: Sequence[int]) -> TritonPrf:
        """The keyed functions of some rows."""
        taken = TritonPrf.__new__(TritonPrf)
        taken._keys, taken._places = self._keys, [self._places[row] for row in rows]
        taken.slots = on_device(taken._places, self._keys.device)
        return taken

    def __reduce__(self) -> NoReturn:
        raise TypeError("round keys are secrets and are not pickled")

    @property
    def keys(self) -> SecretWords:
        """The tensor of expanded keys, for kernels."""
        return self._keys

    def digests(self, rows: slice, windows: Tensor) -> Tensor:
        """int32 [b, k, 3]: digests of ``windows`` int64 [b, k, h] under the keys of ``rows``."""
        batch, each, width = windows.shape
        out = torch.empty((batch, each, 3), dtype=torch.int32, device=windows.device)
        count = batch * each
        if count:
            size = triton.next_power_of_2(count) if interpreted() else 32
            _digests[(triton.cdiv(count, size),)](
                table(windows.device), self._keys, self.slots[rows], windows.contiguous(), out, count, each, width,
                triton.cdiv(max(width, 1), 4), SIZE=size, num_warps=1,
            )
        return out

    def anchors(self, windows: Tensor) -> Tensor:
        """int32 [b, 3]: the smallest single-id digest of each row of ``windows`` int64 [b, h], the first of equals."""
        batch, width = windows.shape
        out = torch.empty((batch, 3), dtype=torch.int32, device=windows.device)
        if batch:
            places = triton.next_power_of_2(width)
            size = triton.next_power_of_2(batch) if interpreted() else max(1, 32 // places)
            _anchors[(triton.cdiv(batch, size),)](
                table(windows.device), self._keys, self.slots, windows.contiguous(), out, batch, width,
                SIZE=size, PLACES=places, num_warps=1,
            )
        return out

    def lanes(self, rows: slice, digests: Tensor, vocabulary: int, bits: int) -> Tensor:
        """Lanes of the whole vocabulary: uint8 [b, V] (8 bits) or int32 [b, V] (32 bits) for digests int32 [b, 3]."""
        words = self.words(self.slots[rows], digests, -(-vocabulary * bits // 128))
        return words[:, :vocabulary] if bits == 32 else words.view(torch.uint8)[:, :vocabulary]

    def words(self, slots: Tensor, digests: Tensor, blocks: int, counts: Tensor | None = None, least: int = 0) -> Tensor:
        """int32 [b, 4 blocks]: the first blocks of each digest; rows with ``counts`` below ``least`` stay undefined."""
        batch = len(slots)
        out = torch.empty((batch, 4 * blocks), dtype=torch.int32, device=digests.device)
        if batch:
            tiles = tiling(batch, blocks, one_row=counts is not None)
            _words[tiles.grid](
                self._keys, slots, digests.contiguous(), out, slots if counts is None else counts, least, batch, blocks,
                R=tiles.rows, LOW=tiles.low, SOME=counts is not None,
            )
        return out


def on_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int32 tensor of ``numbers``, without waiting for the device: the driver has copied so few bytes when it returns."""
    return torch.tensor(numbers, dtype=torch.int32).to(device, non_blocking=True)


def _slot(key: PrfKey, device: torch.device) -> SecretWords:
    """int32 [SLOT_WORDS] on ``device``, kept with the key, as the rows of a serving batch change at every step."""
    name = ("slot", str(device))
    if name not in key.cache:
        context, token = (expand_key(secret) for secret in key.secrets())
        words = torch.tensor(context + token + sliced_key(token), dtype=torch.int32, device=device)
        key.cache[name] = words.as_subclass(SecretWords)
    found: SecretWords = key.cache[name]  # type: ignore[assignment]
    return found


# Numbers that change with the batch do not make kernels of their own.
@triton.jit(do_not_specialize=["count", "each", "width", "blocks"])
def _digests(lookup, keys, slots, windows, out, count, each, width, blocks, SIZE: tl.constexpr):
    item = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = item < count
    key = keys + tl.load(slots + item // each, mask=inside, other=0) * SLOT
    a = tl.zeros((SIZE,), tl.uint32)
    b, c, d = a, a, a
    for block in range(blocks):
        at = windows + item.to(tl.int64) * width + 4 * block
        place = tl.full((SIZE,), 4 * block, tl.int32)
        a ^= tl.load(at, mask=inside & (place < width), other=0).to(tl.uint32)
        b ^= tl.load(at + 1, mask=inside & (place + 1 < width), other=0).to(tl.uint32)
        c ^= tl.load(at + 2, mask=inside & (place + 2 < width), other=0).to(tl.uint32)
        d ^= tl.load(at + 3, mask=inside & (place + 3 < width), other=0).to(tl.uint32)
        a, b, c, d = encrypt_words(lookup, key, a, b, c, d)
    tl.store(out + 3 * item, a.to(tl.int32, bitcast=True), mask=inside)
    tl.store(out + 3 * item + 1, b.to(tl.int32, bitcast=True), mask=inside)
    tl.store(out + 3 * item + 2, c.to(tl.int32, bitcast=True), mask=inside)


@triton.jit(do_not_specialize=["count", "width"])
def _anchors(lookup, keys, slots, windows, out, count, width, SIZE: tl.constexpr, PLACES: tl.constexpr):
    row = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    place = tl.arange(0, PLACES)[None, :]
    inside = (row[:, None] < count) & (place < width)
    key = keys + tl.load(slots + row, mask=row < count, other=0)[:, None] * SLOT + tl.zeros((SIZE, PLACES), tl.int32)
    a = tl.load(windows + row[:, None] * width + place, mask=inside, other=0).to(tl.uint32)
    none = tl.zeros((SIZE, PLACES), tl.uint32)
    a, b, c, _ = encrypt_words(lookup, key, a, none, none, none)
    order = tl.where(inside, (a.to(tl.int64) << 31) | (b >> 1).to(tl.int64), 0x7FFFFFFFFFFFFFFF)
    first = tl.min(tl.where(order == tl.min(order, 1)[:, None], place, PLACES), 1)
    chosen = place == first[:, None]
    for word in tl.static_range(3):
        held = a if word == 0 else (b if word == 1 else c)
        found = tl.sum(tl.where(chosen, held.to(tl.int32, bitcast=True), 0), 1)
        tl.store(out + 3 * row + word, found, mask=row < count)


@triton.jit
def elements(batch, R: tl.constexpr, LOW: tl.constexpr):
    """Row, first block index and number of blocks between the eight of each of the ``R 2^LOW`` elements of a program."""
    lane = tl.arange(0, R << LOW)
    row = tl.program_id(1) * R + (lane >> LOW)
    return row, row < batch, (tl.program_id(0) << (LOW + 3)) + (lane & ((1 << LOW) - 1))


@triton.jit
def slices(keys, slots, digests, row, inside, index, R: tl.constexpr, LOW: tl.constexpr):
    """The eight blocks of each element, bit-sliced (:mod:`wmcheck.watermark.aes_triton`)."""
    if R == 1:
        # Pointers of one row are scalars: tensors of them would make the compiler analyse every load of a key word.
        at = tl.program_id(1)
    else:
        at = tl.where(inside, row, 0)
    a, b, c, d = counter_slices(digests + 3 * at, index, LOW)
    return encrypt_slices(keys + tl.load(slots + at) * SLOT + TOKEN_KEY, a, b, c, d)


@triton.jit(do_not_specialize=["least", "batch", "blocks"])
def _words(
    keys, slots, digests, out, counts, least, batch, blocks, R: tl.constexpr, LOW: tl.constexpr, SOME: tl.constexpr
):
    if SOME:  # noqa: SIM102 (known when the kernel is compiled)
        if tl.load(counts + tl.program_id(1)) < least:
            return
    row, inside, index = elements(batch, R, LOW)
    a, b, c, d = slices(keys, slots, digests, row, inside, index, R, LOW)
    a, b, c, d = blocks_of_row(a), blocks_of_row(b), blocks_of_row(c), blocks_of_row(d)
    word = tl.arange(0, 4)[None, :]
    for part in tl.static_range(8):
        block = index + (part << LOW)
        words = words_of_block(a[part], b[part], c[part], d[part])
        at = (row.to(tl.int64) * blocks + block)[:, None] * 4 + word
        tl.store(out + at, words.to(tl.int32, bitcast=True), mask=(inside & (block < blocks))[:, None])
