"""Rows of a batch with few finite logits, as left by top-k and top-p, on their lists of candidates alone; on the CPU.

A GPU cannot be asked how many there are without waiting for it; :mod:`wmcheck.watermark.kernels` decides there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wmcheck.watermark.rows import RowKeys

# Negative infinity of each dtype as an integer of the same size: comparing integers is the fastest pass over a row.
MASKED = {
    torch.float64: (torch.int64, -(1 << 52)), torch.float32: (torch.int32, -(1 << 23)),
    torch.float16: (torch.int16, -(1 << 10)), torch.bfloat16: (torch.int16, -(1 << 7)),
}
# A row is worked on as a list if at most one in so many of its logits is finite.
SPARSE = 4
# Columns that are looked at first; a row with more than half of its logits finite there is taken as dense unseen.
PROBE = 2048

Whole = Callable[[Tensor, Tensor, RowKeys], Tensor]
Few = Callable[[Tensor, Tensor], Tensor]


def transform_lists(logits: Tensor, digests: Tensor, keys: RowKeys, *, few: Few, whole: Whole) -> Tensor:
    """The transformed logits, by ``few`` for rows with few finite logits and by ``whole`` for all others.

    Args:
        logits: [B, V].
        digests: int32 [B, 3].
        keys: ``B`` keyed functions.
        few: from the logits float32 [n, K] of lists of candidates, filled up with ``-inf``, and their 32-bit lanes int32 [n, K]
            to new logits [n, K].
        whole: from rows of logits, their digests and keys to new logits; on a GPU for all rows.
    """
    lists = [] if keys.whole else finite_lists(logits)
    dense = [row for row, tokens in enumerate(lists) if tokens is None]
    if len(dense) == len(lists):
        return whole(logits, digests, keys)
    out = logits.clone()
    if dense:
        out[dense] = whole(logits[dense], digests[dense], keys.take(dense))
    found = [(row, tokens) for row, tokens in enumerate(lists) if tokens is not None and len(tokens)]
    if found:
        rows, longest = torch.tensor([row for row, _ in found]), max(len(tokens) for _, tokens in found)
        padded, known = np.zeros((len(found), longest), np.int64), np.zeros((len(found), longest), np.bool_)
        for place, (_, tokens) in enumerate(found):
            padded[place, : len(tokens)], known[place, : len(tokens)] = tokens, True
        ids, valid = torch.from_numpy(padded), torch.from_numpy(known)
        plain = logits[rows[:, None], ids].float().masked_fill_(~valid, -torch.inf)
        words = keys.take(rows.tolist()).words_at(digests[rows], ids)
        changed = few(plain, words).to(out.dtype)
        out[rows[:, None].expand_as(ids)[valid], ids[valid]] = changed[valid]
    return out


def finite_lists(logits: Tensor) -> list[NDArray[np.int64] | None]:
    """For each row of ``logits`` [B, V] the ids of its finite logits, ascending, or None where they are too many for a list."""
    kind, masked = MASKED[logits.dtype]
    bits, vocabulary = logits.view(kind).numpy(), logits.shape[1]
    finite, found = np.empty(vocabulary, np.bool_), []
    for row in bits:
        probe = row[:PROBE]
        dense = 2 * np.count_nonzero(probe != masked) > len(probe)
        if not dense:
            np.not_equal(row, masked, out=finite)
            dense = SPARSE * np.count_nonzero(finite) > vocabulary
        found.append(None if dense else np.flatnonzero(finite))
    return found
