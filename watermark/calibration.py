"""Calibration on ordinary text: observed against nominal error, key by key, and where documents share their luck.

Every document of a corpus is tested under the own keys and under decoys (see :mod:`.decoys`). If the text is ordinary, each of
these tests is a true null hypothesis, and the share of those with p at or below a level should be no more than the level.

Three things are told apart:

- **pooled error**: over documents and keys. Wrong only if the tests themselves are.
- **spread over keys**: right on average, a single fixed key may still be off, if documents share items (see
  :mod:`.templates`). The counts of different keys are independent given the text, so that this is visible and is priced
  into the intervals.
- **key certificate**: is the own key further off than decoys on the same text? Ranks among exchangeable keys, hence exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.core.multiplicity import holm
from wmcheck.watermark.core.results import Detection
from wmcheck.watermark.core.statistics import Floats
from wmcheck.watermark.decoys import KeyedSample, KeyedScores, candidates_of, fitting_statistic
from wmcheck.watermark.detect import Detector, correct
from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.templates import Blocklist, Template
from wmcheck.watermark.windows import Document

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# A sound key fails its certificate with at most this probability, all keys and questions of a run taken together.
CERTIFICATE = 0.01
# The chance that sound tests are called wrong anywhere among the levels of one table.
MISJUDGED = 0.001
# Fewer documents than this say nothing about a share of documents.
FEWEST_DOCUMENTS = 20


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Observed error at one level.

    Attributes:
        level: the nominal error.
        hits: tests with p at or below it, of ``tests``.
        interval: 95%, Clopper-Pearson, as of independent tests.
        design_effect: variance of the hits of a key over that of independent tests, at least 1; 1 for a single key.
        interval_keys: 95%, Clopper-Pearson on counts divided by the design effect.
        verdict: ``above`` or ``below`` if such an interval that is wide enough for all levels of a table together
            (``MISJUDGED``) misses the level; else ``agrees``. Below is safe: discrete scores and bounds lie there.
    """

    level: float
    hits: int
    tests: int
    interval: tuple[float, float]
    design_effect: float
    interval_keys: tuple[float, float]
    verdict: str

    @property
    def observed(self) -> float:
        """hits / tests; NaN without tests."""
        return self.hits / self.tests if self.tests else math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean z of the documents, over keys.

    Attributes:
        mean: mean over keys; 0 in ordinary text.
        sd: standard deviation over keys.
        independent: what it would be if documents shared nothing: 1 / sqrt(documents).
        worst: (level, largest error of a single key at it), at the smallest level at which 10 documents are expected.
    """

    mean: float
    sd: float
    independent: float
    worst: tuple[float, float]

    @property
    def ratio(self) -> float:
        """sd over that of independent documents."""
        return self.sd / self.independent


@dataclass(frozen=True, slots=True)
class Group:
    """All documents, or those of one template.

    Attributes:
        documents: with at least one scored item.
        rates: pooled error over documents and keys, one a level.
        spread: over keys.
    """

    documents: int
    rates: tuple[ErrorRate, ...]
    spread: Spread


class Certificate(StrEnum):
    """INSUFFICIENT: so few decoys could not have failed any key."""

    PASS = "PASS"
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"


@dataclass(frozen=True, slots=True)
class KeyReport:
    """One own key against the decoys.

    Attributes:
        candidate: profile and key.
        mean_z: mean z of the documents.
        rates: the error of this key alone; its documents may depend on each other.
        log_p: natural logs of the rank p-values: of ``|mean z|``, then of the hits at each level of ``levels``.
        levels: the levels at which at least one document is expected to err, chosen without the key.
        log_p_adjusted: the least of them after Holm over all keys and questions of the run.
        family: how many those are.
        certificate: the answer at ``CERTIFICATE``.
        corpus: the exact test over the distinct items of all documents.
        detected: indices of documents that carry the watermark after Holm over documents, keys and corpora.
        ordinary: neither a document nor the corpus is detected under this key.
    """

    candidate: Candidate
    mean_z: float
    rates: tuple[ErrorRate, ...]
    log_p: Floats
    levels: tuple[float, ...]
    log_p_adjusted: float
    family: int
    certificate: Certificate
    corpus: Detection
    detected: I64
    ordinary: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result of one profile.

    Attributes:
        profile: the watermark contract.
        statistic: registry name.
        documents: how many were tested, with ``items`` scored items under the first key.
        decoys: how many keys beside the own ones.
        whole: all documents.
        templates: those of each template, in the order given; None for one without a scored document.
        blocked: the same three without the contexts of the blocklist; None without one.
        keys: one an own key.
    """

    profile: Profile
    statistic: str
    documents: int
    items: int
    decoys: int
    whole: Group
    templates: tuple[Group | None, ...]
    blocked: Group | None
    blocked_templates: tuple[Group | None, ...]
    keys: tuple[KeyReport, ...]


