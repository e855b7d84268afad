"""One keyed function a row of a generation batch, on whatever device the logits live.

The CPU uses AES instructions, a few rows at a time so that their vocabulary stays in cache; CUDA devices use Triton kernels where
Triton is installed, and other devices tensor operations. All have the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wmcheck.watermark.prf import U32, PrfKey, anchor_order, counter_words
from wmcheck.watermark.prf_torch import TorchPrf

if TYPE_CHECKING:
    from wmcheck.watermark.prf_triton import TritonPrf
    from wmcheck.watermark.scheme import Scheme

# A few rows of a large vocabulary, or more of a small one, stay in the cache, and each tensor operation on them is long enough to
# pay for its call and for waking other threads.
CPU_LANES = 4 * 131_072
# Bytes of keystream of a row up to which all rows of a key are encrypted in one call.
SMALL_STREAM = 1 << 14


class _CpuPrf:
    """The interface of :class:`TorchPrf` over the numpy keyed function."""

    def __init__(self, keys: Sequence[PrfKey]) -> None:
        self._keys = keys

    def take(self, rows: Sequence[int]) -> _CpuPrf:
        return _CpuPrf([self._keys[row] for row in rows])

    def digests(self, rows: slice, windows: Tensor) -> Tensor:
        batch, each, width = windows.shape
        blocks = max(1, -(-width // 4))
        message = np.zeros((batch, each, blocks, 4), np.uint32)
        message.reshape(batch, each, 4 * blocks)[..., :width] = windows.numpy()
        state = self.encrypted("context", rows, message[:, :, 0])
        for block in range(1, blocks):
            state = self.encrypted("context", rows, state ^ message[:, :, block])
        return torch.from_numpy(state[..., :3].view(np.int32))

    def lanes(self, rows: slice, digests: Tensor, vocabulary: int, bits: int) -> Tensor:
        batch, size = digests.shape[0], -(-vocabulary * bits // 128) * 16
        seeds = digests.numpy().view(np.uint32)
        if size <= SMALL_STREAM:
            message = np.empty((batch, size // 16, 4), np.uint32)
            message[..., :3] = seeds[:, None]
            message[..., 3] = counter_words(np.arange(size // 16))
            buffer = self.encrypted("token", rows, message).reshape(batch, -1).view(np.uint8)
        else:
            # Rows end in slack that the cipher asks for, so that it writes straight into the batch.
            buffer = np.empty((batch, size + 16), np.uint8)
            for key, digest, row in zip(self._keys[rows], seeds, buffer, strict=True):
                key.stream_into(digest, size, row)
        return torch.from_numpy(buffer[:, :vocabulary] if bits == 8 else buffer.view(np.int32)[:, :vocabulary])

    def encrypted(self, purpose: str, rows: slice, blocks: U32) -> U32:
        """AES of u32[b, n, 4], row by row under the keys of ``rows``; neighbours with the same key in one call."""
        blocks = np.ascontiguousarray(blocks)
        out, each = np.empty(blocks.nbytes + 16, np.uint8), blocks.shape[1] * 16
        source, target, start = blocks.reshape(-1).view(np.uint8).data, out.data, 0
        for key, group in groupby(self._keys[rows]):
            end = start + each * sum(1 for _ in group)
            key.encrypt_into(purpose, source[start:end], target[start : end + 15])
            start = end
        return out[: blocks.nbytes].view(np.uint32).reshape(blocks.shape)


class RowKeys:
    """Keyed functions of the rows of a batch.

    Cheap to make: what a key costs is kept with the key.

    Args:
        keys: one a row, all under the same label.
        device: device of the logits.
        backend: ``"auto"``, or ``"torch"`` to use the tensor implementation, or ``"triton"`` the kernels (on a CPU under Triton's
            interpreter alone).
    """

    def __init__(self, keys: Sequence[PrfKey], device: torch.device | str = "cpu", *, backend: str = "auto") -> None:
        self.keys = tuple(keys)
        self.device = torch.device(device)
        if backend == "auto" and self.device.type == "cuda":
            backend = "triton" if _has_triton() else "torch"
        self.whole = backend in ("torch", "triton") or self.device.type != "cpu"
        self._kernels: TritonPrf | None = None
        self._prf: _CpuPrf | TorchPrf | TritonPrf
        if backend == "triton":
            from wmcheck.watermark.prf_triton import TritonPrf

            self._prf = self._kernels = TritonPrf(self.keys, self.device)
        else:
            self._prf = TorchPrf(self.keys, self.device) if self.whole else _CpuPrf(self.keys)
        self._own: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def fuses(self, logits: Tensor) -> bool:
        """Whether the kernels work on ``logits`` in place."""
        narrow = logits.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return self._kernels is not None and narrow and logits.stride(1) == 1

    def on_kernels(self) -> TritonPrf:
        """The keyed functions for :mod:`wmcheck.watermark.kernels`, where :meth:`fuses` says so."""
        assert self._kernels is not None
        return self._kernels

    def take(self, rows: Sequence[int]) -> RowKeys:
        """The keyed functions of some rows."""
        taken = RowKeys.__new__(RowKeys)
        taken.keys, taken.device, taken.whole = tuple(self.keys[row] for row in rows), self.device, self.whole
        taken._kernels, taken._own = None, {}
        if self._kernels is not None:
            taken._prf = taken._kernels = self._kernels.take(rows)
        else:
            taken._prf = self._prf.take(rows)
        return taken

    def digests(self, windows: Tensor) -> Tensor:
        """int32 [B, 3]: context digests of int64 [B, h]."""
        return self._prf.digests(slice(None), windows[:, None, :])[:, 0]

    def anchors(self, windows: Tensor) -> Tensor:
        """int32 [B, 3]: the smallest single-id digest of each window, the effective seed of min hash."""
        if self._kernels is not None:
            return self._kernels.anchors(windows)
        singles = self._prf.digests(slice(None), windows[:, :, None])
        best = order_of(singles).argmin(1)
        return singles[torch.arange(len(self), device=singles.device), best]

    def words_at(self, digests: Tensor, tokens: Tensor) -> Tensor:
        """int32 [B, K]: 32-bit lanes of ``tokens`` int64 [B, K], each row in its own context; with AES instructions."""
        message = np.empty((*tokens.shape, 4), np.uint32)
        message[..., :3] = digests.numpy().view(np.uint32)[:, None]
        message[..., 3] = counter_words(tokens.numpy() >> 2)
        words = torch.from_numpy(_CpuPrf(self.keys).encrypted("token", slice(None), message).view(np.int32))
        return words.gather(2, (tokens & 3)[..., None])[..., 0]

    def lanes(self, digests: Tensor, vocabulary: int, bits: int) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of rows with the lanes of their vocabulary: (rows, uint8 or int32 [b, V])."""
        step = len(self) if self.whole else max(1, CPU_LANES // vocabulary)
        for start in range(0, len(self), max(1, step)):
            rows = slice(start, start + step)
            yield rows, self._prf.lanes(rows, digests[rows], vocabulary, bits)

    def put_own(self, rows: slice, lanes: Tensor, digests: Tensor) -> None:
        """Self hash: write into ``lanes`` [b, V] the own lane of every token that is a smaller anchor than its row's.

        A token's own digest depends on the key alone, so tokens are sorted by it once a key; a row then touches only the
        one token in ``h + 1`` that wins.
        """
        if self.device.type != "cpu":
            order, own, slots = self.own(lanes.shape[1])
            slot = slots[rows]
            lanes.copy_(torch.where(order[slot] < order_of(digests[rows])[:, None], own[slot], lanes))
            return
        # numpy scatters bytes at a third of torch's time.
        for held, key, anchor in zip(lanes.numpy(), self.keys[rows], order_of(digests[rows]).numpy(), strict=True):
            ranked, ids, alone = (table.numpy() for table in _own_tables(key, lanes.shape[1], self.device))
            winners = ranked.searchsorted(anchor)
            held[ids[:winners]] = alone[:winners]

    def own(self, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
        """(anchor order int64 [k, V], own 8-bit lane uint8 [k, V]) of each token by itself under each of the ``k`` different
        keys, and int64 [B], which of them is each row's; kept for this batch."""
        if vocabulary not in self._own:
            places: dict[PrfKey, int] = {}
            slots = torch.tensor([places.setdefault(key, len(places)) for key in self.keys])
            orders, lanes = zip(*(_own_by_token(key, vocabulary, self.device) for key in places), strict=True)
            self._own[vocabulary] = torch.stack(orders), torch.stack(lanes), slots.to(self.device, non_blocking=True)
        return self._own[vocabulary]


def mark_rows(scheme: Scheme, windows: Tensor, logits: Tensor, keys: RowKeys, rows: Tensor | None = None) -> None:
    """Watermark some rows of a batch in place; the others keep every bit.

    Args:
        scheme: the scheme.
        windows: int64 [b, h], the last ``h`` ids of each marked row.
        logits: floating [B, V]; ``-inf`` stays ``-inf``, and a row without finite logits stays as it is.
        keys: ``b`` keyed functions.
        rows: int64 [b], different positions in the batch, on the device of ``logits``; None for all of them in order.
    """
    fused = getattr(scheme, "transform_rows", None)
    if fused is not None and keys.fuses(logits):
        fused(windows, logits, keys, rows)
        return
    if rows is not None and logits.device.type == "cpu" and torch.equal(rows, torch.arange(len(logits))):
        rows = None
    if rows is None:
        logits.copy_(scheme.transform(windows, logits, keys))
    elif len(rows):
        logits.index_copy_(0, rows, scheme.transform(windows, logits[rows], keys))


def order_of(digests: Tensor) -> Tensor:
    """:func:`wmcheck.watermark.prf.anchor_order` of int32 [..., 3] digests: int64 [...] >= 0."""
    words = digests[..., :2].long() & 0xFFFFFFFF
    return words[..., 0] << 31 | words[..., 1] >> 1


def _own_tables(key: PrfKey, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(anchor order int64 [V] ascending, token int64 [V], own 8-bit lane uint8 [V]); cached with the key."""
    name = ("own", vocabulary, str(device))
    if name not in key.cache:
        tokens = np.arange(vocabulary, dtype=np.int64)
        digests = key.digests(tokens[:, None].astype(np.uint32))
        order = anchor_order(digests)
        ranks = np.argsort(order)
        parts = order[ranks], tokens[ranks], key.lanes8(digests, tokens)[ranks]
        key.cache[name] = tuple(torch.from_numpy(part).to(device) for part in parts)
    found: tuple[Tensor, Tensor, Tensor] = key.cache[name]  # type: ignore[assignment]
    return found


def _own_by_token(key: PrfKey, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(anchor order int64 [V], own 8-bit lane uint8 [V]) of each token by its id; kept with the key."""
    name = ("own by token", vocabulary, str(device))
    if name not in key.cache:
        order, tokens, lane = (part.cpu() for part in _own_tables(key, vocabulary, torch.device("cpu")))
        parts = torch.empty_like(order).scatter_(0, tokens, order), torch.empty_like(lane).scatter_(0, tokens, lane)
        key.cache[name] = tuple(part.to(device) for part in parts)
    found: tuple[Tensor, Tensor] = key.cache[name]  # type: ignore[assignment]
    return found


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    """Whether a Triton is installed that knows tuples in loops, as the kernels need them (3.4)."""
    try:
        numbers = re.match(r"(\d+)\.(\d+)", version("triton"))
    except PackageNotFoundError:
        return False
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (3, 4)
