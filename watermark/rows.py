"""One keyed function a row of a generation batch, on whatever device the logits live.

The CPU uses AES instructions, a few rows at a time so that their vocabulary stays in cache; other devices take the whole batch
through :class:`~wmcheck.watermark.prf_torch.TorchPrf`. A faster kernel for a device is one more choice in :class:`RowKeys`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from wmcheck.watermark.prf import PrfKey, anchor_order
from wmcheck.watermark.prf_torch import TorchPrf

# A few rows stay in the cache, and each tensor operation on them is long enough to pay for waking other threads.
CPU_ROWS = 4


class _CpuPrf:
    """The interface of :class:`TorchPrf` over the numpy keyed function."""

    def __init__(self, keys: Sequence[PrfKey]) -> None:
        self._keys = keys

    def take(self, rows: Sequence[int]) -> _CpuPrf:
        return _CpuPrf([self._keys[row] for row in rows])

    def digests(self, rows: slice, windows: Tensor) -> Tensor:
        narrow = windows.numpy().astype(np.uint32)
        found = [key.digests(window) for key, window in zip(self._keys[rows], narrow, strict=True)]
        return torch.from_numpy(np.stack(found).view(np.int32))

    def lanes(self, rows: slice, digests: Tensor, vocabulary: int, bits: int) -> Tensor:
        # Rows end in slack that the cipher asks for, so that it writes straight into the batch.
        size = -(-vocabulary * bits // 128) * 16
        buffer = np.empty((digests.shape[0], size + 16), np.uint8)
        for key, digest, row in zip(self._keys[rows], digests.numpy().view(np.uint32), buffer, strict=True):
            key.stream_into(digest, size, row)
        return torch.from_numpy(buffer[:, :vocabulary] if bits == 8 else buffer.view(np.int32)[:, :vocabulary])


class RowKeys:
    """Keyed functions of the rows of a batch.

    Args:
        keys: one a row, all under the same label.
        device: device of the logits.
        backend: ``"auto"``, or ``"torch"`` to use the tensor implementation on a CPU too.
    """

    def __init__(self, keys: Sequence[PrfKey], device: torch.device | str = "cpu", *, backend: str = "auto") -> None:
        self.keys = tuple(keys)
        self.device = torch.device(device)
        self.whole = backend == "torch" or self.device.type != "cpu"
        self._prf: _CpuPrf | TorchPrf = TorchPrf(self.keys, self.device) if self.whole else _CpuPrf(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> RowKeys:
        """The keyed functions of some rows."""
        taken = RowKeys.__new__(RowKeys)
        taken.keys, taken.device, taken.whole = tuple(self.keys[row] for row in rows), self.device, self.whole
        taken._prf = self._prf.take(rows)
        return taken

    def digests(self, windows: Tensor) -> Tensor:
        """int32 [B, 3]: context digests of int64 [B, h]."""
        return self._prf.digests(slice(None), windows[:, None, :])[:, 0]

    def anchors(self, windows: Tensor) -> Tensor:
        """int32 [B, 3]: the smallest single-id digest of each window, the effective seed of min hash."""
        singles = self._prf.digests(slice(None), windows[:, :, None])
        best = order_of(singles).argmin(1)
        return singles[torch.arange(len(self), device=singles.device), best]

    def lanes(self, digests: Tensor, vocabulary: int, bits: int) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of rows with the lanes of their vocabulary: (rows, uint8 or int32 [b, V])."""
        step = len(self) if self.whole else CPU_ROWS
        for start in range(0, len(self), step):
            rows = slice(start, start + step)
            yield rows, self._prf.lanes(rows, digests[rows], vocabulary, bits)

    def put_own(self, rows: slice, lanes: Tensor, digests: Tensor) -> None:
        """Self hash: write into ``lanes`` [b, V] the own lane of every token that is a smaller anchor than its row's.

        A token's own digest depends on the key alone, so tokens are sorted by it once a key; a row then touches only the
        one token in ``h + 1`` that wins.
        """
        for row, (key, anchor) in enumerate(zip(self.keys[rows], order_of(digests[rows]), strict=True)):
            order, tokens, own = _own_tables(key, lanes.shape[1], self.device)
            winners = int(torch.searchsorted(order, anchor))
            lanes[row, tokens[:winners]] = own[:winners]


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


def mark_rows(scheme, windows, logits, keys, rows):
    """Mark rows in place (placeholder until the kernels land)."""
    logits.index_copy_(0, rows, scheme.transform(windows, logits[rows], keys))
