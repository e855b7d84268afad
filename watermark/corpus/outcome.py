"""From merged sketches to exact tests: the corpus under each key, and the documents that stand out.

Two families are corrected, each at half of alpha (a factor 2 in both), so that alpha bounds the chance of any false claim of
the run: the corpus tests, one a candidate; and all documents under all candidates. The lists hold the best documents only;
Holm counts the others as larger than all given, which can only raise a corrected p-value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from wmcheck.watermark.core.multiplicity import e_bh
from wmcheck.watermark.core.results import LOG10, Detection, Verdict
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Counts, Ranked, Totals, Unit, unfixed
from wmcheck.watermark.detect import CORPUS, Detector, Tested, correct
from wmcheck.watermark.screen import RECORDED

SCHEMA = "wmcheck.corpus/1"
FAMILIES = 2


@dataclass(frozen=True)
class Outcome:
    """The results of a corpus.

    Attributes:
        settings: of the scan.
        units: counts of each unit.
        tests: the corpus test of each candidate, corrected.
        documents: the best documents of all candidates, corrected, smallest p first.
        named: which of them e-BH names at ``alpha``.
        log_e_any: of each candidate, natural log of an e-value against "no document is marked": the mean over documents, of
            which those outside the list count 0. None where the null law has no experts.
        tails: of each candidate, how many documents have ``floor(-log10 p) = k``, by k.
        below: of each candidate, how many documents at least have a p-value below the Bonferroni bar of the run.
        alpha: of the run.
        missing: tasks without a sketch.
    """

    settings: Settings
    units: Mapping[str, tuple[Unit, Counts]]
    tests: tuple[Detection, ...]
    documents: tuple[Detection, ...]
    named: tuple[bool, ...]
    log_e_any: tuple[float | None, ...]
    tails: tuple[Mapping[int, int], ...]
    below: tuple[int, ...]
    alpha: float
    missing: int

    @property
    def counted(self) -> int:
        """Documents tested."""
        return sum(counts.documents for _, counts in self.units.values())

    @property
    def failures(self) -> list[str]:
        """Sources that could not be read to their end, and why."""
        return [counts.failure for _, (_, counts) in sorted(self.units.items()) if counts.failure]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object under schema ``wmcheck.corpus/1``, without ``run``."""
        counts = [counts for _, counts in self.units.values()]
        rate = self.settings.sample
        return {
            "schema": SCHEMA, "complete": not self.missing, "missing_tasks": self.missing, "alpha": self.alpha,
            "settings": self.settings.digest, "sample": rate, "sample_documents": self.settings.documents,
            "counts": {
                "units": len(counts), "documents": self.counted, "skipped": sum(one.skipped for one in counts),
                "left_out": sum(one.passed for one in counts), "tokens": sum(one.tokens for one in counts),
                "bytes": sum(one.read for one in counts),
                "ids_unlike_text": sum(one.unlike for one in counts), "unreadable": self.failures,
            },
            "corpus": [self._corpus(which) for which in range(len(self.tests))],
            "documents": [
                {**test.to_dict(self.alpha), "e_bh": named} for test, named in zip(self.documents, self.named, strict=True)
            ],
            "documents_kept": self.settings.top,
        }

    def _corpus(self, which: int) -> dict[str, Any]:
        counts = [counts for _, counts in self.units.values()]
        group, log_e, tails = self.settings.set_of(which), self.log_e_any[which], self.tails[which]
        return {
            **self.tests[which].to_dict(self.alpha),
            "sampled": {
                "rate": self.settings.sample, "items": sum(one.scored[which] for one in counts),
                "kept": sum(one.sampled[group] for one in counts), "distinct": self.tests[which].n_scored,
            },
            "log10_e_any_document": None if log_e is None else log_e / LOG10,
            "documents_below_bar": self.below[which], "documents_by_log10_p": {str(k): tails[k] for k in sorted(tails)},
        }


