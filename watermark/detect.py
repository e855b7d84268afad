"""Detection: documents of token ids -> windows -> freshness -> scores -> statistic -> results.

:class:`Detector` runs one pipeline for every candidate (profile and key) and keeps, beside each document's own test, a
corpus test over the items that are distinct across all documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.multiplicity import holm
from wmcheck.watermark.core.results import LOG10, Detection
from wmcheck.watermark.core.statistics import STATISTICS, Evidence, ExactSum, ModelTerms, Sample, Statistic
from wmcheck.watermark.keys import SecretKey, TenantKey, as_tenant
from wmcheck.watermark.law import Law
from wmcheck.watermark.prf import I64, MAX_TOKEN_ID, PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import left_codes
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.windows import Document, Items, first_occurrences, in_document, make_items

CORPUS = "corpus"


@dataclass(frozen=True)
class Candidate:
    """One hypothesis: this profile under this tenant's key.

    Attributes:
        profile: the watermark contract.
        key: the tenant's key.
        committed: see :meth:`Profile.commits_to`.
    """

    profile: Profile
    key: TenantKey
    committed: str | None = None

    @classmethod
    def of(cls, profile: Profile, key: SecretKey | TenantKey, tenant: str = "", epoch: str = "") -> Candidate:
        """The candidate for a tenant of ``key``."""
        tenant_key = as_tenant(key, tenant, epoch)
        return cls(profile, tenant_key, profile.commits_to(tenant_key, key))

    @cached_property
    def prf(self) -> PrfKey:
        return PrfKey.derive(self.key, self.profile.scheme.label())

    @property
    def selection(self) -> tuple[object, ...]:
        """What decides the choice of scored items, apart from the key."""
        scheme = self.profile.scheme
        return (scheme.width, scheme.window_rule, scheme.key_free_selection, self.profile.special_ids)


@dataclass(slots=True)
class _Pool:
    """The corpus test of one candidate: running total over globally distinct items."""

    seen: SeenSet
    total: float = 0.0
    n: int = 0
    n_repeated: int = 0
    n_excluded: int = 0


@dataclass(frozen=True, slots=True)
class Tested:
    """Evidence of one candidate in each document of a batch; ``repeated`` and ``excluded`` are i64[documents]."""

    evidence: Evidence
    repeated: I64
    excluded: I64


class Detector:
    """Exact tests of documents under candidates.

    Args:
        candidates: the hypotheses; every one multiplies the family that :func:`correct` accounts for.
        statistic: registry name of the statistic.
        corpus: keep the corpus test.

    Raises:
        ConfigError: the statistic does not suit the scheme of a candidate.
    """

    def __init__(self, candidates: Sequence[Candidate], *, statistic: str = "sum", corpus: bool = True) -> None:
        self.candidates = tuple(candidates)
        self.statistic: Statistic = STATISTICS[statistic]()
        for candidate in self.candidates:
            check_fit(self.statistic, candidate.profile)
        shared: dict[tuple[object, ...], SeenSet] = {}
        self._pools: list[_Pool] = []
        self._keep_corpus = corpus
        self._plans: dict[tuple[int, int], float] = {}
        for candidate in self.candidates:
            # Without a key in the selection, candidates with the same windows see the same items as new.
            group = candidate.selection if candidate.profile.scheme.key_free_selection else (id(candidate),)
            self._pools.append(_Pool(shared.setdefault(group, SeenSet())))

    def test(self, documents: Sequence[Document]) -> list[Tested]:
        """Test a batch of documents under every candidate and add it to the corpus.

        Raises:
            InputError: a document with ids that are no token ids.
        """
        for document in documents:
            check_ids(document)
        batches: dict[tuple[object, ...], Batch] = {}
        found = []
        for candidate in self.candidates:
            batch = batches.get(candidate.selection)
            if batch is None:
                batch = batches[candidate.selection] = Batch(documents, candidate.profile)
            found.append((batch, *self._test_one(candidate, batch)))
        if self._keep_corpus:
            # Only now, so that a batch which fails half-way leaves no trace in the corpus.
            for candidate, pool, (batch, tested, scores) in zip(self.candidates, self._pools, found, strict=True):
                fresh = batch.new_to(pool.seen, candidate)
                pool.total += float(scores[fresh].sum())
                pool.n += int(fresh.sum())
                pool.n_repeated += int(tested.repeated.sum() + len(fresh) - fresh.sum())
                pool.n_excluded += int(tested.excluded.sum())
        return [tested for _, tested, _ in found]

    def _test_one(self, candidate: Candidate, batch: Batch) -> tuple[Tested, NDArray[np.float64]]:
        null, items = candidate.profile.scheme.null(), batch.items
        scores, owner = batch.scores(candidate)
        terms = batch.terms(candidate) if self.statistic.needs_model else None
        evidence = self.statistic.evaluate(Sample(scores, owner, items.documents, null, terms))
        return Tested(evidence, items.eligible - evidence.n, items.excluded), scores

    def detections(
        self, tested: Sequence[Tested], index: int, *, document: str = "", where: str = "", tokens: str = "recorded"
    ) -> list[Detection]:
        """Results of document ``index`` of a tested batch, one a candidate."""
        found = []
        for candidate, one in zip(self.candidates, tested, strict=True):
            total, n = float(one.evidence.totals[index]), int(one.evidence.n[index])
            log_p = float(one.evidence.log_p[index])
            test = self._detection(
                candidate, document, where, tokens, self.statistic, total, n, log_p, int(one.repeated[index]),
                int(one.excluded[index]),
            )
            log_e = one.evidence.log_e
            found.append(test if log_e is None else replace(test, log10_e=float(log_e[index]) / LOG10))
        return found

    def corpus(self, where: str = "", tokens: str = "recorded") -> list[Detection]:
        """The corpus test so far, one result a candidate: the exact sum over each distinct item of all documents."""
        found = []
        for candidate, pool in zip(self.candidates, self._pools, strict=True):
            log_p = candidate.profile.scheme.null().log_sf(np.array([pool.total]), np.array([pool.n]))
            found.append(
                self._detection(
                    candidate, CORPUS, where, tokens, ExactSum(), pool.total, pool.n, float(log_p[0]), pool.n_repeated,
                    pool.n_excluded,
                )
            )
        return found

    def _detection(
        self, candidate: Candidate, document: str, where: str, tokens: str, statistic: Statistic, total: float, n: int,
        log_p: float, repeated: int, excluded: int,
    ) -> Detection:
        profile, key = candidate.profile, candidate.key
        return Detection(
            document=document, where=where, profile=profile.name, scheme=profile.scheme_name, statistic=statistic.name,
            total=total, n_scored=n, n_repeated=repeated, n_excluded=excluded, log10_p=log_p / LOG10,
            log10_p_expected=self._expected(profile, n), null=statistic.describe(profile.scheme.null(), n), key_id=key.id,
            key_commitment=key.commitment, key_committed=candidate.committed, tenant=key.tenant_name, epoch=key.epoch,
            tokens=tokens,
        )

    def _expected(self, profile: Profile, n: int) -> float:
        """log10 p of a sum that equals its planned mean in watermarked text."""
        if n == 0:
            return 0.0
        place = (id(profile), n)
        if place not in self._plans:
            total = math.floor(n * profile.planned_score)
            self._plans[place] = float(profile.scheme.null().log_sf(np.array([float(total)]), np.array([n]))[0]) / LOG10
        return self._plans[place]


@dataclass(slots=True)
class Batch:
    """The items of a batch under one selection rule; the key-free part is done once for all keys."""

    documents: Sequence[Document]
    profile: Profile
    items: Items = field(init=False)
    _kept: I64 | None = None
    _codes: NDArray[np.uint64] | None = None
    _fresh: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    _law: Law | None = None

    def __post_init__(self) -> None:
        scheme = self.profile.scheme
        special = np.asarray(self.profile.special_ids, np.int64)
        self.items = make_items(self.documents, scheme.width, special, window_rule=scheme.window_rule)

    def _code(self, candidate: Candidate) -> NDArray[np.uint64]:
        scheme = candidate.profile.scheme
        if not scheme.key_free_selection:
            return scheme.codes(self.items.windows, self.items.tokens, candidate.prf)
        if self._codes is None:
            # The same codes whatever the scheme: candidates of several schemes share them and the set of seen items.
            self._codes = left_codes(self.items.windows, self.items.tokens)
        return self._codes

    def select(self, candidate: Candidate) -> I64:
        """Indices of the items to score: the first of each (document, effective seed, token), unless the prompt has it."""
        if not candidate.profile.scheme.key_free_selection:
            return self._first(self._code(candidate))
        if self._kept is None:
            # Distinct windows are distinct pairs already.
            done = candidate.profile.scheme.window_rule and candidate.profile.scheme.width > 0
            self._kept = np.flatnonzero(self.items.scored) if done else self._first(self._code(candidate))
        return self._kept

    def _first(self, codes: NDArray[np.uint64]) -> I64:
        first = first_occurrences(in_document(codes, self.items.document))
        return first[self.items.scored[first]]

    def scores(self, candidate: Candidate) -> tuple[NDArray[np.float64], I64]:
        """Reduced scores of the selected items and the documents they belong to."""
        kept, items, scheme = self.select(candidate), self.items, candidate.profile.scheme
        if len(kept) == len(items.tokens):
            return scheme.null().reduce(scheme.score(items.windows, items.tokens, candidate.prf)), items.document
        raw = scheme.score(items.windows[kept], items.tokens[kept], candidate.prf)
        return scheme.null().reduce(raw), items.document[kept]

    def terms(self, candidate: Candidate) -> ModelTerms | None:
        """What the model's predictions add to the selected items; None without predictions or where the scheme reads none."""
        scheme = candidate.profile.scheme
        aided = getattr(scheme, "aided", None)
        if aided is None or any(document.law is None for document in self.documents):
            return None
        if self._law is None:
            starts = np.cumsum([0] + [len(document.ids) for document in self.documents])[:-1]
            whole = Law.join([document.law for document in self.documents if document.law is not None])
            self._law = whole.take(starts[self.items.document] + self.items.place)
        kept = self.select(candidate)
        law = self._law.take(kept)
        found = aided(self.items.windows[kept], self.items.tokens[kept], law, candidate.prf)
        return ModelTerms(
            found.log_e, found.experts, found.pivot, law.entropy, 1.0 - law.collision, found.shares, found.graded
        )

    def new_to(self, seen: SeenSet, candidate: Candidate) -> NDArray[np.bool_]:
        """Which selected items no document before them had, asked once for all candidates that share ``seen``."""
        if id(seen) not in self._fresh:
            self._fresh[id(seen)] = seen.add(self._code(candidate)[self.select(candidate)])
        return self._fresh[id(seen)]


