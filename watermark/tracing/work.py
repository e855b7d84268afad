"""One batch of a search: the items of its documents, and the accounts that score best on each.

:class:`Slice` scores some accounts; several slices, on one process or more, make up the family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.layers import LayeredRoot
from wmcheck.watermark.prf import I64, U32
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.schemes.layered import Layered
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.tracing.bulk import BulkScorer
from wmcheck.watermark.tracing.bulk_keys import BulkKeys, derive_keys
from wmcheck.watermark.tracing.evalues import EvidenceKernel, average_log, evidence_kernel, mixtures, rows_of
from wmcheck.watermark.tracing.kernels import Floats, kernel_of
from wmcheck.watermark.windows import Document

# Accounts that are kept for each document; also how many can be named.
TOP = 64
# Numbers of a block of totals.
BLOCK_TOTALS = 1 << 21

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Work:
    """Scored items of documents, in order of documents, items that are new to the run first within each.

    Attributes:
        windows: u32[n, h].
        tokens: i64[n].
        starts: i64[segments], the first item of each run of items of one document that are all new or all known.
        fresh: bool[segments], new to the run.
        documents: i64[documents], those that have any.
        firsts: i64[documents], the first segment of each of them.
        counts: i64[documents], items of each of those.
    """

    windows: U32
    tokens: I64
    starts: I64
    fresh: NDArray[np.bool_]
    documents: I64
    firsts: I64
    counts: I64


@dataclass(slots=True)
class Top:
    """The best hypotheses so far: largest values first, and among equal ones the first of the list.

    Attributes:
        values: what ranks them: the total, or minus log p where the number of items depends on the key.
        index: of the hypotheses.
        totals: of their scores.
        counts: of their items.
    """

    values: Floats = field(default_factory=lambda: np.zeros(0))
    index: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    totals: Floats = field(default_factory=lambda: np.zeros(0))
    counts: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, values: Floats, index: I64, totals: Floats, counts: I64) -> None:
        """Take in more hypotheses."""
        bar = self.values[-1] if len(self.values) >= TOP else -np.inf
        best = np.flatnonzero(values >= bar)
        if not len(best):
            return
        parts = [(self.values, self.index, self.totals, self.counts), (values[best], index[best], totals[best], counts[best])]
        joined = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
        order = np.lexsort((joined[1], -joined[0]))[:TOP]
        self.values, self.index, self.totals, self.counts = (column[order] for column in joined)

    def merge(self, other: Top) -> None:
        """Take in the hypotheses of another slice."""
        self.add(other.values, other.index, other.totals, other.counts)


def cut(batch: Batch, candidate: Candidate, seen: SeenSet) -> Work:
    """The items of a batch that any account scores, when the key has no say in that."""
    kept = batch.select(candidate)
    fresh, owner = batch.new_to(seen, candidate), batch.items.document[kept]
    order = np.lexsort((~fresh, owner))
    kept, fresh, owner = kept[order], fresh[order], owner[order]
    begins = np.ones(len(kept), bool)
    begins[1:] = (owner[1:] != owner[:-1]) | (fresh[1:] != fresh[:-1])
    starts = np.flatnonzero(begins)
    documents, firsts = np.unique(owner[starts], return_index=True)
    counts = np.bincount(owner, minlength=batch.items.documents)[documents] if len(owner) else np.zeros(0, np.int64)
    items = batch.items
    return Work(items.windows[kept], items.tokens[kept], starts, fresh[starts], documents, firsts, counts)


def cut_fragments(batch: Batch, candidate: Candidate, seen: SeenSet, length: int) -> Work:
    """The items that are new to the run, cut into fragments of at most ``length`` items of one document.

    Fragments are the segments of the work; each is a "document" of it too.
    """
    kept, items = batch.select(candidate), batch.items
    kept = kept[seen.add(candidate.profile.scheme.codes(items.windows[kept], items.tokens[kept], candidate.prf))]
    owner, place = items.document[kept], np.arange(len(kept))
    begins = np.ones(len(kept), bool)
    begins[1:] = owner[1:] != owner[:-1]
    # Places within the document's new items.
    within = place - np.maximum.accumulate(np.where(begins, place, 0))
    starts = np.flatnonzero(within % length == 0)
    counts = np.diff(starts, append=len(kept))
    numbers = np.arange(len(starts))
    return Work(items.windows[kept], items.tokens[kept], starts, np.ones(len(starts), bool), numbers, numbers, counts)


class Slice:
    """Some accounts of the family, in all epochs. Holds secrets.

    Args:
        profile: the watermark contract.
        root: the root key.
        names: of these accounts.
        offset: place of the first of them in the list of all.
        accounts: number of all.
        epochs: of the family.
    """

    __slots__ = ("_accounts", "_epochs", "_keys", "_mixture", "_names", "_offset", "_profile", "_root", "_together", "_weigher")

    def __init__(
        self, profile: Profile, root: SecretKey, names: Sequence[str], offset: int, accounts: int, epochs: Sequence[str]
    ) -> None:
        self._profile, self._root, self._names, self._epochs = profile, root, names, epochs
        self._offset, self._accounts = offset, accounts
        self._keys: list[BulkKeys] = []
        self._together = np.zeros((len(epochs), len(names)))
        self._mixture = np.zeros((0, 0, 0))
        self._weigher: EvidenceKernel | None = None

    def __repr__(self) -> str:
        return f"Slice({len(self._names)} accounts)"

    def derive(self, progress: Progress | None = None) -> None:
        """Derive the keys, which later calls need; once is enough."""
        label, context = token_label(self._profile, self._root)
        for epoch in self._epochs[len(self._keys) :]:
            self._keys.append(derive_keys(self._root, self._names, epoch, label, context=context, progress=progress))

    def test(self, work: Work, progress: Progress | None = None) -> list[Top]:
        """The best accounts of each document that has items, and their part of the test of all records."""
        kernel = kernel_of(self._profile.scheme)
        assert kernel is not None
        self.derive()
        scorer = BulkScorer(kernel, work.windows, work.tokens, work.starts)
        tops = [Top() for _ in work.firsts]
        step = max(64, BLOCK_TOTALS // max(1, scorer.segments))
        for epoch, keys in enumerate(self._keys):
            for low in range(0, len(keys), step):
                high = min(low + step, len(keys))
                totals = scorer.totals(keys, low, high)[0]
                self._together[epoch, low:high] += totals[:, work.fresh].sum(1)
                index = epoch * self._accounts + self._offset + np.arange(low, high)
                for place, column in enumerate(np.add.reduceat(totals, work.firsts, axis=1).T if tops else ()):
                    tops[place].add(column, index, column, np.full(high - low, work.counts[place]))
                if progress is not None:
                    progress(high - low)
        return tops

    def test_each(self, documents: Sequence[Document], progress: Progress | None = None) -> list[Top]:
        """As :meth:`test`, each account scored by the scheme itself and on items of its own; every document has an entry."""
        null, batch = self._profile.scheme.null(), Batch(documents, self._profile)
        tops = [Top() for _ in documents]
        step = max(64, (1 << 16) // max(1, len(documents)))
        for epoch, label in enumerate(self._epochs):
            for low in range(0, len(self._names), step):
                names = self._names[low : low + step]
                totals, counts = np.zeros((2, len(names), len(documents)))
                for place, name in enumerate(names):
                    scores, owner = batch.scores(Candidate.of(self._profile, self._root, name, label))
                    totals[place] = np.bincount(owner, scores, len(documents))
                    counts[place] = np.bincount(owner, minlength=len(documents))
                index = epoch * self._accounts + self._offset + np.arange(low, low + len(names))
                self._rank(tops, null, totals, counts.astype(np.int64), index)
                if progress is not None:
                    progress(len(names))
        return tops

    def _rank(self, tops: list[Top], null: Null, totals: Floats, counts: I64, index: I64) -> None:
        log_p = null.log_sf(totals, counts)
        for place, top in enumerate(tops):
            top.add(-log_p[:, place], index, totals[:, place], counts[:, place])

    def together(self, n: int) -> Top:
        """The best accounts over the ``n`` distinct items of all records so far."""
        top = Top()
        for epoch, totals in enumerate(self._together):
            index = epoch * self._accounts + self._offset + np.arange(len(totals))
            top.add(totals, index, totals, np.full(len(totals), n))
        return top

    def weigh(self, work: Work, progress: Progress | None = None) -> None:
        """Add the evidence of fragments (:func:`cut_fragments`) to every account's."""
        scheme = self._profile.scheme
        kernel = self._weigher = self._weigher or evidence_kernel(scheme, experts(scheme.null()))
        assert kernel is not None
        self._make_room()
        self.derive()
        scorer = BulkScorer(kernel, work.windows, work.tokens, work.starts)
        step = max(64, BLOCK_TOTALS // max(1, scorer.segments * kernel.outputs))
        # Added at the end, so that an interrupt leaves the evidence of whole batches.
        found = np.zeros_like(self._mixture)
        for epoch, keys in enumerate(self._keys):
            for low in range(0, len(keys), step):
                high = min(low + step, len(keys))
                found[:, epoch, low:high] = mixtures(scorer.totals(keys, low, high))
                if progress is not None:
                    progress(high - low)
        self._mixture += found

    def weigh_each(self, documents: Sequence[Document], length: int, progress: Progress | None = None) -> None:
        """As :meth:`weigh` for all documents at once, each account weighed by itself on items of its own."""
        batch = Batch(documents, self._profile)
        self._make_room()
        for epoch, label in enumerate(self._epochs):
            for place, name in enumerate(self._names):
                candidate = Candidate.of(self._profile, self._root, name, label)
                work = cut_fragments(batch, candidate, SeenSet(), length)
                self._mixture[:, epoch, place] = exact_mixtures(candidate, work)
                if progress is not None and place % 64 == 63:
                    progress(64)

    def _make_room(self) -> None:
        rows = rows_of(experts(self._profile.scheme.null()))
        if not len(self._mixture):
            self._mixture = np.zeros((rows, len(self._epochs), len(self._names)))

    def mixture(self) -> Top:
        """The accounts with the largest e-values; ``values`` and ``totals`` are their logs."""
        top = Top()
        self._make_room()
        for epoch, log_e in enumerate(average_log(self._mixture)):
            index = epoch * self._accounts + self._offset + np.arange(len(log_e))
            top.add(log_e, index, log_e, np.zeros(len(log_e), np.int64))
        return top


def token_label(profile: Profile, root: SecretKey) -> tuple[str, bytes | None]:
    """The label of accounts' keyed functions, and the AES key of contexts where accounts share one: it IS secret."""
    scheme = profile.scheme
    if not isinstance(scheme, Layered):
        return scheme.label(), None
    layer = scheme.active[0]
    return scheme.layer_label(layer), LayeredRoot.of(root).shared(("contexts",), scheme.context_label(layer), "ctx")


def exact_mixtures(candidate: Candidate, work: Work) -> Floats:
    """f64[rows]: the log e-values of the fragments under one key (:func:`~.evalues.mixtures`), by the scheme's own scores."""
    scheme = candidate.profile.scheme
    null = scheme.null()
    scores = null.reduce(scheme.score(work.windows, work.tokens, candidate.prf))
    if not len(scores):
        return np.zeros(rows_of(experts(null)))
    return mixtures(np.stack([np.add.reduceat(bet.log_e(scores), work.starts) for bet in experts(null)]))
