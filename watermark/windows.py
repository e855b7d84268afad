"""Context windows and freshness: the one implementation of what is embedded in and what is scored.

Rules (generation and detection apply the same ones):

- the window of a token is the ``h`` ids before it, in prompt and output;
- a window that holds a special id (padding included) carries no watermark;
- under the freshness rule ``window``, a window that occurred earlier in its row carries none either;
- detection scores each distinct pair (effective seed, token) once, never a token of the prompt or a special token, and no
  pair that the known prompt holds: who quotes marked text has not written it.

Which items are scored depends on the ids and, for min and self hash, on ``k_ctx`` alone, never on the colours: the null
law of the scored items is that of independent draws (``specs`` of the statistic: exactness given the selection).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.law import Law
from wmcheck.watermark.prf import I64, U32, U64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids of one text; the first ``prompt_length`` of them are the prompt: context, never scored.

    Attributes:
        ids: i64[L] prompt and output.
        prompt_length: how many are the prompt.
        law: what a language model predicted at each of the L places; None without a model.
    """

    ids: I64
    prompt_length: int = 0
    law: Law | None = None


@dataclass(frozen=True, slots=True)
class ContextRule:
    """What a keyed function reads before the first ids of a text.

    Attributes:
        own: contexts hold ids of the output alone: no prompt reaches into them.
        pad: the number that stands where no id is; None where a short context carries no watermark. Contexts of prompt and output
            are padded where the prompt, and so the beginning of the row, is known.
    """

    own: bool = False
    pad: int | None = None


# Contexts of our schemes: the last ids of prompt and output, whole.
WHOLE = ContextRule()


@dataclass(frozen=True, slots=True)
class Items:
    """Scorable (window, token) pairs of a batch of documents, in document and text order.

    Attributes:
        document: i64[n] index of the document.
        place: i64[n] index of the token in its document.
        windows: u32[n, h] ids before the token, oldest first.
        tokens: i64[n].
        scored: bool[n]; False for tokens of the prompt, which are here only so that output which quotes them is a repeat.
        documents: number of documents in the batch.
        excluded: i64[documents] output tokens left out: the first ``h`` of an unknown prompt, special ones and those
            whose window holds one.
        eligible: i64[documents] output tokens that are not excluded; what is not scored of them is a repeat.
    """

    document: I64
    place: I64
    windows: U32
    tokens: I64
    scored: NDArray[np.bool_]
    documents: int
    excluded: I64
    eligible: I64


def hash64(columns: Any, seed: Any = 0) -> U64:
    """64-bit mix (splitmix64 steps) of the columns of an integer array [n, k] into u64[n]."""
    with np.errstate(over="ignore"):
        value = np.zeros(columns.shape[0], np.uint64) + np.uint64(seed)
        for column in range(columns.shape[1]):
            value = mix64(value ^ columns[:, column].astype(np.uint64))
    return value


def mix64(value: U64) -> U64:
    """One splitmix64 step: a bijection of u64 that mixes all bits."""
    with np.errstate(over="ignore"):
        value = value + GOLDEN
        value ^= value >> np.uint64(30)
        value *= MIX[0]
        value ^= value >> np.uint64(27)
        value *= MIX[1]
        value ^= value >> np.uint64(31)
    return value


def in_document(codes: U64, document: I64) -> U64:
    """Codes that tell the documents of a batch apart. ``codes`` must be mixed already: the index goes in unmixed."""
    return mix64(codes ^ document.astype(np.uint64))


def first_occurrences(codes: U64) -> I64:
    """Indices, increasing, of the first occurrence of each distinct code.

    ``codes`` must be well mixed (outputs of :func:`mix64`). The index shares a word with the top bits of the code so that
    one plain sort does the work. Two different codes may then count as equal (about n^3 / 2^65 such pairs); one item is
    dropped for nothing, and validity is untouched.
    """
    n = len(codes)
    if n < 2:
        return np.arange(n)
    bits = np.uint64(max(1, (n - 1).bit_length()))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    packed = codes & ~mask | np.arange(n, dtype=np.uint64)
    packed.sort()
    fresh = np.empty(n, bool)
    fresh[0] = True
    np.not_equal(packed[1:] >> bits, packed[:-1] >> bits, out=fresh[1:])
    first = np.zeros(n, bool)
    first[(packed[fresh] & mask).astype(np.int64)] = True
    return np.flatnonzero(first)