def detect_ids(
    ids: Sequence[int] | I64, profile: Profile, key: SecretKey | TenantKey, *, prompt_length: int = 0,
    statistic: str = "sum",
) -> Detection:
    """Test one text, given as token ids, for the watermark of ``profile`` under ``key``.

    Args:
        ids: token ids of prompt and output, or of the output alone.
        profile: the watermark contract.
        key: a tenant's key, or a root key (its tenant ``""`` is tested).
        prompt_length: how many of ``ids`` are the prompt; they are context and are never scored.
        statistic: registry name.

    Returns:
        The result; ``.verdict(alpha)`` answers at a given error rate. Correct several results with :func:`correct`.
    """
    detector = Detector([Candidate.of(profile, key)], statistic=statistic, corpus=False)
    tested = detector.test([Document(as_ids(ids), prompt_length)])
    return correct(detector.detections(tested, 0))[0]


def correct(results: Sequence[Detection], *, family: int | None = None) -> list[Detection]:
    """Holm's correction over all results; valid under any dependence between them.

    Args:
        results: the tests of one run: documents, corpus, keys and schemes.
        family: size of the family if larger than ``results``.
    """
    size = max(len(results), family or 0)
    if not results:
        return []
    adjusted = holm(np.array([result.log10_p for result in results]) * LOG10, family=size) / LOG10
    label = f"Holm over {size} test{'s' if size != 1 else ''}"
    return [result.adjusted(float(value), label, size) for result, value in zip(results, adjusted, strict=True)]