def outcome(
    settings: Settings, units: Mapping[str, tuple[Unit, Counts]], best: Sequence[Sequence[Ranked]], totals: Totals, *,
    alpha: float, missing: int = 0,
) -> Outcome:
    """The corrected tests of what sketches hold.

    Args:
        settings, units, best: of the merged sketches.
        totals: exact sums over distinct items.
        alpha: chance of any false claim.
        missing: tasks whose sketches are not there.
    """
    counts = [found for _, found in units.values()]
    many, documents = len(settings.named), sum(one.documents for one in counts)
    tests = correct([_corpus_test(settings, which, counts, totals) for which in range(many)], family=FAMILIES * many)
    starts = _line_starts(units)
    ranked = [(which, one) for which, found in enumerate(best) for one in found]
    singles = [test for which, found in enumerate(best) for test in _document_tests(settings, which, found, units, starts)]
    family = max(FAMILIES * many * documents, 1)
    corrected = correct(singles, family=family)
    log_e = np.array([-np.inf if one.log_e is None else one.log_e for _, one in ranked])
    named = e_bh(log_e, alpha, family=max(many * documents, len(ranked)))
    order = sorted(range(len(ranked)), key=lambda i: (ranked[i][1].log_p, ranked[i][0], ranked[i][1].place))
    bar = math.ceil(math.log10(family) - math.log10(alpha))
    tails: tuple[Counter[int], ...] = tuple(Counter() for _ in range(many))
    for one in counts:
        for held, added in zip(tails, one.tails, strict=True):
            held.update(added)
    below = tuple(sum(count for depth, count in held.items() if depth >= bar) for held in tails)
    return Outcome(
        settings, units, tuple(tests), tuple(corrected[i] for i in order), tuple(bool(named[i]) for i in order),
        tuple(_any(found, documents) for found in best), tails, below, alpha, missing,
    )


def _corpus_test(settings: Settings, which: int, counts: Sequence[Counts], totals: Totals) -> Detection:
    candidate = settings.candidates[which]
    group = settings.set_of(which)
    n, total = totals.distinct[group], unfixed(totals.sums[which])
    sums, many = np.array([total]), np.array([n])
    log_p = candidate.profile.scheme.null().log_sf(sums, many)
    repeats = sum(one.repeated[which] for one in counts) + sum(one.sampled[group] for one in counts) - n
    evidence = Evidence(sums, many, log_p)
    tested = Tested(evidence, np.array([repeats]), np.array([sum(one.excluded[which] for one in counts)]))
    sources = sorted({source for one in counts for source in one.sources}) or [RECORDED]
    test = Detector([candidate], corpus=False).detections([tested], 0, document=CORPUS, tokens=" and ".join(sources))[0]
    sampled = [
        f"{what} are a sample, 1 in {rate}, chosen by an unkeyed hash of the {by}"
        for what, by, rate in (("documents", "text", settings.documents), ("items", "n-gram", settings.sample)) if rate > 1
    ]
    return replace(test, assumptions=(*test.assumptions, *sampled))


def _document_tests(
    settings: Settings, which: int, found: Sequence[Ranked], units: Mapping[str, tuple[Unit, Counts]],
    starts: Mapping[str, int | None],
) -> list[Detection]:
    if not found:
        return []
    candidate = settings.candidates[which]
    totals, n, log_p, repeated, excluded = (
        np.array([getattr(one, name) for one in found]) for name in ("total", "n", "log_p", "repeated", "excluded")
    )
    log_e = None if any(one.log_e is None for one in found) else np.array([one.log_e for one in found], np.float64)
    tested = Tested(Evidence(totals, n, log_p, log_e), repeated, excluded)
    detector = Detector([candidate], corpus=False)
    return [
        detector.detections(
            [tested], i, document=one.record, where=_where(one, units[one.unit][0], starts[one.unit]), tokens=one.tokens
        )[0]
        for i, one in enumerate(found)
    ]


def _where(one: Ranked, unit: Unit, before: int | None) -> str:
    """File and line; where ranges before it are missing, the byte that its range begins at and the line from there."""
    if before is None:
        return f"{unit.path}@{unit.start}:{one.line}"
    return f"{unit.path}:{before + one.line}"


def _line_starts(units: Mapping[str, tuple[Unit, Counts]]) -> dict[str, int | None]:
    """Lines of a file before each of its units; None where a range before it is not known or was not read to its end."""
    found: dict[str, int | None] = {}
    path, reached, lines = "", 0, 0
    known = True
    for unit, counts in sorted(units.values(), key=lambda pair: (pair[0].path, pair[0].start)):
        if unit.path != path:
            path, reached, lines, known = unit.path, 0, 0, True
        known = known and unit.start == reached
        found[unit.name] = lines if known else None
        reached, lines = unit.stop, lines + counts.lines
        known = known and not counts.failure
    return found


def _any(found: Sequence[Ranked], documents: int) -> float | None:
    values = [one.log_e for one in found if one.log_e is not None]
    if not values or len(values) < len(found):
        return None
    return float(logsumexp(values)) - math.log(documents)


def verdicts(result: Outcome) -> list[Verdict]:
    """Of the corpus tests and of the documents, in this order."""
    return [test.verdict(result.alpha) for test in (*result.tests, *result.documents)]
