"""Contexts read from a suspect and its next-token probabilities there: what every test scores, gathered without any key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.prf import I64, MAX_TOKEN_ID, U32, U64
from wmcheck.watermark.windows import first_occurrences, hash64, mix64

Floats = NDArray[np.float64]
Text = Literal["neutral", "marked"]

# Rules for windows that occur several times, as reports print them.
AVERAGED = "all occurrences of a window averaged: the texts are independent of the key"
FIRST = (
    "first occurrence of a window over all texts, none that its own text had before: the texts are watermarked, and what the "
    "suspect copies from them would carry the key"
)
DISTINCT_TOKENS = "each distinct (window, token) of the answers once, no window of any prompt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """Distinct contexts and the tokens that a suspect favours there. No field depends on a key.

    Under the null hypothesis (the key is independent of the suspect and, for neutral texts, of the texts) the scores of all
    (window, token) pairs are independent draws from the scheme's null law, whatever the weights are.

    Attributes:
        windows: u32[m, h] distinct windows in ids of the profile's tokenizer, oldest first.
        owner: i64[k] index of the window of each item, ascending.
        tokens: i64[k] ids of the profile's tokenizer; each (owner, token) occurs once.
        weights: f64[k] in (0, 1]: the suspect's probability of the token after the window; all 1 for tokens that were seen.
        read_owner: i64[r] windows of the suspect's likeliest tokens, for the reading test.
        read_tokens: i64[r] its likeliest token there; each (window, token) once.
        tokens_read: positions of text that the suspect was asked about, or tokens that it wrote.
        text: ``neutral`` (independent of the key) or ``marked`` (watermarked under it).
        unit: True where items are tokens that were seen (sampled answers): equal effective seeds then count once.
        rule: what was done with windows that occur several times.
        aligned: share of positions at which the suspect's tokenizer and the profile's agree; 1.0 for equal tokenizers.
        filter: the filter that was applied; empty without one.
        source: where the suspect came from.
    """

    windows: U32
    owner: I64
    tokens: I64
    weights: Floats
    read_owner: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    read_tokens: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    tokens_read: int = 0
    text: Text = "neutral"
    unit: bool = False
    rule: str = AVERAGED
    aligned: float = 1.0
    filter: str = ""
    source: str = ""

    @property
    def n_contexts(self) -> int:
        """Windows that hold at least one item."""
        return int(np.count_nonzero(np.bincount(self.owner, minlength=len(self.windows))))

    def keep(self, windows: NDArray[np.bool_], *, label: str = "") -> Collected:
        """The contexts where ``windows`` bool[m] is True; the choice must not depend on the key."""
        place = np.cumsum(windows) - 1
        items, read = windows[self.owner], windows[self.read_owner]
        return replace(
            self, windows=self.windows[windows], owner=place[self.owner[items]], tokens=self.tokens[items],
            weights=self.weights[items], read_owner=place[self.read_owner[read]], read_tokens=self.read_tokens[read],
            filter="; ".join(part for part in (self.filter, label) if part),
        )

    def readings(self) -> Collected:
        """The suspect's likeliest tokens as items of weight 1."""
        return replace(
            self, owner=self.read_owner, tokens=self.read_tokens, weights=np.ones(len(self.read_owner)), unit=True
        )

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file, so that tests can be repeated without the model."""
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in (*_ARRAYS, *_PLAIN)}
        with Path(path).open("wb") as handle:
            np.savez_compressed(handle, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Collected:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                fields: dict[str, Any] = {name: data[name] for name in _ARRAYS}
                fields |= {name: data[name].item() for name in _PLAIN}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError("not a file of collected contexts", where=str(path), got=str(error)[:100]) from None
        return cls(**fields)


_ARRAYS = ("windows", "owner", "tokens", "weights", "read_owner", "read_tokens")
_PLAIN = ("tokens_read", "text", "unit", "rule", "aligned", "filter", "source")


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Positions of texts with the suspect's probabilities, before equal windows are brought together.

    Attributes:
        windows: u32[n, h] the window at each position, in text order.
        owner: i64[k] position of each probability, ascending.
        tokens: i64[k].
        weights: f64[k] in (0, 1].
        best: i64[n] the likeliest token, -1 where it is none of the profile's.
    """

    windows: U32
    owner: I64
    tokens: I64
    weights: Floats
    best: I64

    @classmethod
    def join(cls, parts: Sequence[Occurrences], width: int) -> Occurrences:
        """One list after another."""
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(np.zeros((0, width), np.uint32), none, none, np.zeros(0), none)
        shifts = np.cumsum([0] + [len(part.best) for part in parts])
        return cls(
            np.concatenate([part.windows for part in parts]),
            np.concatenate([part.owner + shift for part, shift in zip(parts, shifts, strict=False)]),
            np.concatenate([part.tokens for part in parts]), np.concatenate([part.weights for part in parts]),
            np.concatenate([part.best for part in parts]),
        )