def scan_keys(document: Document, profile: Profile, keys: Sequence[TenantKey]) -> Evidence:
    """Test one document under many keys of one profile; ``Evidence`` has one entry a key, uncorrected."""
    check_ids(document)
    null = profile.scheme.null()
    totals, counts = np.zeros(len(keys)), np.zeros(len(keys), np.int64)
    batch = Batch([document], profile)
    for place, key in enumerate(keys):
        scores, _ = batch.scores(Candidate(profile, key))
        totals[place], counts[place] = scores.sum(), len(scores)
    return Evidence(totals, counts, null.log_sf(totals, counts))


def as_ids(ids: Sequence[int] | I64) -> I64:
    """Token ids as a flat int64 array.

    Raises:
        InputError: not a flat list of integers.
    """
    found = np.asarray(ids)
    if found.size == 0 and found.ndim == 1:
        return np.zeros(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(
            "not a list of token ids", where="tokens", got=f"{found.dtype} array of shape {found.shape}",
            expected="a flat list of integers", hint="pass one row of a batch: ids[0]" if found.ndim == 2 else "",
        )
    if found.dtype == np.uint64 and int(found.max()) > MAX_TOKEN_ID:
        raise InputError("token id out of range", where="tokens", got=str(int(found.max())), expected=f"0 to {MAX_TOKEN_ID}")
    return found.astype(np.int64)


def check_fit(statistic: Statistic, profile: Profile) -> None:
    """Refuse a statistic that does not suit the scheme of a profile.

    Raises:
        ConfigError: with the reason.
    """
    reason = statistic.unfit(profile.scheme.null())
    if not reason and statistic.needs_model and not hasattr(profile.scheme, "aided"):
        reason = "the scheme has no test that reads a model's predictions"
    if reason:
        raise ConfigError(
            f"the statistic does not suit scheme '{profile.scheme_name}': {reason}", where="--statistic", got=statistic.name,
            hint="--statistic sum suits every scheme",
        )


def check_ids(document: Document) -> None:
    """Refuse a document whose ids, prompt length or predictions cannot be those of a text.

    Raises:
        InputError: what is wrong.
    """
    ids = document.ids
    if not isinstance(document.prompt_length, int) or ids.ndim != 1 or ids.dtype != np.int64:
        raise InputError(
            "not a document of token ids", where="tokens", got=f"{ids.dtype} array of shape {ids.shape}",
            expected="a flat int64 array and a whole prompt length", hint="as_ids(ids) makes one of a list",
        )
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) > MAX_TOKEN_ID):
        bad = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise InputError("token id out of range", where="tokens", got=str(bad), expected=f"0 to {MAX_TOKEN_ID}")
    if not 0 <= document.prompt_length <= len(ids):
        raise InputError(
            "impossible prompt length", where="tokens", got=str(document.prompt_length), expected=f"0 to {len(ids)}"
        )
    if document.law is not None and len(document.law) != len(ids):
        raise InputError(
            "predictions do not match the document", where="law", got=f"{len(document.law)} places", expected=f"{len(ids)} places"
        )
