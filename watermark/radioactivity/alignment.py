"""Suspects with another tokenizer than the profile's: positions and tokens brought to the profile's ids.

A position counts where both tokenizations of a text have a boundary at the same character. There the window is that of the
profile's ids, and each token of the suspect stands for the first token of the profile into which its text is cut. What is lost in
translation costs power; weights still depend on suspect and texts alone, so the null law is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from wmcheck.watermark.core.errors import TokenizerError
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected, Occurrences, Text, pool, windows_at
from wmcheck.watermark.radioactivity.open_model import CHUNK, FLOOR, TOP, Reader, Row, fresh_places
from wmcheck.watermark.tokenizer import TextTokenizer

# Texts before a token, so that it is cut as inside of a text; the first at which a token of the profile ends is taken.
ANCHORS = ("a", ".", "1", "\n")
# What decoders write for bytes that are no whole character.
BROKEN = "\ufffd"
_MAPS: dict[tuple[str, str], I64] = {}


def collect_aligned(
    model: Any, texts: Sequence[str], profile: Profile, tokenizer: TextTokenizer, *, text: Text = "neutral", top: int = TOP,
    floor: float = FLOOR, batch_size: int = 16, chunk: int = CHUNK, start: Sequence[int] | None = None,
    max_contexts: int | None = None, source: str = "", progress: Callable[[int], None] | None = None,
    suspect_tokenizer: TextTokenizer | None = None,
) -> Collected:
    """As :func:`collect`, for a suspect with a tokenizer of its own.

    Args:
        model: a :class:`~wmcheck.watermark.embed.LanguageModel`, or a ``transformers`` model with ``suspect_tokenizer``.
        texts: texts, not ids.
        profile: the contract.
        tokenizer: the profile's tokenizer.
        suspect_tokenizer: the model's; default that of ``model``.
        text, top, floor, batch_size, chunk, start, max_contexts, source, progress: as for :func:`collect`.

    Raises:
        TokenizerError: ``tokenizer`` is not the profile's, or nothing aligns.
    """
    own = suspect_tokenizer if suspect_tokenizer is not None else model.tokenizer
    if profile.tokenizer is not None:
        profile.check_tokenizer(tokenizer)
    to_profile = vocabulary_map(own, tokenizer)
    width, counts = profile.scheme.width, [0, 0]
    rows = (
        row for one in texts for row in aligned_rows(one, own, tokenizer, width, chunk, whole=text == "marked", counts=counts)
    )
    reader = Reader(
        model, top=top, floor=floor, start=start, vocabulary=own.vocabulary, to_profile=to_profile,
        profile_vocabulary=tokenizer.vocabulary,
    )
    found = reader.read(rows, batch_size=batch_size, max_contexts=max_contexts, progress=progress)
    if not found or not any(len(part.owner) for part in found):
        raise TokenizerError(
            "the suspect's tokenizer cannot be aligned with the profile's", where=own.source,
            got="no common boundary in any text", expected=f"boundaries of {tokenizer.source}",
            hint="test sampled answers: they are decoded and encoded again",
        )
    return pool(
        Occurrences.join(found, width), text=text, special=profile.special_ids, vocabulary=tokenizer.vocabulary,
        aligned=counts[0] / max(1, counts[1]), source=source or str(getattr(model, "source", "")),
    )


def aligned_rows(
    text: str, own: TextTokenizer, tokenizer: TextTokenizer, width: int, chunk: int, *, whole: bool, counts: list[int]
) -> Iterator[Row]:
    """The pieces of a text in the suspect's ids, with the profile's windows where boundaries meet.

    ``counts`` is added to: aligned positions, and all positions of the suspect.
    """
    if not text:
        return
    theirs, own_ends = boundaries(text, own)
    ids, ends = boundaries(text, tokenizer)
    counts[1] += len(theirs)
    both = np.flatnonzero((own_ends >= 0) & np.isin(own_ends, ends[ends >= 0]))
    at = ending_at(ends, len(text))[own_ends[both]]
    counts[0] += len(both)
    both, at = both[at >= width - 1], at[at >= width - 1]
    if not len(both):
        return
    if whole:
        # Of all windows of the text, whether or not the tokenizers meet there.
        fresh = fresh_places(ids, width)[at]
        both, at = both[fresh], at[fresh]
    windows = windows_at(ids, at, width)
    for begin in range(0, len(theirs), chunk):
        inside = (both >= begin) & (both < begin + chunk)
        if inside.any():
            yield Row(theirs[begin : begin + chunk], both[inside] - begin, windows[inside])


def vocabulary_map(own: TextTokenizer, tokenizer: TextTokenizer) -> I64:
    """i64[V]: for each id of ``own`` the first id of ``tokenizer`` of its text, -1 for none; made once for a pair."""
    place = (own.digest, tokenizer.digest)
    if place not in _MAPS:
        _MAPS[place] = _vocabulary_map(own, tokenizer)
    return _MAPS[place]


def _vocabulary_map(own: TextTokenizer, tokenizer: TextTokenizer) -> I64:
    special = set(own.special_ids)
    found = np.full(own.vocabulary, -1, np.int64)
    before = own.encode(["a"])[0].tolist()
    shown = own.decode(before)
    for number in range(own.vocabulary):
        if number in special:
            continue
        text = own.decode([*before, number])[len(shown) :]
        if text and BROKEN not in text:
            found[number] = first_token(text, tokenizer)
    return found


def first_token(text: str, tokenizer: TextTokenizer) -> int:
    """The first token of ``text`` inside of a longer one; -1 where there is no saying."""
    for anchor in ANCHORS:
        ids, ends = boundaries(anchor + text, tokenizer)
        place = np.flatnonzero(ends == len(anchor))
        if len(place) and place[0] + 1 < len(ids):
            return int(ids[place[0] + 1])
    return -1


def boundaries(text: str, tokenizer: TextTokenizer) -> tuple[I64, I64]:
    """Ids of a text and the character at which each ends; -1 where the next one begins earlier, as inside of a character."""
    ids, places = tokenizer.places(text)
    starts = np.array([place[0] if place else -1 for place in places], np.int64)
    ends = np.array([place[1] if place else -1 for place in places], np.int64)
    following = np.append(starts[1:], len(text))
    return ids, np.where(following >= ends, ends, -1)


def ending_at(ends: I64, length: int) -> I64:
    """i64[length + 1]: the token that ends at each character of a text, -1 for none."""
    found = np.full(length + 1, -1)
    found[ends[ends >= 0]] = np.flatnonzero(ends >= 0)
    return found
