"""Maximum likelihood over accounts: whose key gives the largest score, and how likely an innocent one would do as well.

Every account is scored on the same items (those of the text), so the account with the largest sum has the smallest p-value.
The search computes all sums in bulk (:mod:`wmcheck.watermark.tracing.bulk`); the leading accounts are then scored again by the
scheme itself, one by one, and only these numbers are reported. That the two agree is checked on every account reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wmcheck.watermark.candidate import Batch
from wmcheck.watermark.detect import check_ids
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import I64, U32
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.tracing.base import Search
from wmcheck.watermark.tracing.kernels import Floats
from wmcheck.watermark.tracing.work import Progress, Top, cut
from wmcheck.watermark.windows import Document


@dataclass(frozen=True, slots=True)
class Ranked:
    """One account's test, before correction.

    Attributes:
        account: name; ``epoch`` of its key.
        key_id: public id of its key, with its ``key_commitment``; ``committed`` says whose the profile publishes.
        total: sum of scores over ``n`` items.
        log_p: natural log of the exact p-value.
        log_weight: natural log of the account's share of alpha; None where all keys have the same and Sidak's correction holds.
    """

    account: str
    epoch: str
    key_id: str
    key_commitment: str
    committed: str | None
    total: float
    n: int
    log_p: float
    log_weight: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The leading accounts of one text, best first; before correction over records.

    Attributes:
        ranked: the best and the second best, and all others that could be named.
        more: there may be accounts beyond those of ``ranked`` that could be named.
        n_scored: items scored, of the best account; ``n_repeated`` were left out as repeats, ``n_excluded`` as unscorable.
        keys: accounts times epochs searched.
    """

    ranked: tuple[Ranked, ...]
    more: bool
    n_scored: int
    n_repeated: int
    n_excluded: int
    keys: int


@dataclass(slots=True)
class _Held:
    """Items that are new to the run, for the test of all records together."""

    windows: list[U32] = field(default_factory=list)
    tokens: list[I64] = field(default_factory=list)
    repeated: int = 0
    excluded: int = 0


class Tracer(Search):
    """A search for the account that wrote each text. See :class:`~wmcheck.watermark.tracing.base.Search` for what it takes."""

    def __init__(
        self, profile: Profile, root: SecretKey, names: Sequence[str], epochs: Sequence[str] = (), *, alpha: float = 1e-6,
        workers: int = 1, source: str | None = None,
    ) -> None:
        super().__init__(profile, root, names, epochs, alpha=alpha, workers=workers, source=source)
        self._seen, self._held, self._torn = SeenSet(), _Held(), False

    @property
    def pools_records(self) -> bool:
        """Whether all records are also tested together: where which items are scored does not depend on the key."""
        return self._kernel is not None

    def test(self, documents: Sequence[Document], progress: Progress | None = None) -> list[Found]:
        """Search every document, and add it to the test of all records.

        Args:
            documents: token ids.
            progress: called with the number of accounts done since the last call.

        Raises:
            InputError: a document with ids that are no token ids.
        """
        for document in documents:
            check_ids(document)
        batch = Batch(documents, self.profile)
        tops = [Top() for _ in documents]
        if self._kernel is None:
            for part in self._pool.each("test_each", documents, progress=progress):
                for top, other in zip(tops, part, strict=True):
                    top.merge(other)
        else:
            self._bulk(batch, tops, progress)
        return [self._found(batch, place, top) for place, top in enumerate(tops)]

    def _bulk(self, batch: Batch, tops: list[Top], progress: Progress | None) -> None:
        # Until every account has seen the batch, the sums over all records are of no use.
        self._torn = True
        work = cut(batch, self._first, self._seen)
        for part in self._pool.each("test", work, progress=progress):
            for place, other in zip(work.documents, part, strict=True):
                tops[place].merge(other)
        self._torn = False
        new = np.repeat(work.fresh, np.diff(work.starts, append=len(work.tokens)))
        self._held.windows.append(work.windows[new])
        self._held.tokens.append(work.tokens[new])
        self._held.repeated += int(batch.items.eligible.sum() - new.sum())
        self._held.excluded += int(batch.items.excluded.sum())

    def together(self) -> Found:
        """The accounts that lead over all distinct items of all records.

        Raises:
            RuntimeError: a batch was interrupted.
        """
        if self._torn:
            raise RuntimeError("a batch was interrupted: not every account has been scored on all records")
        windows, tokens = np.concatenate(self._held.windows), np.concatenate(self._held.tokens)
        top = Top()
        for part in self._pool.each("together", len(tokens)):
            top.merge(part)
        ranked = [self._scored(index, windows, tokens, total) for index, total in zip(*self._leading(top), strict=True)]
        return self._made(ranked, len(top.index), self._held.repeated, self._held.excluded)

    def _leading(self, top: Top) -> tuple[I64, Floats]:
        """Hypotheses that must be scored exactly: the first two, and all that could be named."""
        if not len(top.index) or not top.counts[0]:
            return top.index[:0], top.totals[:0]
        log_p = self.profile.scheme.null().log_sf(np.floor(top.totals + 0.5) if self._whole() else top.totals, top.counts)
        # The bulk's error moves log p by far less than this.
        bar = self._log_bar + 1e-3
        count = max(2, int((log_p <= bar).sum()))
        return top.index[:count], top.totals[:count]

    def _whole(self) -> bool:
        return self._kernel is not None and self._kernel.error(1) == 0.0

    def _found(self, batch: Batch, place: int, top: Top) -> Found:
        ranked = []
        for index, total in zip(*self._leading(top), strict=True):
            candidate = self.candidate(int(index))
            kept = batch.select(candidate)
            kept = kept[batch.items.document[kept] == place]
            ranked.append(self._scored(int(index), batch.items.windows[kept], batch.items.tokens[kept], float(total)))
        eligible, excluded = int(batch.items.eligible[place]), int(batch.items.excluded[place])
        n = ranked[0].n if ranked else 0
        return self._made(ranked, len(top.index), eligible - n, excluded)

    def _made(self, ranked: list[Ranked], kept: int, repeated: int, excluded: int) -> Found:
        order = sorted(range(len(ranked)), key=lambda place: (ranked[place].log_p, place))
        best = tuple(ranked[place] for place in order)
        more = len(best) == kept < self.family.size and kept > 2
        return Found(best, more, best[0].n if best else 0, repeated, excluded, self.family.size)

    def _scored(self, index: int, windows: U32, tokens: I64, screened: float) -> Ranked:
        """The account's test by the scheme itself.

        Raises:
            RuntimeError: it contradicts the bulk: a bug, and no result.
        """
        candidate, null = self.candidate(index), self.profile.scheme.null()
        total = float(null.reduce(self.profile.scheme.score(windows, tokens, candidate.prf)).sum())
        error = self._kernel.error(len(tokens)) if self._kernel is not None else 1e-9 * (1 + len(tokens))
        if not abs(total - screened) <= error:
            raise RuntimeError(f"two ways to score an account disagree: {total!r} and {screened!r} over {len(tokens)} items")
        log_p = float(null.log_sf([total], [len(tokens)])[0])
        key = candidate.key
        return Ranked(key.tenant_name, key.epoch, key.id, key.commitment, candidate.committed, total, len(tokens), log_p)
