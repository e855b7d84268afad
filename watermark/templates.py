"""What the documents of a corpus share: contexts, templates, and what sharing does to one fixed key.

A p-value of one document holds for a random key. A deployed key is one fixed key, and documents that share scored items
(pairs of context and token) share its luck with them: the error of that key over the corpus may be far off although the
mean over keys is right. How far can be computed without any key: given the text, the scores of distinct items are independent
with variance v, so with ``z_d`` the standardised sum of document d over its ``n_d`` items, the mean of ``z_d`` over m
documents has, over keys, the variance

    sum over distinct items of (sum over the documents d that hold it of 1 / (m sqrt(n_d))) ^ 2,

which is 1 / m exactly if no item is shared. :func:`spread_ratio` is the square root of the quotient.

Everything here reads token ids alone. A rule that leaves out items by their context is therefore as valid as the rule that
leaves out repeats: which items are scored does not depend on their scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import items_of
from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.core.formats import unreadable
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import left_codes
from wmcheck.watermark.windows import Document, first_occurrences, hash64, in_document, mix64

SCHEMA = "wmcheck.blocklist/1"
# Runs of so many equal ids are looked for, whatever the width of the scheme: hardly ever the same by chance.
SHINGLE = 8
# A template is at least so many tokens a document.
MIN_TOKENS = 16
# Passages with document sets of this overlap are one template; one that only some of its documents hold stands alone if long.
OVERLAP, CONTAINED = 0.5, 0.9
MOST_PASSAGES = 400
BATCH_DOCUMENTS = 256
# A blocklist is proposed until the spread over keys is within this factor of independent documents, while half is left.
TARGET_SPREAD, MOST_BLOCKED = 1.25, 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contexts:
    """The items of a corpus that are scored when the choice needs no key: the first of each (document, window, token).

    For hash rules whose choice needs a key (min, self) it is the choice by whole windows: a description, not a rule.

    Attributes:
        document: i64[n].
        window: i64[n] number of the window among the distinct ones.
        item: i64[n] number of the (window, token) pair among the distinct ones.
        codes: u64[distinct windows], ascending: ``hash64`` of the window.
        documents: m.
        width: h.
    """

    document: I64
    window: I64
    item: I64
    codes: U64
    documents: int
    width: int

    def held_by(self) -> I64:
        """i64[distinct windows]: how many documents hold each."""
        held = np.unique(self.window * max(1, self.documents) + self.document) // max(1, self.documents)
        return np.bincount(held, minlength=len(self.codes)).astype(np.int64)

    def repeated(self) -> NDArray[np.bool_]:
        """bool[n]: another document holds the same item."""
        return np.bincount(self.item)[self.item] > 1 if len(self.item) else np.zeros(0, bool)


def corpus_contexts(documents: Sequence[Document], profile: Profile) -> Contexts:
    """Number the windows and items of a corpus; about 40 bytes a token."""
    scheme = profile.scheme
    owners, windows, pairs = [], [], []
    for start in range(0, len(documents), BATCH_DOCUMENTS):
        batch = documents[start : start + BATCH_DOCUMENTS]
        items = items_of(batch, profile)
        codes = left_codes(items.windows, items.tokens)
        first = first_occurrences(in_document(codes, items.document))
        first = first[items.scored[first]]
        owners.append(items.document[first] + start)
        windows.append(hash64(items.windows[first]))
        pairs.append(codes[first])
    if not owners:
        return Contexts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64), 0,
                        scheme.width)
    distinct, window = np.unique(np.concatenate(windows), return_inverse=True)
    item = np.unique(np.concatenate(pairs), return_inverse=True)[1]
    return Contexts(np.concatenate(owners), window, item, distinct, len(documents), scheme.width)


def spread_ratio(contexts: Contexts, keep: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation over keys of the mean z of the documents, as a multiple of that of independent documents.

    Exact under a random key where the choice of items needs none; for min and self hash windows that share an anchor share
    a seed, and the true ratio is larger. NaN without items.

    Args:
        contexts: the items.
        keep: bool[n], the items that are scored; all by default.
    """
    document, item = contexts.document, contexts.item
    if keep is not None:
        document, item = document[keep], item[keep]
    if not len(item):
        return math.nan
    n = np.bincount(document, minlength=contexts.documents)
    weight = np.bincount(item, weights=1.0 / np.sqrt(n[document]))
    return math.sqrt(float(weight @ weight) / np.count_nonzero(n))