def pool(
    found: Occurrences, *, text: Text = "neutral", special: Sequence[int] = (), vocabulary: int | None = None,
    tokens_read: int | None = None, aligned: float = 1.0, source: str = "",
) -> Collected:
    """Distinct windows from positions; also for probabilities that an endpoint reports.

    Neutral texts: the probabilities of a window are averaged over its occurrences, a token that is not listed at one of them
    counting as 0 there. Marked texts: the first occurrence alone; the caller has left out windows that their own text had before.

    Args:
        found: the positions.
        text: whether the texts are independent of the key.
        special: ids that are never scored and never part of a scored window.
        vocabulary: ids at or above it are dropped.
        tokens_read: default: the number of positions.
        aligned, source: see :class:`Collected`.

    Raises:
        InputError: probabilities outside (0, 1], or ids that are none.
    """
    _check(found)
    special_ids = np.asarray(special, np.int64)
    usable = np.ones(len(found.best), bool)
    if len(special_ids):
        usable &= ~np.isin(found.windows.astype(np.int64), special_ids).any(1)
    codes = window_codes(found.windows)
    first = np.flatnonzero(usable)[first_occurrences(codes[usable])]
    window_of = places_of(codes, codes[first])
    if text == "marked":
        usable = np.zeros(len(usable), bool)
        usable[first] = True
    else:
        usable &= window_of >= 0
    times = np.bincount(window_of[usable], minlength=len(first))
    keep = usable[found.owner] & _allowed(found.tokens, special_ids, vocabulary)
    owner, tokens, weights = window_of[found.owner[keep]], found.tokens[keep], found.weights[keep]
    owner, tokens, weights = merge_pairs(owner, tokens, weights / times[owner])
    read = usable & (found.best >= 0) & _allowed(found.best, special_ids, vocabulary)
    read_owner, read_tokens, _ = merge_pairs(window_of[read], found.best[read], np.ones(int(read.sum())))
    return Collected(
        windows=np.ascontiguousarray(found.windows[first]), owner=owner, tokens=tokens, weights=np.minimum(weights, 1.0),
        read_owner=read_owner, read_tokens=read_tokens,
        tokens_read=len(found.best) if tokens_read is None else tokens_read, text=text,
        rule=AVERAGED if text == "neutral" else FIRST, aligned=aligned, source=source,
    )


def merge_pairs(owner: I64, tokens: I64, weights: Floats) -> tuple[I64, I64, Floats]:
    """Distinct (owner, token) pairs in ascending order with the sums of their weights."""
    if not len(owner):
        return owner, tokens, weights
    packed = owner << 31 | tokens
    distinct, place = np.unique(packed, return_inverse=True)
    sums: Floats = np.bincount(place, weights=weights, minlength=len(distinct)).astype(np.float64)
    return distinct >> 31, distinct & MAX_TOKEN_ID, sums


def window_codes(windows: U32) -> U64:
    """u64[m] codes of windows, as filters store them."""
    return mix64(hash64(windows))


def places_of(codes: U64, among: U64) -> I64:
    """i64[n]: where each code stands in ``among``, which holds none twice; -1 for those that it does not hold."""
    if not len(among):
        return np.full(len(codes), -1)
    order = np.argsort(among, kind="stable")
    place = order[np.minimum(np.searchsorted(among[order], codes), len(among) - 1)]
    return np.where(among[place] == codes, place, -1)


def windows_at(ids: I64, places: I64, width: int) -> U32:
    """u32[n, width]: the ids of a text up to and with each place, oldest first."""
    windows: U32 = ids[places[:, None] + np.arange(1 - width, 1)].astype(np.uint32)
    return windows


def _allowed(tokens: I64, special: I64, vocabulary: int | None) -> NDArray[np.bool_]:
    allowed = np.ones(len(tokens), bool) if vocabulary is None else tokens < vocabulary
    return allowed & ~np.isin(tokens, special) if len(special) else allowed


def _check(found: Occurrences) -> None:
    sound = bool(np.all((found.weights > 0) & (found.weights <= 1.0 + 1e-6)))
    if not sound or bool(np.any((found.tokens < 0) | (found.tokens > MAX_TOKEN_ID))):
        raise InputError("not probabilities of tokens", where="pool", expected="weights in (0, 1] and token ids of 0 or more")
