"""Detection: documents of token ids -> windows -> freshness -> scores -> statistic -> results.

:class:`Detector` runs one pipeline for every candidate (profile and key) and keeps, beside each document's own test, a
corpus test over the items that are distinct across all documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Batch, Candidate, is_whole
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.multiplicity import holm_corrected
from wmcheck.watermark.core.results import CHOICE, DISTINCT, INDEPENDENCE, LOG10, PRF_ASSUMPTION, PUBLISHED, Detection
from wmcheck.watermark.core.statistics import STATISTICS, Evidence, ExactSum, Sample, Statistic
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64, MAX_TOKEN_ID, U32
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.windows import Document

CORPUS = "corpus"


@dataclass(slots=True)
class _Pool:
    """The corpus test of one candidate: running total over globally distinct items, or the items where a sum does not do."""

    seen: SeenSet
    held: list[tuple[U32, I64]] = field(default_factory=list)
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
                if scores is not None:
                    pool.total += float(scores[fresh].sum())
                elif not is_whole(candidate.profile.scheme):
                    chosen = batch.chosen(candidate)
                    pool.held.append((chosen.windows[fresh], chosen.tokens[fresh]))
                pool.n += int(fresh.sum())
                pool.n_repeated += int(tested.repeated.sum() + len(fresh) - fresh.sum())
                pool.n_excluded += int(tested.excluded.sum())
        return [tested for _, tested, _ in found]

    def _test_one(self, candidate: Candidate, batch: Batch) -> tuple[Tested, NDArray[np.float64] | None]:
        """The evidence, and the scores where their sum is all that matters."""
        null, items = candidate.profile.scheme.null(), batch.items
        evaluate = getattr(candidate.profile.scheme, "evaluate", None)
        if evaluate is not None:
            evidence: Evidence = evaluate(batch.chosen(candidate), candidate.prf)
            return Tested(evidence, items.eligible - evidence.n, items.excluded), None
        scores, owner = batch.scores(candidate)
        terms = batch.terms(candidate) if self.statistic.needs_model else None
        evidence = self.statistic.evaluate(Sample(scores, owner, items.documents, null, terms))
        return Tested(evidence, *batch.left_out(candidate, evidence.n)), scores

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
            log_e, decoded = one.evidence.log_e, one.evidence.decoded
            if decoded is not None and n:
                test = replace(test, decoded=decoded[index])
            found.append(test if log_e is None else replace(test, log10_e=float(log_e[index]) / LOG10))
        return found

    def corpus(self, where: str = "", tokens: str = "recorded") -> list[Detection]:
        """The corpus test so far, one result a candidate: the exact sum over each distinct item of all documents."""
        found = []
        for candidate, pool in zip(self.candidates, self._pools, strict=True):
            evidence = _pooled(candidate, pool)
            test = self._detection(
                candidate, CORPUS, where, tokens, ExactSum(), float(evidence.totals[0]), int(evidence.n[0]),
                float(evidence.log_p[0]), pool.n_repeated, pool.n_excluded,
            )
            found.append(test if evidence.decoded is None else replace(test, decoded=evidence.decoded[0]))
        return found

    def _detection(
        self, candidate: Candidate, document: str, where: str, tokens: str, statistic: Statistic, total: float, n: int,
        log_p: float, repeated: int, excluded: int,
    ) -> Detection:
        profile, key = candidate.profile, candidate.key
        if hasattr(profile.scheme, "evaluate"):
            statistic = ExactSum()
        return Detection(
            document=document, where=where, profile=profile.name, scheme=profile.scheme_name, statistic=statistic.name,
            total=total, n_scored=n, n_repeated=repeated, n_excluded=excluded, log10_p=log_p / LOG10,
            log10_p_expected=self._expected(profile, n), null=statistic.describe(profile.scheme.null(), n), key_id=key.id,
            key_commitment=key.commitment, key_committed=candidate.committed, tenant=key.tenant_name, epoch=key.epoch,
            contract=profile.contract, differs=getattr(profile.scheme, "differs", "") or None, tokens=tokens,
            assumptions=_assumptions(candidate),
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


def _pooled(candidate: Candidate, pool: _Pool) -> Evidence:
    """The evidence of the items of all documents together; none where a contract has no pooled test."""
    scheme = candidate.profile.scheme
    evaluate, nothing = getattr(scheme, "evaluate", None), np.zeros(1)
    if evaluate is None:
        totals, n = np.array([pool.total]), np.array([pool.n])
        return Evidence(totals, n, scheme.null().log_sf(totals, n))
    if not pool.held:
        return Evidence(nothing, nothing.astype(np.int64), nothing)
    windows, tokens = (np.concatenate(parts) for parts in zip(*pool.held, strict=True))
    place = np.arange(len(tokens))
    held = Chosen(windows, tokens, place, np.zeros(len(tokens), np.int64), 1, np.zeros(1, np.int64))
    found: Evidence = evaluate(held, candidate.prf)
    return found


def _assumptions(candidate: Candidate) -> tuple[str, ...]:
    published = (PUBLISHED,) if getattr(candidate.key, "published", False) else ()
    ideal = getattr(candidate.profile.scheme, "ideal", PRF_ASSUMPTION)
    return (INDEPENDENCE, CHOICE, ideal, DISTINCT, *published)


def detect_ids(
    ids: Sequence[int] | I64, profile: Profile, key: SecretKey | TenantKey | PeerKey, *, prompt_length: int = 0,
    statistic: str = "sum",
) -> Detection:
    """Test one text, given as token ids, for the watermark of ``profile`` under ``key``.

    Args:
        ids: token ids of prompt and output, or of the output alone.
        profile: the watermark contract.
        key: a tenant's key, or a root key (its tenant ``""`` is tested), or a peer's own key.
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
    return holm_corrected(results, family=family)


def scan_keys(document: Document, profile: Profile, keys: Sequence[TenantKey]) -> Evidence:
    """Test one document under many keys of one profile; ``Evidence`` has one entry a key, uncorrected."""
    check_ids(document)
    check_sums(profile, "scan_keys")
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
    if hasattr(profile.scheme, "evaluate") and statistic.name not in ("sum", "robust"):
        reason = "it judges a text as a whole"
    if not reason and getattr(statistic, "needs_ratios", False) and not hasattr(profile.scheme, "aided"):
        reason = "the scheme has no test that reads a model's predictions"
    if reason:
        raise ConfigError(
            f"the statistic does not suit scheme '{profile.scheme_name}': {reason}", where="--statistic", got=statistic.name,
            hint="--statistic sum suits every scheme",
        )


def check_sums(profile: Profile, where: str) -> None:
    """Refuse a contract that judges a text as a whole where sums of scores are needed.

    Raises:
        ConfigError: it does.
    """
    if hasattr(profile.scheme, "evaluate"):
        raise ConfigError(
            f"'{profile.scheme_name}' judges a text as a whole, and this needs a score for each token", where=where,
            hint="wmcheck check tests each text under it",
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
