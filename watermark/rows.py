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

    def digests(self, rows: slice, windows: Tensor) -> Tensor:
        narrow = windows.numpy().astype(np.uint32)
        found = [key.digests(window) for key, window in zip(self._keys[rows], narrow, strict=True)]
        return torch.from_numpy(np.stack(found).view(np.int32))

    def lanes(self, rows: slice, digests: Tensor, vocabulary: int, bits: int) -> Tensor:
        narrow = digests.numpy().view(np.uint32)
        found = [key.stream(digest, vocabulary, bits) for key, digest in zip(self._keys[rows], narrow, strict=True)]
        stacked = found[0][None] if len(found) == 1 else np.stack(found)
        return torch.from_numpy(stacked if bits == 8 else stacked.view(np.int32))


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

    def own(self, rows: slice, vocabulary: int) -> tuple[Tensor, Tensor]:
        """Each token taken as its own seed: anchor order int64 [b, V] and 8-bit lane uint8 [b, V]; cached with the key."""
        pairs = [_own_tables(key, vocabulary, self.device) for key in self.keys[rows]]
        if len(pairs) == 1:
            return pairs[0][0][None], pairs[0][1][None]
        return torch.stack([order for order, _ in pairs]), torch.stack([lane for _, lane in pairs])


def order_of(digests: Tensor) -> Tensor:
    """:func:`wmcheck.watermark.prf.anchor_order` of int32 [..., 3] digests: int64 [...] >= 0."""
    words = digests[..., :2].long() & 0xFFFFFFFF
    return words[..., 0] << 31 | words[..., 1] >> 1


def _own_tables(key: PrfKey, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor]:
    name = ("own", vocabulary, str(device))
    if name not in key.cache:
        tokens = np.arange(vocabulary, dtype=np.int64)
        digests = key.digests(tokens[:, None].astype(np.uint32))
        order, lanes = anchor_order(digests), key.lanes8(digests, tokens)
        key.cache[name] = torch.from_numpy(order).to(device), torch.from_numpy(lanes).to(device)
    found: tuple[Tensor, Tensor] = key.cache[name]  # type: ignore[assignment]
    return found