@dataclass(frozen=True)
class Blocklist:
    """Contexts that are left out of scoring. Holds no key, no text and no token ids.

    Attributes:
        width: h.
        codes: u64[k], ascending: ``hash64`` of each window.
        min_documents: each stood in at least so many documents of the corpus that the list was made from.
        documents: how many documents that corpus had.
        tokenizer: digest of the tokenizer that made the ids; empty if unknown.
    """

    width: int
    codes: U64
    min_documents: int
    documents: int
    tokenizer: str = ""

    def blocked(self, windows: U32) -> NDArray[np.bool_]:
        """bool[n]: which windows, u32[n, h], are on the list."""
        if not len(self.codes):
            return np.zeros(len(windows), bool)
        found = hash64(windows)
        place = np.minimum(np.searchsorted(self.codes, found), len(self.codes) - 1)
        return np.asarray(self.codes[place] == found)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object under schema ``wmcheck.blocklist/1``."""
        return {
            "schema": SCHEMA, "width": self.width, "tokenizer": self.tokenizer, "min_documents": self.min_documents,
            "documents": self.documents, "contexts": [f"{code:016x}" for code in self.codes.tolist()],
        }

    @classmethod
    def load(cls, path: str) -> Blocklist:
        """Read a list that ``wmcheck calibrate --blocklist`` wrote.

        Raises:
            InputError: no such file, or not a blocklist of this version.
        """
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
            if data["schema"] != SCHEMA:
                raise InputError("not a blocklist", where=path, got=f"schema {str(data['schema'])[:40]!r}", expected=SCHEMA)
            codes = np.unique(np.array([int(code, 16) for code in data["contexts"]], np.uint64))
            return cls(int(data["width"]), codes, int(data["min_documents"]), int(data["documents"]), str(data["tokenizer"]))
        except OSError as error:
            raise unreadable(path, error) from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError("not a blocklist", where=path, got=type(error).__name__, expected=SCHEMA) from None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A blocklist and what it does by arithmetic alone.

    Attributes:
        blocklist: the contexts; none where the spread is small enough already.
        blocked: share of the scored items that it drops.
        spread: :func:`spread_ratio` before.
        spread_left: after.
    """

    blocklist: Blocklist
    blocked: float
    spread: float
    spread_left: float


def propose_blocklist(contexts: Contexts, *, min_documents: int | None = None, tokenizer: str = "") -> Proposal:
    """The contexts that most documents share, as many as bring the spread over keys near that of independent documents.

    Args:
        contexts: the items of the corpus.
        min_documents: list the windows of at least so many documents; by default the largest number that brings the spread
            ratio to ``TARGET_SPREAD``, or as near to it as dropping at most half of the items can.
        tokenizer: digest of the tokenizer.
    """
    before = spread_ratio(contexts)
    held = contexts.held_by()
    # Without a context there is nothing to list: every document shares the one list of the key.
    enough = contexts.width == 0 or not len(held) or (min_documents is None and not before > TARGET_SPREAD)
    if enough:
        return Proposal(Blocklist(contexts.width, np.zeros(0, np.uint64), min_documents or 0, contexts.documents, tokenizer),
                        0.0, before, before)
    tried = [min_documents] if min_documents is not None else _thresholds(int(held.max()))
    best = Proposal(Blocklist(contexts.width, np.zeros(0, np.uint64), 0, contexts.documents, tokenizer), 0.0, before, before)
    for threshold in tried:
        common = held >= threshold
        keep = ~common[contexts.window]
        blocked = 1.0 - float(keep.mean())
        if min_documents is None and (blocked > MOST_BLOCKED or not keep.any()):
            break
        found = Blocklist(contexts.width, contexts.codes[common], threshold, contexts.documents, tokenizer)
        best = Proposal(found, blocked, before, spread_ratio(contexts, keep))
        if min_documents is None and best.spread_left <= TARGET_SPREAD:
            break
    return best


def _thresholds(most: int) -> list[int]:
    """About forty numbers of documents, from the largest down to 2."""
    return sorted({round(float(value)) for value in np.geomspace(2, max(2, most), 40)}, reverse=True)


@dataclass(frozen=True, slots=True)
class Template:
    """A passage, or several, that the same documents hold.

    Attributes:
        documents: i64[k] indices of the documents, ascending.
        share: share of the tokens of these documents that it covers.
        tokens: covered tokens a document, on average.
        place: ``start``, ``end``, ``start and end``, ``inside`` or ``whole``.
        example: i64, the ids of its longest run in its first document.
    """

    documents: I64
    share: float
    tokens: float
    place: str
    example: I64


def find_templates(documents: Sequence[Document], *, min_documents: int = 3) -> list[Template]:
    """Templates of a corpus, the one that covers most tokens first.

    Runs of ``SHINGLE`` ids are counted exactly. Those that stand in one and the same set of documents are one passage;
    passages with nearly the same documents are one template, so that the text around names, dates and other slots stays
    together.

    Args:
        documents: token ids; prompts are left out.
        min_documents: fewer documents than this are no template.
    """
    shingles = _Shingles.of(documents)
    labels, sizes = shingles.templates(min_documents)
    return sorted(
        (found for label, size in enumerate(sizes) if (found := shingles.describe(labels == label, size, min_documents))),
        key=lambda one: -one.tokens * len(one.documents),
    )