@dataclass(slots=True)
class _Sums:
    """Sums over the documents of each group, under each key."""

    hits: NDArray[np.int64]  # [keys, groups, levels]
    z: Floats  # [keys, groups]
    tests: NDArray[np.int64]  # [keys, groups]
    items: NDArray[np.int64]  # [keys]

    @classmethod
    def zero(cls, keys: int, groups: int, levels: int) -> _Sums:
        return cls(
            np.zeros((keys, groups, levels), np.int64), np.zeros((keys, groups)), np.zeros((keys, groups), np.int64),
            np.zeros(keys, np.int64),
        )

    def add(self, other: _Sums) -> None:
        self.hits += other.hits
        self.z += other.z
        self.tests += other.tests
        self.items += other.items


class Calibrator:
    """Tests the documents of a corpus under own and decoy keys, batch by batch.

    Args:
        own: candidates of one profile, fixed without looking at the corpus.
        decoys: see :func:`.decoys.decoy_keys`.
        statistic: registry name.
        levels: nominal errors.
        templates: groups of documents that are reported beside all of them; indices count over all batches.
        blocklist: contexts; everything is then also computed without them.

    Raises:
        ConfigError: no own key, several profiles, no decoys, or a statistic that does not suit.
    """

    def __init__(
        self, own: Sequence[Candidate], decoys: Sequence[TenantKey], *, statistic: str = "sum",
        levels: Sequence[float] = LEVELS, templates: Sequence[Template] = (), blocklist: Blocklist | None = None,
    ) -> None:
        if not own or any(one.profile is not own[0].profile for one in own):
            raise ConfigError("calibration takes the keys of one profile", where="--key", got=f"{len(own)} keys")
        if len(decoys) < 2:
            raise ConfigError("too few decoy keys", where="--decoys", got=str(len(decoys)), expected="2 or more")
        self.own, self.profile = tuple(own), own[0].profile
        self._statistic = fitting_statistic(statistic, self.profile)
        if self._statistic.needs_model:
            raise ConfigError(
                "calibration reads the key alone", where="--statistic", got=statistic,
                expected="a statistic without a model's predictions",
            )
        self.levels = tuple(sorted(levels, reverse=True))
        self._log_levels = np.log(self.levels)
        self._candidates = [*self.own, *candidates_of(self.profile, decoys)]
        self._templates, self._blocklist = tuple(templates), blocklist
        shape = len(self._candidates), 1 + len(self._templates), len(self.levels)
        self._plain = _Sums.zero(*shape)
        self._blocked = None if blocklist is None else _Sums.zero(*shape)
        self._detector = Detector(self.own, statistic=statistic)
        self._detections: list[list[Detection]] = []
        self.documents = 0

    @property
    def keys(self) -> int:
        """Own and decoy keys."""
        return len(self._candidates)

    def add(self, documents: Sequence[Document], *, progress: Callable[[int], None] = lambda done: None) -> None:
        """Test a batch; an exception in the middle leaves no trace of it.

        Args:
            documents: token ids.
            progress: called with the number of keys done, again and again.

        Raises:
            InputError: a document with ids that are no token ids.
        """
        member = np.zeros((len(documents), 1 + len(self._templates)), np.int64)
        member[:, 0] = 1
        for place, template in enumerate(self._templates, 1):
            inside = template.documents - self.documents
            member[inside[(inside >= 0) & (inside < len(documents))], place] = 1
        scored = KeyedScores(documents, self.profile)
        drop = None if self._blocklist is None else self._blocklist.blocked(scored.items.windows)
        shape = self._plain.hits.shape
        plain, blocked, start = _Sums.zero(*shape), _Sums.zero(*shape), 0
        for part in scored.samples(self._candidates):
            rows = slice(start, start + part.keys)
            self._count(plain, rows, part, member, None)
            if drop is not None:
                self._count(blocked, rows, part, member, drop)
            start += part.keys
            progress(part.keys)
        tested = self._detector.test(documents)
        self._detections += [self._detector.detections(tested, place) for place in range(len(documents))]
        self._plain.add(plain)
        if self._blocked is not None:
            self._blocked.add(blocked)
        self.documents += len(documents)

    def _count(
        self, sums: _Sums, rows: slice, part: KeyedSample, member: I64, drop: NDArray[np.bool_] | None
    ) -> None:
        sample = part.sample if drop is None else part.without(drop)
        null, shape = sample.null, (part.keys, member.shape[0])
        n = sample.counts()
        total = sample.sums(sample.scores)
        z = np.where(n > 0, (total - n * null.mean()) / np.sqrt(np.maximum(n, 1) * null.variance()), 0.0).reshape(shape)
        log_p = np.where(n > 0, self._statistic.evaluate(sample).log_p, 0.0).reshape(shape)
        sums.z[rows] = z @ member
        sums.tests[rows] = (n > 0).reshape(shape).astype(np.int64) @ member
        sums.items[rows] = n.reshape(shape).sum(1)
        for place, level in enumerate(self._log_levels):
            sums.hits[rows, :, place] = (log_p <= level).astype(np.int64) @ member

    def result(self, alpha: float = 1e-5) -> Calibration:
        """What the documents so far say.

        Args:
            alpha: family-wise error at which a document or the corpus counts as watermarked, hence not ordinary.

        Raises:
            ConfigError: no document has a scored item.
        """
        if not self._plain.tests[:, 0].any():
            raise ConfigError("no document has a scored token", where=self.profile.name)
        groups = range(1, 1 + len(self._templates))
        blocked = self._blocked
        return Calibration(
            profile=self.profile, statistic=self._statistic.name, documents=self.documents,
            items=int(self._plain.items[0]), decoys=self.keys - len(self.own), whole=self._some_group(self._plain, 0),
            templates=tuple(self._group(self._plain, place) for place in groups),
            blocked=None if blocked is None else self._group(blocked, 0),
            blocked_templates=() if blocked is None else tuple(self._group(blocked, place) for place in groups),
            keys=self._key_reports(alpha),
        )

    def _group(self, sums: _Sums, place: int) -> Group | None:
        return self._some_group(sums, place) if sums.tests[:, place].all() else None

    def _some_group(self, sums: _Sums, place: int) -> Group:
        hits, tests = sums.hits[:, place], sums.tests[:, place]
        count = len(self.levels)
        rates = tuple(error_rate(level, hits[:, at], tests, questions=count) for at, level in enumerate(self.levels))
        mean_z = sums.z[:, place] / np.maximum(tests, 1)
        documents = round(float(tests.mean()))
        at = max((i for i, level in enumerate(self.levels) if level * documents >= 10), default=0)
        worst = self.levels[at], float((hits[:, at] / np.maximum(tests, 1)).max())
        spread = Spread(float(mean_z.mean()), float(mean_z.std(ddof=1)), 1.0 / math.sqrt(max(1, documents)), worst)
        return Group(documents, rates, spread)

    def _key_reports(self, alpha: float) -> tuple[KeyReport, ...]:
        own, sums = len(self.own), self._plain
        documents = self.documents
        asked = [at for at, level in enumerate(self.levels) if level * documents >= 1.0]
        mean_z = sums.z[:, 0] / np.maximum(sums.tests[:, 0], 1)
        # Larger is further off in every column.
        off = np.column_stack([np.abs(mean_z), *(sums.hits[:, 0, at].astype(np.float64) for at in asked)])
        log_p = np.array([rank_large(row, off[own:]) for row in off[:own]])
        adjusted = holm(log_p.reshape(-1)).reshape(log_p.shape).min(1)
        family = log_p.size
        possible = math.log(family) - math.log1p(self.keys - own) <= math.log(CERTIFICATE)
        corrected = correct([test for tests in self._detections for test in tests] + self._detector.corpus())
        found = []
        for place, candidate in enumerate(self.own):
            tests = corrected[place::own]
            if not possible:
                certificate = Certificate.INSUFFICIENT
            else:
                certificate = Certificate.FAIL if adjusted[place] <= math.log(CERTIFICATE) else Certificate.PASS
            detected = np.flatnonzero([test.verdict(alpha) == "DETECTED" for test in tests[:-1]])
            found.append(KeyReport(
                candidate=candidate, mean_z=float(mean_z[place]),
                rates=tuple(
                    error_rate(level, sums.hits[place : place + 1, 0, at], sums.tests[place : place + 1, 0],
                               questions=len(self.levels))
                    for at, level in enumerate(self.levels)
                ),
                log_p=log_p[place], levels=tuple(self.levels[at] for at in asked), log_p_adjusted=float(adjusted[place]),
                family=family, certificate=certificate, corpus=tests[-1],
                detected=detected, ordinary=not len(detected) and tests[-1].verdict(alpha) != "DETECTED",
            ))
        return tuple(found)


def rank_large(own: Floats, others: Floats) -> Floats:
    """f64[k] natural logs of rank p-values, column by column, where larger is more extreme; ties count against the key.

    Args:
        own: f64[k] values under the own key.
        others: f64[B, k], the same under the decoys.
    """
    return np.asarray(np.log1p((others >= own).sum(0)) - math.log1p(len(others)))


def error_rate(level: float, hits: I64, tests: I64, *, questions: int = 1) -> ErrorRate:
    """The error at a level from the hits i64[k] of k keys among their tests i64[k]; ``questions`` levels share a table."""
    total, count = int(hits.sum()), int(tests.sum())
    effect = 1.0
    if len(hits) > 1 and 0 < total < count:
        share = total / count
        effect = max(1.0, float(np.var(hits - tests * share, ddof=1)) / (float(tests.mean()) * share * (1.0 - share)))
    hit, size = total / effect, count / effect
    low, high = clopper_pearson(hit, size, 1.0 - 2.0 * MISJUDGED / questions)
    verdict = "above" if low > level else "below" if high < level else "agrees"
    return ErrorRate(level, total, count, clopper_pearson(total, count), effect, clopper_pearson(hit, size), verdict)
