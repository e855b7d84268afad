"""An account that wrote a small part of a corpus: evidence fragment by fragment, never a plain sum.

Where a share f of a corpus carries key k, a sum over all of it needs about ``1 / f^2`` times the tokens. Here each fragment i (a
record, or a piece of one) has an e-value ``E_ik``, the product of its items' likelihood ratios under a fixed expert, and

    T_k = sum_i log(1 - f + f E_ik)

is the log of an e-value for every f: given the text the fragments' items are distinct, so under the null hypothesis the factors
are independent with mean at most 1. The e-value of an account is the average of ``exp T_k`` over a fixed grid of f and over the
experts, one of which takes for ``E_ik`` the average of the others, for corpora of many kinds of text; and ``p = min(1, 1 / e)``
by Markov's inequality. Over accounts, whose keys are independent, Sidak's correction holds as for any p-values.

An item that occurs in several fragments counts in the first. All accounts are screened by tables that never understate an account
(:mod:`wmcheck.watermark.tracing.evalues`); every account that could be named, and the leading ones in any case, are then computed
exactly.

References:
    V. Vovk and R. Wang, "E-values: calibration, combination and applications", Annals of Statistics 49, 2021; D. Donoho and
    J. Jin, "Higher criticism for detecting sparse heterogeneous mixtures", Annals of Statistics 32, 2004 (why sums fail).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wmcheck.watermark.candidate import Batch
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.detect import check_ids
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.tracing.base import Search
from wmcheck.watermark.tracing.evalues import average_log, evidence_kernel, share_of
from wmcheck.watermark.tracing.work import TOP, Progress, Top, Work, cut_fragments, exact_mixtures
from wmcheck.watermark.windows import Document

DEFAULT_LENGTH = 100
# Accounts that are always weighed exactly.
LEADING = 8
# A float64 rounding an item, with much to spare.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Weighed:
    """One account's evidence in a corpus, before correction.

    Attributes:
        account: name; ``epoch`` of its key; ``key_id``, ``key_commitment`` and ``committed`` as in a record's result.
        log_e: natural log of the e-value; ``log_p`` of the p-value that follows from it.
        share: the share of the grid that fits best: a rough figure, not an estimate with an error.
    """

    account: str
    epoch: str
    key_id: str
    key_commitment: str
    committed: str | None
    log_e: float
    log_p: float
    share: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """The leading accounts of a corpus, best first.

    Attributes:
        ranked: the best and the second best, and all others that could be named.
        more: there may be accounts beyond those of ``ranked`` that could be named.
        fragments: how many there are, of ``n_scored`` items; ``n_repeated`` and ``n_excluded`` as for a record.
        keys: accounts times epochs searched.
    """

    ranked: tuple[Weighed, ...]
    more: bool
    fragments: int
    n_scored: int
    n_repeated: int
    n_excluded: int
    keys: int


class FragmentTracer(Search):
    """A search for accounts that wrote some fragments of a corpus.

    Args:
        profile: the watermark contract.
        root: the root key.
        names: of the accounts.
        epochs: of their keys.
        length: most scored items of a fragment; longer records are cut.
        alpha: error rate at which accounts will be named.
        workers: processes; more than one need ``source``.
        source: where workers load the root key from.

    Raises:
        ConfigError: no e-values are known for the scheme's scores, or see :class:`Search`.
    """

    def __init__(
        self, profile: Profile, root: SecretKey, names: Sequence[str], epochs: Sequence[str] = (), *,
        length: int = DEFAULT_LENGTH, alpha: float = 1e-6, workers: int = 1, source: str | None = None,
    ) -> None:
        super().__init__(profile, root, names, epochs, alpha=alpha, workers=workers, source=source)
        bets = experts(profile.scheme.null())
        if not bets:
            raise ConfigError(
                f"no e-values are known for scores of '{profile.scheme_name}'", where="--fragments",
                hint="without --fragments each record is traced by its sum",
            )
        if length < 1:
            raise ConfigError("impossible fragment length", where="--fragment-tokens", got=str(length), expected="1 or more")
        self._screen, self._length = evidence_kernel(profile.scheme, bets), length
        self._seen = SeenSet()
        self._held: list[Work] = []
        self._documents: list[Document] = []
        self._excluded = self._eligible = 0

    def add(self, documents: Sequence[Document], progress: Progress | None = None) -> None:
        """Take in documents.

        Args:
            documents: token ids.
            progress: called with the number of accounts done since the last call.

        Raises:
            InputError: a document with ids that are no token ids.
        """
        for document in documents:
            check_ids(document)
        batch = Batch(documents, self.profile)
        self._excluded += int(batch.items.excluded.sum())
        self._eligible += int(batch.items.eligible.sum())
        if self._screen is None:
            # Which items are new depends on the key; they are found key by key, at the end.
            self._documents += documents
            return
        work = cut_fragments(batch, self._first, self._seen, self._length)
        if len(work.tokens):
            self._pool.each("weigh", work, progress=progress)
        self._held.append(work)

    def finish(self, progress: Progress | None = None) -> Mixture:
        """The result over all documents; call it once."""
        if self._screen is None:
            self._pool.each("weigh_each", self._documents, self._length, progress=progress)
        top = Top()
        for part in self._pool.each("mixture"):
            top.merge(part)
        shared = _joined(self._held) if self._held else None
        n = len(shared.tokens) if shared else 0
        slack = self._screen.error(n) if self._screen is not None else 0.0
        # The screen is an upper bound, up to rounding.
        count = max(min(LEADING, len(top.index)), int((top.values >= -self._log_bar - ROUNDING * (n + 1)).sum()))
        pairs = [self._weighed(int(index), float(value), shared, slack)
                 for index, value in zip(top.index[:count], top.values[:count], strict=True)]
        pairs.sort(key=lambda pair: -pair[0].log_e)
        work = pairs[0][1]
        n, more = len(work.tokens), count == TOP < self.family.size
        ranked = tuple(pair[0] for pair in pairs) if n else ()
        return Mixture(ranked, more, len(work.starts), n, self._eligible - n, self._excluded, self.family.size)

    def _weighed(self, index: int, screened: float, shared: Work | None, slack: float) -> tuple[Weighed, Work]:
        """The account's evidence, exactly, and the fragments it is from.

        Raises:
            RuntimeError: it contradicts the screen: a bug, and no result.
        """
        candidate = self.candidate(index)
        work = shared
        if work is None:
            work = cut_fragments(Batch(self._documents, self.profile), candidate, SeenSet(), self._length)
        by_row = exact_mixtures(candidate, work)
        log_e = float(average_log(by_row))
        rounding = ROUNDING * (len(work.tokens) + 1)
        if not -rounding <= screened - log_e <= slack + rounding:
            raise RuntimeError(f"two ways to weigh an account disagree: {log_e!r} and {screened!r}")
        key = candidate.key
        return Weighed(
            key.tenant_name, key.epoch, key.id, key.commitment, candidate.committed, log_e, min(0.0, -log_e),
            share_of(by_row),
        ), work


def _joined(parts: Sequence[Work]) -> Work:
    """The fragments of several batches as one."""
    sizes = np.cumsum([0, *(len(part.tokens) for part in parts)])
    windows, tokens = np.concatenate([part.windows for part in parts]), np.concatenate([part.tokens for part in parts])
    starts = np.concatenate([part.starts + size for part, size in zip(parts, sizes, strict=False)])
    numbers = np.arange(len(starts))
    counts = np.diff(starts, append=len(tokens))
    return Work(windows, tokens, starts, np.ones(len(starts), bool), numbers, numbers, counts)