@dataclass(frozen=True, slots=True)
class _Shingles:
    """The runs of a corpus: code, document and place in the text of each start."""

    codes: U64
    owner: I64
    place: I64
    lengths: I64
    texts: Sequence[I64]

    @classmethod
    def of(cls, documents: Sequence[Document]) -> _Shingles:
        texts = [document.ids[document.prompt_length :] for document in documents]
        lengths = np.array([len(text) for text in texts], np.int64)
        ids = np.concatenate([*texts, np.zeros(SHINGLE - 1, np.int64)])
        owner = np.repeat(np.arange(len(texts)), lengths)
        place = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        whole = place + SHINGLE <= lengths[owner]
        if not len(owner):
            return cls(np.zeros(0, np.uint64), owner, place, lengths, texts)
        codes = hash64(np.lib.stride_tricks.sliding_window_view(ids, SHINGLE))
        return cls(codes[whole], owner[whole], place[whole], lengths, texts)

    def templates(self, min_documents: int) -> tuple[I64, list[int]]:
        """i64: the template of each start, -1 for none; and the number of distinct runs of each template's main passage."""
        none = np.full(len(self.codes), -1, np.int64)
        if not len(self.codes):
            return none, []
        first = first_occurrences(in_document(self.codes, self.owner))
        order = first[np.argsort(self.codes[first], kind="stable")]
        codes, owner = self.codes[order], self.owner[order]
        begin = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        held = np.diff(np.concatenate([begin, [len(codes)]]))
        # Sums of mixed indices: equal where the sets of documents are equal, and hardly ever otherwise.
        sets = np.add.reduceat(mix64(owner.astype(np.uint64)), begin)
        shared = np.flatnonzero(held >= min_documents)
        if not len(shared):
            return none, []
        _, representative, passage, size = np.unique(sets[shared], return_index=True, return_inverse=True, return_counts=True)
        members = [owner[begin[shared[i]] : begin[shared[i]] + held[shared[i]]] for i in representative]
        label, sizes = _merged(members, size, len(self.lengths))
        at = np.minimum(np.searchsorted(codes[begin[shared]], self.codes), len(shared) - 1)
        hit = codes[begin[shared]][at] == self.codes
        return np.where(hit, label[passage[at]], -1), sizes

    def describe(self, mine: NDArray[np.bool_], size: int, min_documents: int) -> Template | None:
        """The template made of some starts; None where too little of it is left in too few documents."""
        count = np.bincount(self.owner[mine], minlength=len(self.lengths))
        inside = count >= max(1.0, size / 2)
        mine = mine & inside[self.owner]
        held = np.flatnonzero(inside)
        if len(held) < min_documents:
            return None
        owner, place = self.owner[mine], self.place[mine]
        new = np.concatenate([[True], (owner[1:] != owner[:-1]) | (place[1:] > place[:-1] + SHINGLE)])
        # A start covers what lies between it and the next one of its run, the last of a run SHINGLE tokens.
        step = np.append(np.where(new[1:], SHINGLE, place[1:] - place[:-1]), SHINGLE)
        covered = np.bincount(owner, weights=step, minlength=len(self.lengths))[held]
        if covered.mean() < MIN_TOKENS:
            return None
        ends = np.flatnonzero(np.append(new[1:], True))
        starts = np.flatnonzero(new)
        own = owner[starts] == held[0]
        longest = np.flatnonzero(own)[np.argmax((place[ends] - place[starts])[own])]
        example = self.texts[held[0]][place[starts[longest]] : place[ends[longest]] + SHINGLE]
        at_start = np.bincount(owner[place == 0], minlength=len(self.lengths))[held] > 0
        at_end = np.bincount(owner[place + SHINGLE == self.lengths[owner]], minlength=len(self.lengths))[held] > 0
        share = float(covered.sum() / self.lengths[held].sum())
        return Template(held, share, float(covered.mean()), _place(at_start.mean(), at_end.mean(), share), example)


def _merged(members: Sequence[I64], size: I64, documents: int) -> tuple[I64, list[int]]:
    """The template of each passage (-1: none) and the size of each template's first passage; passages come with the
    documents that hold them and their number of runs."""
    weight = size * np.array([len(member) for member in members])
    label = np.full(len(members), -1, np.int64)
    masks: list[NDArray[np.bool_]] = []
    sizes: list[int] = []
    for passage in np.argsort(-weight, kind="stable")[:MOST_PASSAGES]:
        member = members[passage]
        for place, mask in enumerate(masks):
            both = int(mask[member].sum())
            alike = both >= OVERLAP * (int(mask.sum()) + len(member) - both)
            if alike or (both >= CONTAINED * len(member) and size[passage] < MIN_TOKENS):
                label[passage] = place
                break
        else:
            label[passage] = len(masks)
            mask = np.zeros(documents, bool)
            mask[member] = True
            masks.append(mask)
            sizes.append(int(size[passage]))
    return label, sizes


def _place(at_start: float, at_end: float, share: float) -> str:
    if share > 0.9:
        return "whole"
    if at_start >= 0.5 and at_end >= 0.5:
        return "start and end"
    return "start" if at_start >= 0.5 else "end" if at_end >= 0.5 else "inside"