def make_items(
    documents: Sequence[Document], width: int, special: I64, *, window_rule: bool, context: ContextRule = WHOLE
) -> Items:
    """Cut documents into scorable items.

    Args:
        documents: ids in [0, 2^31).
        width: h, the number of context ids.
        special: ids that are never scored and never part of a scored window.
        window_rule: drop windows that occurred earlier in the document (the generator did not mark them).
        context: what stands in the windows of the first ids.
    """
    count = len(documents)
    lengths = np.array([len(document.ids) for document in documents], np.int64)
    prompts = np.array([document.prompt_length for document in documents], np.int64)
    ids = np.concatenate([document.ids for document in documents]) if count else np.zeros(0, np.int64)
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(count), lengths)
    place = np.arange(len(ids)) - starts[owner]
    output = place >= prompts[owner]
    # Places before a token that its context can reach.
    reach = np.where(output, place - prompts[owner], place) if context.own else place
    windows = _windows(ids.astype(np.uint32), width, reach, context.pad)
    usable = reach >= width
    if context.pad is not None:
        usable |= context.own or prompts[owner] > 0
    if len(special):
        marked = np.isin(ids, special)
        running = np.concatenate([[0], np.cumsum(marked)])
        here = np.arange(len(ids))
        usable &= running[here + 1] == running[here - np.minimum(reach, width)]
    keep = usable
    if window_rule and width and len(ids):
        inside = np.flatnonzero(usable | (reach >= width))
        # Where contexts hold the output alone, its generator has not seen what the prompt repeats.
        group = 2 * owner[inside] + output[inside] if context.own else owner[inside]
        fresh = np.zeros(len(ids), bool)
        fresh[inside[first_occurrences(in_document(hash64(windows[inside]), group))]] = True
        keep = usable & fresh
    kept = np.flatnonzero(keep)
    eligible = np.bincount(owner[usable & output], minlength=count)
    return Items(
        document=owner[kept], place=place[kept], windows=np.ascontiguousarray(windows[kept]), tokens=ids[kept],
        scored=output[kept], documents=count, excluded=np.maximum(lengths - prompts, 0) - eligible, eligible=eligible,
    )


def _windows(narrow: U32, width: int, reach: I64, pad: int | None) -> U32:
    """u32[n, width]: the ids before each place; where ``reach`` ends earlier, ``pad``, or anything where that is None."""
    if not width or not len(narrow):
        return np.zeros((len(narrow), width), np.uint32)
    padded = np.concatenate([np.zeros(width, np.uint32), narrow])[: len(narrow) + width - 1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    if pad is None:
        return windows
    short = np.flatnonzero(reach < width)
    windows = windows.copy()
    windows[short] = np.where(np.arange(width)[None] < width - reach[short, None], np.uint32(pad), windows[short])
    return windows


def fresh_rows(history: Any, width: int, special: Any, *, window_rule: bool) -> Any:
    """Which rows may be marked at the next position; works on numpy arrays and on torch tensors of any device.

    Args:
        history: integer [B, L], prompt and output so far, left-padded.
        width: h.
        special: integer [k], special ids, on the device of ``history``.
        window_rule: rows whose last window occurred earlier are left alone.

    Returns:
        bool [B].
    """
    length = history.shape[1]
    if length < width:
        return history[:, :0].sum(1) > 0
    window = history[:, length - width :]
    held = (window[:, :, None] == special[None, None, :]).any(2).any(1)
    if not (window_rule and width) or length == width:
        return ~held
    same = history[:, : length - width] == window[:, :1]
    for offset in range(1, width):
        same &= history[:, offset : length - width + offset] == window[:, offset : offset + 1]
    return ~(held | same.any(1))
